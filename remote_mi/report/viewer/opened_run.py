"""A run as the viewer opens it: at once, whatever its size, and whatever is wrong with it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from remote_mi.common.errors import Mismatch, RemoteMIError
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.report.kinds.registry import kind_of
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder, id8_from_name
from remote_mi.store.run_info import ARRAYS, RunInfo

#: Runs with more bytes of arrays are shown first and checked against their hash meanwhile.
CHECKED_AT_ONCE = 32 << 20
#: Kinds of numbers of a safetensors file that numpy has, too.
_KINDS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_AROUND = 3


class LazyArrays(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file, of which only what is looked at is read.

    Raises:
        Mismatch: if the file is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[str, np.ndarray] = {}
        try:
            with safe_open(path, framework="numpy"):
                pass  # its checks of the header: no array outside the file, none over another
            with path.open("rb") as handle:
                length = int.from_bytes(handle.read(8), "little")
                self._header = json.loads(handle.read(length))
        except (OSError, ValueError, SafetensorError) as error:
            raise Mismatch(f"{path} is damaged: {error}", "run the job again") from None
        self._header.pop("__metadata__", None)
        self._start = 8 + length

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._made:
            self._made[name] = self._map(self._header[name])
        return self._made[name]

    def _map(self, entry: Mapping[str, Any]) -> np.ndarray:
        """One array, whose pages are read when they are touched."""
        kind, (first, last) = _KINDS.get(entry["dtype"]), entry["data_offsets"]
        if kind is None:
            raise Mismatch(f"{self._path} holds {line(str(entry['dtype']))}, which numpy has not")
        if first == last:
            return np.zeros(entry["shape"], kind)
        try:
            return np.memmap(
                self._path, kind, "r", self._start + first, tuple(entry["shape"]) or 1
            ).reshape(entry["shape"])
        except (OSError, ValueError) as error:
            raise Mismatch(f"{self._path} is damaged: {error}", "run the job again") from None

    def __contains__(self, name: object) -> bool:
        return name in self._header

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)


@dataclass
class Opened:
    """A run that is shown.

    Attributes:
        folder: of the run. info: what its run.json says; None where that cannot be read.
        result: None for a run that failed or is damaged.
        problem: what is wrong with it, "" for a run that is done. advice: what to do about it.
        unchecked: whether its arrays have yet to be checked against their hash.
    """

    folder: Path
    # A result's own text is all of its figures: not for a log.
    info: RunInfo | None = field(default=None, repr=False)
    result: Result | None = field(default=None, repr=False)
    problem: str = ""
    advice: str = ""
    unchecked: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def id8(self) -> str:
        return id8_from_name(self.name)

    @property
    def named(self) -> str:
        """How a command finds it."""
        return named(self.folder)

    @property
    def failed(self) -> bool:
        """Whether the job failed, so that there never were numbers."""
        return self.info is not None and self.info.failed

    @property
    def said(self) -> str:
        """The server's words about a failure."""
        return (self.info and self.info.made.record.server_said) or ""


def named(folder: Path) -> str:
    """How a command finds a run: by its id in the project, by its folder anywhere else."""
    ours = folder.parent == project_folder() / "runs"
    return shlex.quote(id8_from_name(folder.name) if ours else str(folder))


def open_run(folder: Path) -> Opened:
    """Open a run by its folder; what is wrong with it is told in what comes back."""
    run, opened = RunFolder(folder), Opened(folder)
    try:
        opened.info = run.info
        if opened.failed:
            opened.problem = opened.info.error or "the job failed"
            opened.advice = "mend the cause and run it again"
            return opened
        path = run.arrays_file
        if path.is_file() and path.stat().st_size > CHECKED_AT_ONCE:
            opened.result, opened.unchecked = run.result(LazyArrays(path)), True
        else:
            opened.result = run.result()
        for figure in opened.result.figures:
            kind_of(figure)
    except RemoteMIError as error:  # damaged, or of a figure that nothing shows
        opened.result, opened.unchecked = None, False
        opened.problem, opened.advice = error.message, error.hint or ""
    return opened


def check(opened: Opened) -> str:
    """Hold the arrays of a run against their hash; what is wrong, "" if nothing is."""
    for part, problem in RunFolder(opened.folder).changed_files(ARRAYS):
        return f"{opened.folder / part} {problem}"
    return ""


def excerpt(opened: Opened) -> list[str]:
    """The lines of the recipe around the one that an error names; [] if it names none."""
    found = re.search(r"([\w./-]+\.py):(\d+)", opened.problem)
    if found is None:
        return []
    number = int(found[2])
    path = RunFolder(opened.folder).sources / Path(found[1]).name
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
