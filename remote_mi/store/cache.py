"""The results cache: content-addressed bytes, and under each key one entry per environment.

    ac/<2>/<key>/<environment>.json   an entry: which bytes, computed where, by which versions
    cas/<2>/<sha256>                  bytes
    tmp/, quarantine/                 writes under way; what did not match its hash

Bytes are written first and the entry last, so an entry's bytes exist. Every read checks hashes;
what does not match goes to quarantine and counts as absent. No lock is needed for correctness:
two writers of one key write the same names, each by rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.environment import Environment
from remote_mi.store.files import arrays_from_bytes, arrays_to_bytes, store_error, write_whole

SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """A kept result.

    Attributes:
        key: what was asked; environment: where and by which versions it was computed.
        document: JSON beside the arrays; arrays: by name.
        record: what the backend noted (device, dtype, times, job id).
    """

    key: str
    environment: Environment
    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


class Cache:
    """The cache in a folder; `root` need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _entry_path(self, key: str, environment: Environment) -> Path:
        return self.root / "ac" / key[:2] / key / f"{environment.id}.json"

    def _blob_path(self, sha: str) -> Path:
        return self.root / "cas" / sha[:2] / sha

    def get(self, key: str, environment: Environment) -> Entry | None:
        """The entry of this key and environment, checked; None when absent or damaged."""
        path = self._entry_path(key, environment)
        try:
            data = json.loads(path.read_bytes())
            if data["schema"] != SCHEMA or data["key"] != key:
                return None
            document = self._blob(data["document"])
            arrays = self._blob(data["arrays"])
            found = Environment(**data["environment"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, _Damaged):
            self._quarantine(path)
            return None
        return Entry(
            key, found, json.loads(document), arrays_from_bytes(arrays, path), data["record"]
        )

    def put(
        self,
        key: str,
        environment: Environment,
        document: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        record: Mapping[str, Any],
    ) -> None:
        """Keep a result; an entry of the same key and environment is replaced.

        Raises:
            StoreError: if the disk is full or the folder cannot be written; the cache stays valid.
        """
        try:
            entry = {
                "schema": SCHEMA,
                "key": key,
                "environment": environment.to_json(),
                "document": self._keep(json.dumps(document, sort_keys=True).encode()),
                "arrays": self._keep(arrays_to_bytes(arrays)),
                "record": dict(record),
                "time": time.time(),
            }
            content = json.dumps(entry, sort_keys=True).encode()
            write_whole(self._entry_path(key, environment), content, self.root / "tmp")
        except OSError as error:
            raise store_error(error, self.root, "the result") from error

    def _keep(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        path = self._blob_path(sha)
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == sha:
                return sha
            self._quarantine(path)
        except FileNotFoundError:
            pass
        return write_whole(path, content, self.root / "tmp")

    def _blob(self, sha: str) -> bytes:
        path = self._blob_path(sha)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise _Damaged from None
        if hashlib.sha256(content).hexdigest() != sha:
            self._quarantine(path)
            raise _Damaged
        return content

    def _quarantine(self, path: Path) -> None:
        """Move a file aside, so that it is never read again and can still be looked at."""
        aside = self.root / "quarantine"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            path.replace(aside / f"{int(time.time())}-{os.getpid()}-{path.name}")
        except OSError:
            pass  # a read-only cache: the caller computes again all the same


class _Damaged(Exception):
    """Bytes are missing or do not match their hash."""
