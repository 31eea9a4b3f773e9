"""One run's folder: reading its files, and checking that they are unchanged."""

from __future__ import annotations

import functools
import hashlib
import os
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
    """A run's folder, in a project or anywhere else; files are read on demand.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def id8(self) -> str:
        """The eight hex digits at the end of its name."""
        return id8_from_name(self.name)

    @property
    def is_run(self) -> bool:
        """Whether this is the folder of a run, in any state."""
        # A text that a user gave may be no possible path: too long, or with a null byte.
        return os.path.isfile(self.path / RUN_JSON)

    @property
    def data(self) -> dict[str, Any]:
        """run.json as it is; see `read_json`."""
        return read_json(self.path / RUN_JSON)

    @functools.cached_property
    def info(self) -> RunInfo:
        """The checked content of run.json; see `read_info`."""
        return read_info(self.path / RUN_JSON)

    @property
    def lock(self) -> Mapping[str, Any]:
        """The recorded job; {} if it cannot be read."""
        return read_lock(self.path)

    @property
    def arrays_file(self) -> Path:
        return self.path / ARRAYS

    @property
    def sources(self) -> Path:
        """Folder with a copy of the recipe's source as it was run."""
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
            raise _hash_mismatch(path, "run the job again")
        return arrays_from_bytes(content, path)

    def result(self, arrays: Mapping[str, np.ndarray] | None = None) -> Result:
        """The run's result.

        Args:
            arrays: used instead of the stored ones, which are checked against their hash.

        Raises:
            Mismatch: if a file is damaged; a `DamagedRun` for run.json.
        """
        info = self.info
        if arrays is None:
            arrays = self.arrays()
        try:
            info.check(arrays)
        except WrongJson as error:
            raise DamagedRun(self.path / RUN_JSON, error.where, error.what) from None
        return Result(info.recipe, info.document, arrays, info.provenance, self.name, self.path)

    def check(self) -> None:
        """Read the run and check every file that has a recorded hash.

        Raises:
            Mismatch: naming the first file that has changed.
        """
        self.result()
        for part, problem in self.changed_files():
            raise Mismatch(f"{self.path / part} {problem}")

    def changed_files(self, *parts: str) -> Iterator[tuple[str, str]]:
        """Each file that differs from its recorded hash, and what is wrong with it.

        Args:
            parts: the files to check; by default all that have a recorded hash.
        """
        for part in parts or self.info.artifacts:
            path = self.path / part
            try:
                digest = _file_digest(path)
            except OSError as error:
                yield part, f"cannot be read: {error.strerror}"
                continue
            if digest != self.info.artifacts.get(part):
                yield part, "is damaged: its SHA-256 is not the recorded one"


def id8_from_name(name: str) -> str:
    """The eight hex digits at the end of a run's name; "" for an empty name."""
    return name.rsplit("-", 1)[-1]


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_mismatch(path: Path, hint: str) -> Mismatch:
    return Mismatch(f"{path} is damaged: its SHA-256 is not the recorded one", hint)
