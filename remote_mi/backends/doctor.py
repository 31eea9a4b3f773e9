"""Diagnosing this machine and a backend.

Each check has a deadline, and a failing one does not stop the others. Nothing here imports torch
unless a model is given, and no key is ever part of a finding.
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
from remote_mi.store.environment import PACKAGES, installed_version

_ENOUGH_BYTES = 2 << 30


def diagnose(kind: BackendKind, where: str, model: str | None = None) -> Iterator[Check]:
    """Run all checks in order, yielding each as it finishes.

    Args:
        kind, where: the backend. model: a model to check too, as `--model` takes it.

    Raises:
        UsageError: if there can be no such backend or model.
    """
    spec = ModelSpec(model) if model else None
    return _all_checks(kind.checks(where, spec))


def _all_checks(backend_checks: Iterator[Check]) -> Iterator[Check]:
    yield from run_check("Python", QUICK_S, _python)
    yield from run_check("packages", QUICK_S, _packages)
    yield from run_check("cache", QUICK_S, lambda: _folder("cache", cache_root(), _ENOUGH_BYTES))
    yield from run_check("project", QUICK_S, lambda: _folder("project", project_folder(), 0))
    yield from run_check("embedded model", QUICK_S, _embedded)
    yield from backend_checks


def _python() -> list[Check]:
    return [
        Check(
            "Python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
        )
    ]


def _packages() -> list[Check]:
    versions = {name: installed_version(name) for name in ("remote_mi", *PACKAGES)}
    missing = [name for name, version in versions.items() if version == "none"]
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing:
        return [Check("packages", "problem", found, f"pip install {' '.join(missing)}")]
    return [Check("packages", "ok", found)]


def _folder(name: str, folder: Path, room: int) -> list[Check]:
    """Whether files can be created in a folder, or in its nearest existing parent; leaves none."""
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
