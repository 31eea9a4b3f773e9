"""Looking after a cache: is every byte what it should be, and what can go when it grows too large.

Neither needs a lock. Removing an entry while another process reads it is a miss there. Bytes that
no entry names yet may belong to a write under way, so what is young stays.
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
class Checked:
    """What `verify` found.

    Attributes:
        entries, blobs: how many were read, the damaged ones included.
        damaged: file below the cache → what is wrong with it; it was moved to quarantine/.
    """

    entries: int
    blobs: int
    damaged: dict[str, str]


def verify(cache: Cache, watch: Watch) -> Checked:
    """Read and hash every file of a cache; what does not match goes to quarantine.

    An entry that names bytes which are gone or damaged is damaged, too.
    """
    blobs, entries = sorted(cache.blob_paths()), sorted(cache.entry_paths())
    total, damaged = len(blobs) + len(entries), {}
    for number, path in enumerate(blobs, 1):
        watch.advance(number, total, "files")
        try:
            with path.open("rb") as handle:
                sha = hashlib.file_digest(handle, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # tidied up meanwhile
        except OSError as error:
            sha = str(error)
        if sha != path.name:
            damaged[_below(cache, path)] = "its bytes are not those of its name"
            cache.quarantine(path)
    for number, path in enumerate(entries, len(blobs) + 1):
        watch.advance(number, total, "files")
        try:
            cache.read_checked(path)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged[_below(cache, path)] = str(error)
            cache.quarantine(path)
    return Checked(len(entries), len(blobs), damaged)


def verify_runs(runs: Runs, watch: Watch) -> dict[str, str]:
    """Read every run of a project and check its hashes: name → what is wrong with it."""
    names, damaged = runs.ids(), {}
    for number, name in enumerate(names, 1):
        watch.advance(number, len(names), "runs")
        try:
            runs.run(name).check()
        except Mismatch as error:
            damaged[name] = error.message
    return damaged


@dataclass(frozen=True)
class SweptEntries:
    """What is to go from a cache.

    Attributes:
        before: bytes of entries and what they name, and of bytes that nobody names.
        entries: least recently used first. blobs, leftovers: files that nothing names.
        frees: bytes that go. spared: entries that would have to go and are too young.
        began: when it was decided; what changes from then on stays.
    """

    before: int
    entries: list[EntryRow]
    blobs: list[Path]
    leftovers: list[Path]
    frees: int
    spared: int
    began: float


def plan_sweep(
    cache: Cache, most: int | None, spare: float, leftovers: Iterable[str]
) -> SweptEntries:
    """Decide what goes, and remove nothing.

    Args:
        most: bytes that may stay; None removes only what nothing names.
        spare: seconds; what was written or used within them stays.
        leftovers: folders of the cache whose old files go as well, of "tmp" and "quarantine".
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
        old += [p for p in paths if _changed(p) <= limit]
    frees = before - left + sum(_size(path) for path in old)
    blobs = [cache.blob_path(sha) for sha in sorted(going)]
    return SweptEntries(before, evicted, blobs, old, frees, spared, began)


def sweep(cache: Cache, plan: SweptEntries) -> None:
    """Remove what was decided, except what has changed since."""
    for row in plan.entries:
        path = cache.root / row.path
        if _changed(path) <= row.used + 1e-3:  # not used since
            _remove([path])
            try:
                path.parent.rmdir()
            except OSError:
                pass  # a result of another environment is in it
    # An entry that stayed, or came meanwhile, needs its bytes.
    named = {sha for row in CacheIndex(cache).rows() for sha in row.blobs}
    _remove([path for path in plan.blobs if path.name not in named and _changed(path) < plan.began])
    _remove(plan.leftovers)


def _below(cache: Cache, path: Path) -> str:
    return path.relative_to(cache.root).as_posix()


def _sizes(paths: Iterable[Path], since: float) -> tuple[dict[str, int], set[str]]:
    """Size of each blob by its SHA-256, and those that were written since then."""
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


def _changed(path: Path) -> float:
    """When a file was last written or used; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # not ours to remove; the next `gc` counts it again
