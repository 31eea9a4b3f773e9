"""One run's folder: what lies in it, and whether it is as it was made."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.errors import Mismatch
from remote_mi.store.arrays import arrays_from_bytes
from remote_mi.store.lock import read_lock
from remote_mi.store.result import Result
from remote_mi.store.run_info import (
    ARRAYS,
    RUN_JSON,
    DamagedRun,
    RunInfo,
    read_info,
    read_json,
)
from remote_mi.store.typed_json import WrongJson

SOURCE = "source"
_CHUNK = 4 << 20


@dataclass(frozen=True)
class RunFolder:
    """A run by its folder, wherever that lies; each of its files is read when it is asked for.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def id8(self) -> str:
        """The eight digits that end its name."""
        return id8_in(self.name)

    @property
    def is_run(self) -> bool:
        """Whether it is the folder of a run, in whatever state."""
        return (self.path / RUN_JSON).is_file()

    @property
    def data(self) -> dict[str, Any]:
        """run.json as it is; see `read_json`."""
        return read_json(self.path / RUN_JSON)

    @functools.cached_property
    def info(self) -> RunInfo:
        """What run.json says, checked; see `read_info`."""
        return read_info(self.path / RUN_JSON)

    @property
    def lock(self) -> Mapping[str, Any]:
        """The job as it was written down; {} where that cannot be read."""
        return read_lock(self.path)

    @property
    def arrays_file(self) -> Path:
        return self.path / ARRAYS

    @property
    def sources(self) -> Path:
        """Folder of the recipe's source, as it was run."""
        return self.path / SOURCE

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, checked against their hash.

        Raises:
            Mismatch: if they are damaged.
        """
        path = self.arrays_file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Mismatch(f"{path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != self.info.artifacts.get(ARRAYS):
            raise _changed(path, "run the job again")
        return arrays_from_bytes(content, path)

    def result(self, arrays: Mapping[str, np.ndarray] | None = None) -> Result:
        """The run's result.

        Args:
            arrays: taken in place of its own, which are checked against their hash.

        Raises:
            Mismatch: if something is damaged, a `DamagedRun` for run.json.
        """
        info = self.info
        if arrays is None:
            arrays = self.arrays()
        try:
            info.check_arrays(arrays)
        except WrongJson as error:
            raise DamagedRun(self.path / RUN_JSON, error.where, error.what) from None
        return Result(info.recipe, info.document, arrays, info.provenance, self.name, self.path)

    def check(self) -> None:
        """Read the run and hash every file of it whose hash is recorded.

        Raises:
            Mismatch: naming the first file that is not what it was.
        """
        self.result()
        for part, problem in self.changed():
            raise Mismatch(f"{self.path / part} {problem}")

    def changed(self, *parts: str) -> Iterator[tuple[str, str]]:
        """Each file that is not as it was recorded, and what is wrong with it.

        Args:
            parts: those that are looked at; all whose hash is recorded by default.
        """
        for part in parts or self.info.artifacts:
            path = self.path / part
            try:
                digest = _digest(path)
            except OSError as error:
                yield part, f"cannot be read: {error.strerror}"
                continue
            if digest != self.info.artifacts.get(part):
                yield part, "is damaged: its SHA-256 is not the recorded one"


def id8_in(name: str) -> str:
    """The eight digits that end the name of a run; "" of no name."""
    return name.rsplit("-", 1)[-1]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _changed(path: Path, hint: str) -> Mismatch:
    return Mismatch(f"{path} is damaged: its SHA-256 is not the recorded one", hint)
