"""Maintaining a cache: verifying its files, and removing entries when it grows too large.

Neither needs a lock. A process that reads an entry while it is removed gets a miss. Blobs that no
entry refers to may belong to an unfinished write, so recent ones are kept.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from remote_mi.common.errors import Mismatch
from remote_mi.common.progress import Watch
from remote_mi.store.cache import Cache, Damaged
from remote_mi.store.cache_index import CacheIndex, EntryRow
from remote_mi.store.runs import Runs


@dataclass(frozen=True)
class CacheCheck:
    """The outcome of `verify`.

    Attributes:
        entries, blobs: how many were read, including damaged ones.
        damaged: file, relative to the cache → what is wrong with it; it was moved to quarantine/.
    """

    entries: int
    blobs: int
    damaged: dict[str, str]


def verify(cache: Cache, watch: Watch) -> CacheCheck:
    """Read and hash every file of a cache; files that do not match are moved to quarantine.

    An entry with a missing or damaged blob counts as damaged, too.
    """
    blobs, entries = sorted(cache.blob_paths()), sorted(cache.entry_paths())
    total, damaged = len(blobs) + len(entries), {}
    for number, path in enumerate(blobs, 1):
        watch.advance(number, total, "files")
        try:
            with path.open("rb") as handle:
                sha = hashlib.file_digest(handle, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            sha = str(error)
        if sha != path.name:
            damaged[_relative_path(cache, path)] = (
                "its content does not have the SHA-256 of its name"
            )
            cache.quarantine(path)
    for number, path in enumerate(entries, len(blobs) + 1):
        watch.advance(number, total, "files")
        try:
            cache.read_verified(path)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged[_relative_path(cache, path)] = str(error)
            cache.quarantine(path)
    return CacheCheck(len(entries), len(blobs), damaged)


def verify_runs(runs: Runs, watch: Watch) -> dict[str, str]:
    """Check the hashes of every run of a project; returns name → what is wrong with it."""
    names, damaged = runs.ids(), {}
    for number, name in enumerate(names, 1):
        watch.advance(number, len(names), "runs")
        try:
            runs.run(name).check()
        except Mismatch as error:
            damaged[name] = error.message
    return damaged


@dataclass(frozen=True)
class SweepPlan:
    """What will be removed from a cache.

    Attributes:
        before: size of all entries and blobs, in bytes.
        entries: to remove, least recently used first.
        blobs, leftovers: to remove, files that no remaining entry refers to.
        frees: bytes that are freed. spared: entries kept only because they are too recent.
        began: when the plan was made; files that changed since are kept.
    """

    before: int
    entries: list[EntryRow]
    blobs: list[Path]
    leftovers: list[Path]
    frees: int
    spared: int
    began: float


def plan_sweep(cache: Cache, most: int | None, spare: float, leftovers: Iterable[str]) -> SweepPlan:
    """Decide what to remove, without removing anything.

    Args:
        most: size to keep, in bytes; None removes only files that nothing refers to.
        spare: seconds; files written or used within this time are kept.
        leftovers: which of "tmp" and "quarantine" to remove old files from as well.
    """
    began = time.time()
    rows = CacheIndex(cache).rows()
    sizes, young = _sizes(cache.blob_paths(), began - spare)
    named = Counter(sha for row in rows for sha in row.blobs)
    own = {row.path: _size(cache.root / row.path) for row in rows}
    going = {sha for sha in sizes if sha not in named and sha not in young}
    before = sum(sizes.values()) + sum(own.values())
    left = before - sum(sizes[sha] for sha in going)
    evicted, spared = [], 0
    for row in sorted(rows, key=lambda row: row.used):
        if most is None or left <= most:
            break
        if row.used > began - spare:
            spared += 1
            continue
        evicted.append(row)
        left -= own[row.path]
        for sha in row.blobs:
            if sha in sizes:
                named[sha] -= 1
                if not named[sha] and sha not in young:
                    going.add(sha)
                    left -= sizes[sha]
    old: list[Path] = []
    for folder in leftovers:
        paths = [p for p in (cache.root / folder).glob("*") if p.is_file()]
        limit = began - spare if folder == "tmp" else began
        old += [p for p in paths if _mtime(p) <= limit]
    frees = before - left + sum(_size(path) for path in old)
    blobs = [cache.blob_path(sha) for sha in sorted(going)]
    return SweepPlan(before, evicted, blobs, old, frees, spared, began)


def sweep(cache: Cache, plan: SweepPlan) -> None:
    """Remove what was planned, except what has changed since."""
    for row in plan.entries:
        path = cache.root / row.path
        if _mtime(path) <= row.used + 1e-3:  # not used since
            _remove([path])
            try:
                path.parent.rmdir()
            except OSError:
                pass  # it holds a result of another environment
    # Entries that were kept or written meanwhile need their blobs.
    named = {sha for row in CacheIndex(cache).rows() for sha in row.blobs}
    _remove([path for path in plan.blobs if path.name not in named and _mtime(path) < plan.began])
    _remove(plan.leftovers)


def _relative_path(cache: Cache, path: Path) -> str:
    return path.relative_to(cache.root).as_posix()


def _sizes(paths: Iterable[Path], since: float) -> tuple[dict[str, int], set[str]]:
    """Size of each blob by its SHA-256, and the ones that were written since a time."""
    sizes, young = {}, set()
    for path in paths:
        try:
            info = path.stat()
        except OSError:
            continue
        sizes[path.name] = info.st_size
        if info.st_mtime > since:
            young.add(path.name)
    return sizes, young


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mtime(path: Path) -> float:
    """When a file was last written or used; 0 if it does not exist."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # no permission; the next `gc` counts it again
