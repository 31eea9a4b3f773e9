"""Whether everything is right: this machine, and a backend with what it needs.

Each check has a deadline, and none that fails stops the others. Nothing here imports torch unless
a model is asked for, and no key is part of what is found.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from remote_mi.backends.checking import QUICK_S, Check, run_check
from remote_mi.backends.kind import BackendKind
from remote_mi.common.paths import cache_root, project_folder
from remote_mi.models import embedded
from remote_mi.models.spec import ModelSpec
from remote_mi.store.environment import PACKAGES, installed

_ROOM_BYTES = 2 << 30


def diagnose(kind: BackendKind, where: str, model: str | None = None) -> Iterator[Check]:
    """Look at everything, in order; each check as it is done.

    Args:
        kind, where: the backend. model: to look at too, as `--model` takes it.

    Raises:
        UsageError: if the backend or the model that was asked for cannot be one.
    """
    spec = ModelSpec(model) if model else None
    return _diagnosed(kind.checks(where, spec))


def _diagnosed(there: Iterator[Check]) -> Iterator[Check]:
    yield from run_check("Python", QUICK_S, _python)
    yield from run_check("packages", QUICK_S, _packages)
    yield from run_check("cache", QUICK_S, lambda: _folder("cache", cache_root(), _ROOM_BYTES))
    yield from run_check("project", QUICK_S, lambda: _folder("project", project_folder(), 0))
    yield from run_check("embedded model", QUICK_S, _embedded)
    yield from there


def _python() -> list[Check]:
    return [
        Check(
            "Python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
        )
    ]


def _packages() -> list[Check]:
    versions = {name: installed(name) for name in ("remote_mi", *PACKAGES)}
    missing = [name for name, version in versions.items() if version == "none"]
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing:
        return [Check("packages", "problem", found, f"pip install {' '.join(missing)}")]
    return [Check("packages", "ok", found)]


def _folder(name: str, folder: Path, room: int) -> list[Check]:
    """Whether files can be made in a folder, or in the one it would be made in; leaves none."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0")
        free = shutil.disk_usage(existing).free
    except OSError as error:
        variable = "REMOTE_MI_CACHE" if name == "cache" else "REMOTE_MI_PROJECT"
        return [
            Check(
                name,
                "problem",
                f"{folder} cannot be written: {error.strerror or error}",
                f"{variable} names another folder",
            )
        ]
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if free < room:
        return [Check(name, "note", found, "results and models that do not fit are not kept")]
    return [Check(name, "ok", found)]


def _embedded() -> list[Check]:
    if embedded.is_ready():
        return [Check("embedded model", "ok", f"{embedded.EMBEDDED} is in the cache")]
    return [
        Check(
            "embedded model",
            "note",
            f"{embedded.EMBEDDED} is not fetched yet (93 MB)",
            "`remote-mi models fetch`, or the first run that needs it does",
        )
    ]
