"""The results cache: content-addressed bytes, and under each key one entry per environment.

    ac/<2>/<key>/<environment>.json   an entry: which bytes, computed where, by which versions
    cas/<2>/<sha256>                  bytes
    tmp/, quarantine/                 writes under way; what did not match its hash
    index.sqlite                      what lists and explanations read; made again when it is lost

Bytes are written first and the entry last, so an entry's bytes exist. Every read checks hashes;
what does not match goes to quarantine and counts as absent. No lock is needed for correctness:
two writers of one key write the same names, each by rename. When an entry was last used is the
time of its file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.atomic_files import store_error, write_atomically
from remote_mi.common.digests import digest
from remote_mi.common.errors import Mismatch
from remote_mi.store.arrays import arrays_from_bytes, arrays_to_bytes
from remote_mi.store.environment import Environment

SCHEMA = 1


@dataclass(frozen=True)
class CacheEntry:
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

    def blob_path(self, sha: str) -> Path:
        """Where the bytes of this SHA-256 are, or would be."""
        return self.root / "cas" / sha[:2] / sha

    def get(self, key: str, environment: Environment) -> CacheEntry | None:
        """The entry of this key and environment, checked; None when absent or damaged."""
        path = self._entry_path(key, environment)
        try:
            entry = self.read_checked(path)
        except FileNotFoundError:
            return None
        except Damaged:
            self.quarantine(path)
            return None
        _touch(path)  # used now: the least recently used ones go first
        return entry

    def holds(self, key: str, environment: Environment) -> bool:
        """Whether there is an entry, unread and unchecked; for plans of thousands of jobs."""
        return self._entry_path(key, environment).exists()

    def read_checked(self, path: Path) -> CacheEntry:
        """The entry in a file, with its bytes.

        Raises:
            FileNotFoundError: if there is none. Damaged: if it, or bytes it names, are not whole.
        """
        data = read_entry(path)
        try:
            document = json.loads(self._blob(data["document"]))
            arrays = arrays_from_bytes(self._blob(data["arrays"]), path)
            return CacheEntry(
                data["key"], Environment(**data["environment"]), document, arrays, data["record"]
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, Mismatch) as error:
            raise Damaged(f"{path} cannot be read: {error!r}") from None

    def put(
        self,
        key: str,
        environment: Environment,
        document: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        record: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a result; an entry of the same key and environment is replaced.

        Args:
            about: what the key was made of, as `remote_mi.jobs.job.Job.about`, to explain a miss by.

        Raises:
            StoreError: if the disk is full or the folder cannot be written; the cache stays valid.
        """
        blobs = {
            "document": json.dumps(document, sort_keys=True).encode(),
            "arrays": arrays_to_bytes(arrays),
        }
        described = dict(about or {})
        if "code_parts" in described:  # long, and the same for all results of one recipe
            parts = described.pop("code_parts")
            blobs["code_parts"] = json.dumps(parts, sort_keys=True).encode()
        try:
            named = {name: self._keep(content) for name, content in blobs.items()}
            entry = {
                "schema": SCHEMA,
                "key": key,
                "environment": environment.to_json(),
                "document": named["document"],
                "arrays": named["arrays"],
                "record": dict(record),
                "time": time.time(),
            }
            if about:
                entry["about"] = {**described, "code_parts": named.get("code_parts")}
            entry = json.loads(json.dumps(entry))  # the check is of what will be read
            entry["check"] = digest(entry)
            content = json.dumps(entry, sort_keys=True).encode()
            write_atomically(self._entry_path(key, environment), content, self.root / "tmp")
            for name, sha in named.items():
                # Taken for nobody's and removed by a `gc`, in the moment before the entry named it.
                if not self.blob_path(sha).exists():
                    self._keep(blobs[name])
        except OSError as error:
            raise store_error(error, self.root, "the result") from error

    def environments(self, key: str) -> list[Environment]:
        """Where results of this key were computed, the newest first."""
        found = []
        for path in (self.root / "ac" / key[:2] / key).glob("*.json"):
            try:
                data = read_entry(path)
                found.append((data["time"], Environment(**data["environment"])))
            except (OSError, Damaged, KeyError, TypeError):
                continue
        return [where for _, where in sorted(found, key=lambda one: -one[0])]

    def entry_paths(self) -> Iterator[Path]:
        """The files of all entries."""
        return (self.root / "ac").glob("*/*/*.json")

    def blob_paths(self) -> Iterator[Path]:
        """The files of all bytes."""
        return (self.root / "cas").glob("*/*")

    def code_parts(self, about: Mapping[str, Any]) -> dict[str, str]:
        """The parts of the code in an entry's `about`; {} if they are not known."""
        try:
            return json.loads(self._blob(about["code_parts"]))
        except (KeyError, TypeError, ValueError, OSError, Damaged):
            return {}

    def _keep(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        path = self.blob_path(sha)
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == sha:
                _touch(path)  # an entry will name it in a moment: not to be tidied up now
                return sha
            self.quarantine(path)
        except FileNotFoundError:
            pass
        return write_atomically(path, content, self.root / "tmp")

    def _blob(self, sha: str) -> bytes:
        path = self.blob_path(sha)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{path} is missing") from None
        if hashlib.sha256(content).hexdigest() != sha:
            self.quarantine(path)
            raise Damaged(f"{path} is not what its name says")
        return content

    def quarantine(self, path: Path) -> None:
        """Move a file aside, so that it is never read again and can still be looked at."""
        aside = self.root / "quarantine"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            path.replace(aside / f"{int(time.time())}-{uuid.uuid4().hex[:8]}-{path.name}")
        except OSError:
            pass  # a read-only cache: the caller computes again all the same


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        pass  # a cache that cannot be written is read all the same


class Damaged(Exception):
    """Bytes are missing or do not match their hash."""


def read_entry(path: Path) -> dict[str, Any]:
    """The JSON of an entry's file, checked as far as it goes; its bytes are not read.

    Raises:
        FileNotFoundError: if there is none, or one of another schema.
        Damaged: if it is not whole, or of another key or environment than its name says.
    """
    try:
        data = json.loads(path.read_bytes())
        check = data.pop("check", None)  # entries of earlier versions have none
        if data["schema"] != SCHEMA:
            raise FileNotFoundError(f"{path} is of another version")
        whole = (
            data["key"] == path.parent.name
            and Environment(**data["environment"]).id == path.stem
            and (check is None or check == digest(data))
        )
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} cannot be read: {error!r}") from None
    if not whole:
        raise Damaged(f"{path} does not match its check")
    return data
