"""A run as the viewer opens it: immediately, whatever its size and even if it is damaged."""

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

#: Runs with more bytes of arrays are shown at once and checked against their hash meanwhile.
CHECKED_AT_ONCE = 32 << 20
#: Data types of safetensors files that numpy supports → numpy's names.
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
    """The arrays of a safetensors file; only the parts that are accessed are read.

    Raises:
        Mismatch: if it is not a valid safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[str, np.ndarray] = {}
        try:
            with safe_open(path, framework="numpy"):
                pass  # validates the header: no array outside the file, no overlaps
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
        """Memory-map one array; its pages are read when accessed."""
        kind, (first, last) = _KINDS.get(entry["dtype"]), entry["data_offsets"]
        if kind is None:
            raise Mismatch(
                f"{self._path} has the data type {line(str(entry['dtype']))}, which numpy lacks"
            )
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
class OpenedRun:
    """A run opened in the viewer.

    Attributes:
        folder: folder of the run. info: content of its run.json; None if it cannot be read.
        result: None for a run that failed or is damaged.
        problem: what is wrong with it, "" for a run that is done. advice: what to do about it.
        unchecked: whether its arrays have yet to be checked against their hash.
    """

    folder: Path
    # A result's repr renders all of its figures, which is too much for a log.
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
    def argument(self) -> str:
        """The argument by which a command finds the run."""
        return run_argument(self.folder)

    @property
    def failed(self) -> bool:
        """Whether the job failed, so that there are no numbers."""
        return self.info is not None and self.info.failed

    @property
    def server_message(self) -> str:
        """The server's message about a failure, or ""."""
        return (self.info and self.info.made.record.server_said) or ""


def run_argument(folder: Path) -> str:
    """The argument by which a command finds a run: its id within the project, else its folder."""
    ours = folder.parent == project_folder() / "runs"
    return shlex.quote(id8_from_name(folder.name) if ours else str(folder))


def open_run(folder: Path) -> OpenedRun:
    """Open the run in a folder; problems are reported in the returned `OpenedRun`."""
    run, opened = RunFolder(folder), OpenedRun(folder)
    try:
        opened.info = run.info
        if opened.failed:
            opened.problem = opened.info.error or "the job failed"
            opened.advice = "fix the cause and run it again"
            return opened
        path = run.arrays_file
        if path.is_file() and path.stat().st_size > CHECKED_AT_ONCE:
            opened.result, opened.unchecked = run.result(LazyArrays(path)), True
        else:
            opened.result = run.result()
        for figure in opened.result.figures:
            kind_of(figure)
    except RemoteMIError as error:  # damaged, or with a figure of an unknown kind
        opened.result, opened.unchecked = None, False
        opened.problem, opened.advice = error.message, error.hint or ""
    return opened


def check_arrays(opened: OpenedRun) -> str:
    """Check the arrays of a run against their hash; returns the problem, or ""."""
    for part, problem in RunFolder(opened.folder).changed_files(ARRAYS):
        return f"{opened.folder / part} {problem}"
    return ""


def recipe_excerpt(opened: OpenedRun) -> list[str]:
    """The lines of the recipe around the one that the error names; [] if it names none."""
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
