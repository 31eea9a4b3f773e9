"""The results cache: content-addressed blobs, and one entry per key and environment.

    ac/<2>/<key>/<environment>.json   an entry: its blobs, and the environment and versions
    cas/<2>/<sha256>                  a blob
    tmp/, quarantine/                 unfinished writes; files that did not match their hash
    index.sqlite                      for lists and explanations; rebuilt if it is lost

Blobs are written before the entry, so an entry's blobs exist. Every read checks hashes; a file
that does not match is moved to quarantine and counts as absent. Correctness needs no lock: two
writers of one key write the same names, each by rename. The modification time of an entry's file
is when it was last used.
"""

from __future__ import annotations

import hashlib
import os
import re
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
from remote_mi.common.valid_json import parse_json, to_json
from remote_mi.store.arrays import arrays_from_bytes, arrays_to_bytes
from remote_mi.store.environment import Environment
from remote_mi.store.typed_json import dataclass_from_json

SCHEMA = 1
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class _EntryFile:
    """The content of an entry's file that is relied on."""

    key: str
    environment: Environment
    document: str
    arrays: str
    record: Mapping[str, Any]
    time: float
    about: Mapping[str, Any] | None = None

    @property
    def blobs(self) -> tuple[str, str]:
        return self.document, self.arrays


@dataclass(frozen=True)
class CacheEntry:
    """A cached result.

    Attributes:
        key: of the job or call; environment: where and by which versions it was computed.
        document: JSON that describes the arrays; arrays: by name.
        record: what the backend recorded (device, dtype, times, job id).
    """

    key: str
    environment: Environment
    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


class Cache:
    """The cache in the folder `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry_path(self, key: str, environment: Environment) -> Path:
        """Path of the entry of a key and environment, whether or not it exists."""
        return self.root / "ac" / key[:2] / key / f"{environment.id}.json"

    def blob_path(self, sha: str) -> Path:
        """Path of the blob with this SHA-256, whether or not it exists."""
        return self.root / "cas" / sha[:2] / sha

    def get(self, key: str, environment: Environment) -> CacheEntry | None:
        """The verified entry of this key and environment; None if absent or damaged."""
        path = self.entry_path(key, environment)
        try:
            entry = self.read_verified(path)
        except FileNotFoundError:
            return None
        except Damaged:
            self.quarantine(path)
            return None
        _touch(path)  # marks it as used: `gc` removes the least recently used first
        return entry

    def contains(self, key: str, environment: Environment) -> bool:
        """Whether an entry exists, without reading or checking it; for plans of many jobs."""
        return self.entry_path(key, environment).exists()

    def read_verified(self, path: Path) -> CacheEntry:
        """The entry in a file, with its blobs.

        Raises:
            FileNotFoundError: if there is none. Damaged: if it or one of its blobs is damaged.
        """
        data = read_entry(path)
        try:
            document = parse_json(self._read_blob(data["document"]))
            arrays = arrays_from_bytes(self._read_blob(data["arrays"]), path)
            return CacheEntry(
                data["key"],
                Environment.from_json(data["environment"]),
                document,
                arrays,
                data["record"],
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
        """Store a result; an entry of the same key and environment is replaced.

        Args:
            about: what the key was made of, as `remote_mi.jobs.job.Job.key_description`, so that
                misses can be explained.

        Raises:
            StoreError: if the disk is full or the folder cannot be written; the cache stays valid.
        """
        blobs = {
            "document": to_json(document, sort_keys=True).encode(),
            "arrays": arrays_to_bytes(arrays),
        }
        described = dict(about or {})
        if "code_parts" in described:  # long, and shared by all results of one recipe
            parts = described.pop("code_parts")
            blobs["code_parts"] = to_json(parts, sort_keys=True).encode()
        try:
            named = {name: self._write_blob(content) for name, content in blobs.items()}
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
            entry = parse_json(to_json(entry))  # so that the check is of what will be read
            entry["check"] = digest(entry)
            content = to_json(entry, sort_keys=True).encode()
            write_atomically(self.entry_path(key, environment), content, self.root / "tmp")
            for name, sha in named.items():
                # A concurrent `gc` may have removed it as unreferenced before the entry existed.
                if not self.blob_path(sha).exists():
                    self._write_blob(blobs[name])
        except OSError as error:
            raise store_error(error, self.root, "the result") from error

    def environments(self, key: str) -> list[Environment]:
        """The environments in which this key was computed, newest first."""
        dated = []
        for path in (self.root / "ac" / key[:2] / key).glob("*.json"):
            try:
                data = read_entry(path)
                dated.append((data["time"], Environment.from_json(data["environment"])))
            except (OSError, Damaged, KeyError, TypeError):
                continue
        return [environment for _, environment in sorted(dated, key=lambda pair: -pair[0])]

    def entry_paths(self) -> Iterator[Path]:
        """The files of all entries."""
        return (self.root / "ac").glob("*/*/*.json")

    def blob_paths(self) -> Iterator[Path]:
        """The files of all blobs."""
        return (self.root / "cas").glob("*/*")

    def code_parts(self, about: Mapping[str, Any]) -> dict[str, str]:
        """The digests of the code parts that an entry's `about` refers to; {} if not known."""
        try:
            parts = parse_json(self._read_blob(about["code_parts"]))
            return parts if isinstance(parts, dict) else {}
        except (KeyError, TypeError, ValueError, OSError, Damaged):
            return {}

    def _write_blob(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        path = self.blob_path(sha)
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == sha:
                _touch(path)  # an entry will refer to it in a moment: `gc` must not remove it
                return sha
            self.quarantine(path)
        except FileNotFoundError:
            pass
        return write_atomically(path, content, self.root / "tmp")

    def _read_blob(self, sha: str) -> bytes:
        if not _SHA256.fullmatch(sha):
            raise Damaged(f"{sha!r:.80} is not the name of a blob")
        path = self.blob_path(sha)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{path} is missing") from None
        if hashlib.sha256(content).hexdigest() != sha:
            self.quarantine(path)
            raise Damaged(f"{path} does not have the SHA-256 of its name")
        return content

    def quarantine(self, path: Path) -> None:
        """Move a file to quarantine/, where it is never read but can still be inspected."""
        aside = self.root / "quarantine"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            path.replace(aside / f"{int(time.time())}-{uuid.uuid4().hex[:8]}-{path.name}")
        except OSError:
            pass  # a read-only cache: the caller recomputes anyway


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        pass  # a read-only cache can still be read


class Damaged(Exception):
    """Bytes are missing or do not match their hash."""


def read_entry(path: Path) -> dict[str, Any]:
    """The checked JSON of an entry's file, without reading its blobs.

    Raises:
        FileNotFoundError: if there is none, or it has another schema.
        Damaged: if it is invalid, or its key or environment does not match its path.
    """
    try:
        data = parse_json(path.read_bytes())
        check = data.pop("check", None)  # entries of earlier versions have none
        if data["schema"] != SCHEMA:
            raise FileNotFoundError(f"{path} has another schema")
        found = dataclass_from_json(_EntryFile, data, "")
        valid = (
            found.key == path.parent.name
            and found.environment.id == path.stem
            # Each names a file, which is moved aside if its content is another.
            and all(_SHA256.fullmatch(sha) for sha in found.blobs)
            and (check is None or check == digest(data))
        )
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} cannot be read: {error!r}") from None
    if not valid:
        raise Damaged(f"{path} does not match its check")
    return data
