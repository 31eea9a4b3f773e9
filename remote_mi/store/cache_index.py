"""The index of a cache: the fields of every entry that `cache info`, `explain` and `gc` need.

    <cache>/index.sqlite

Writing an entry does not touch it: every use first reads the entries whose files have changed
since. Looking up a single entry does not use it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.store.cache import Cache, Damaged, read_entry
from remote_mi.store.environment import PACKAGES, Environment
from remote_mi.store.sqlite_index import IndexFile, Unusable, update_rows
from remote_mi.store.typed_json import dataclass_from_json

_TABLES = """
CREATE TABLE entries (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, key TEXT NOT NULL,
    environment TEXT NOT NULL, kind TEXT NOT NULL, versions TEXT NOT NULL, recipe TEXT,
    model TEXT, part INTEGER NOT NULL, about TEXT, blobs TEXT NOT NULL, bytes INTEGER NOT NULL,
    time REAL NOT NULL, used REAL NOT NULL);
CREATE INDEX by_recipe ON entries (recipe, part, time);
"""


@dataclass(frozen=True)
class _Named:
    name: str


@dataclass(frozen=True)
class _About:
    """What lists need of what a key was made of."""

    recipe: str
    model: _Named


@dataclass(frozen=True)
class EntryRow:
    """An entry without its bytes.

    Attributes:
        path: its file, relative to the cache. key, environment: of the job and where it ran.
        about: what the key was made of (`remote_mi.jobs.job.Job.key_description`), if recorded.
        blobs: SHA-256 of each blob it refers to. size: of the entry file and its blobs, in bytes.
        time: when it was created; used: when it was last read; in seconds since 1970.
    """

    path: str
    key: str
    environment: Environment
    about: dict[str, Any] | None
    blobs: list[str]
    size: int
    time: float
    used: float

    @property
    def recipe(self) -> str:
        return self.about["recipe"] if self.about else "not known"

    @property
    def model(self) -> str:
        return self.about["model"]["name"] if self.about else "not known"

    @property
    def part(self) -> bool:
        """Whether it holds the raw outputs of one call rather than a whole job's result."""
        return bool(self.about and self.about.get("part"))


class CacheIndex:
    """The index of a cache."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.file = IndexFile(cache.root / "index.sqlite", _TABLES)

    def rows(self) -> list[EntryRow]:
        """All readable entries, up to date with the files."""
        return self._select("", ())

    def rows_of_recipe(self, recipe: str, most: int = 2000) -> list[EntryRow]:
        """The newest entries of a recipe, whole results first."""
        return self._select("WHERE recipe = ? ORDER BY part, time DESC LIMIT ?", (recipe, most))

    def _select(self, where: str, values: tuple[Any, ...]) -> list[EntryRow]:
        if not (self.cache.root / "ac").is_dir():
            return []

        def work(db: sqlite3.Connection) -> list[EntryRow]:
            self._refresh(db)
            return [
                _row_from_sql(found)
                for found in db.execute(f"SELECT * FROM entries {where}", values)
            ]

        try:
            return self.file.use(work)
        except Unusable:  # e.g. a read-only cache
            with sqlite3.connect(":memory:", isolation_level=None) as db:
                db.executescript(_TABLES)
                return work(db)

    def _refresh(self, db: sqlite3.Connection) -> None:
        """Update the rows of entries that are new, changed or gone."""
        known = dict(db.execute("SELECT path, stamp FROM entries").fetchall())
        here = dict(_stamps(self.cache.root))
        new = [path for path, stamp in here.items() if known.get(path) != stamp]

        def read(path: str) -> tuple[Any, ...] | None:
            try:
                return self._values(path, here[path])
            except (OSError, Damaged, KeyError, TypeError, ValueError):
                return None  # `verify` reports it

        update_rows(db, "entries", new, known.keys() - here.keys(), read)

    def _values(self, path: str, stamp: str) -> tuple[Any, ...]:
        file = self.cache.root / path
        data = read_entry(file)
        where, about = Environment.from_json(data["environment"]), data.get("about")
        short = dataclass_from_json(_About, about, "about") if about else None
        named = [data["document"], data["arrays"], *([about.get("code_parts")] if about else [])]
        blobs = list(dict.fromkeys(sha for sha in named if sha))
        changed, size = (int(part) for part in stamp.split("/")[1:])
        for sha in blobs:
            try:
                size += self.cache.blob_path(sha).stat().st_size
            except OSError:
                pass  # `verify` reports it
        versions = {name: getattr(where, name) for name in PACKAGES}
        return (
            path,
            stamp,
            data["key"],
            where.id,
            where.kind,
            json.dumps(versions),
            short.recipe if short else None,
            short.model.name if short else None,
            int(bool(about and about.get("part"))),
            json.dumps(about) if about else None,
            json.dumps(blobs),
            size,
            float(data["time"]),
            changed / 1e9,
        )


def _stamps(root: Path) -> Iterator[tuple[str, str]]:
    """Every entry's path relative to the cache, and a stamp that changes with its file."""
    for first in _subfolders(f"{root}/ac"):
        for key in _subfolders(first):
            try:
                files = list(os.scandir(key))
            except OSError:
                continue  # removed meanwhile
            for file in files:
                if file.name.endswith(".json"):
                    try:
                        info = file.stat()
                    except OSError:
                        continue
                    yield (
                        os.path.relpath(file.path, root)
                        if os.sep != "/"
                        else file.path[len(str(root)) + 1 :],
                        f"{info.st_ino}/{info.st_mtime_ns}/{info.st_size}",
                    )


def _subfolders(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir()]
    except OSError:
        return []


def _row_from_sql(found: tuple[Any, ...]) -> EntryRow:
    """A row as it was stored.

    Raises:
        ValueError, TypeError: if it is none: SQLite stores any type in any column.
    """
    path, _, key, _, kind, versions, _, _, _, about, blobs, size, made, used = found
    return dataclass_from_json(
        EntryRow,
        {
            "path": path,
            "key": key,
            "environment": {"kind": kind, **json.loads(versions)},
            "about": json.loads(about) if about else None,
            "blobs": json.loads(blobs),
            "size": size,
            "time": made,
            "used": used,
        },
        "entries",
    )
