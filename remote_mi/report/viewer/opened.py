"""A run as the viewer opens it: at once, whatever its size, and whatever is wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from remote_mi.errors import Mismatch
from remote_mi.opening import runs_beside
from remote_mi.report.text import line
from remote_mi.results import Result

#: Runs with more bytes of arrays are shown first and checked against their hash meanwhile.
CHECKED_AT_ONCE = 32 << 20
_ARRAYS = "artifacts/result.safetensors"
_CHUNK = 4 << 20
_AROUND = 3
_LONGEST_LOCK = 16 << 20


class LazyArrays(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file, each read when it is asked for.

    Raises:
        Mismatch: if the file is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[str, np.ndarray] = {}
        try:
            self._file = safe_open(path, framework="numpy")
            self._names = list(self._file.keys())
        except (OSError, SafetensorError) as error:
            raise Mismatch(f"{path} is damaged: {error}", "run the job again") from None

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            if name not in self._names:
                raise KeyError(name)
            try:
                self._read[name] = self._file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise Mismatch(f"{self._path} is damaged: {error}", "run the job again") from None
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass
class Opened:
    """A run that is shown.

    Attributes:
        folder: of the run. info: its run.json, {} where that cannot be read.
        result: None for a run that failed or is damaged.
        problem: what is wrong with it, "" for a run that is done. advice: what to do about it.
        unchecked: whether its arrays have yet to be checked against their hash.
    """

    folder: Path
    # A result's own text is all of its figures: not for a log.
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)
    result: Result | None = field(default=None, repr=False)
    problem: str = ""
    advice: str = ""
    unchecked: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def id8(self) -> str:
        return self.name.rsplit("-", 1)[-1]

    @property
    def failed(self) -> bool:
        """Whether the job failed, so that there never were numbers."""
        return self.info.get("status") == "failed"

    @property
    def said(self) -> str:
        """The server's words about a failure."""
        record = self.info.get("provenance", {}).get("record", {})
        return str(record.get("server_said") or "")

    def lock(self) -> Mapping[str, Any]:
        """The job as it was written down; {} where it cannot be read."""
        import yaml  # slow to import, and not needed to open

        path = self.folder / "config.lock.yaml"
        try:
            if path.stat().st_size > _LONGEST_LOCK:
                return {}
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            found = yaml.load(path.read_bytes(), loader)  # a safe loader, and the quicker one
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}


def open_run(folder: Path) -> Opened:
    """Open a run by its folder; what is wrong with it is told in what comes back."""
    runs = runs_beside(folder)
    opened = Opened(folder)
    try:
        opened.info = runs.read_info(folder.name)
        if opened.failed:
            opened.problem = str(opened.info.get("error") or "the job failed")
            opened.advice = "mend the cause and run it again"
            return opened
        path = folder / _ARRAYS
        if path.is_file() and path.stat().st_size > CHECKED_AT_ONCE:
            info = opened.info
            opened.result = Result(info["recipe"], info["document"], LazyArrays(path),
                                   info["provenance"], folder.name, folder)  # fmt: skip
            opened.unchecked = True
        else:
            opened.result = runs.read(folder.name)
    except Mismatch as error:
        opened.problem, opened.advice = error.message, error.hint or ""
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        opened.problem = f"{folder / 'run.json'} is damaged: {error!r}"
        opened.advice = "run the job again"
    return opened


def check(opened: Opened) -> str:
    """Hold the arrays of a run against their hash; what is wrong, "" if nothing is."""
    path = opened.folder / _ARRAYS
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if digest.hexdigest() != opened.info.get("artifacts", {}).get(_ARRAYS):
        return f"{path} is damaged: its SHA-256 is not the recorded one"
    return ""


def excerpt(opened: Opened) -> list[str]:
    """The lines of the recipe around the one that an error names; [] if it names none."""
    found = re.search(r"([\w./-]+\.py):(\d+)", opened.problem)
    if found is None:
        return []
    number = int(found[2])
    path = opened.folder / "source" / Path(found[1]).name
    try:
        with path.open(errors="replace") as handle:
            lines = handle.read(1 << 20).splitlines()
    except OSError:
        return []
    first = max(1, number - _AROUND)
    return [
        f"{'▸' if at == number else ' '} {at:4d} │ {line(lines[at - 1])}"
        for at in range(first, min(number + _AROUND, len(lines)) + 1)
    ]
