"""The index of a project's runs: finding one takes as long among 10,000 as among 100.

    <project>/.remote_mi/runs.sqlite

The runs folder is authoritative. Its modification time shows whether runs were added or removed
since the index was last refreshed, including folders that were copied in or deleted by hand.
Reading that one time instead of every run's is what makes finding fast, so it is not refreshed as
the index of the cache is (`remote_mi.store.cache_index`), whose lookups need no index.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.valid_json import to_json
from remote_mi.store.sqlite_index import IndexFile, transaction, update_rows

#: Names of runs; folders with other names are not runs.
RUN_NAME = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{8}")
DAMAGED = "damaged"
#: A change this recent (nanoseconds) may hide another one: file timestamps are coarse.
_RACY = 2_000_000_000
_TABLES = """
CREATE TABLE runs (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, key TEXT NOT NULL,
    environment TEXT NOT NULL, status TEXT NOT NULL, row TEXT NOT NULL);
CREATE INDEX by_key ON runs (key, environment, status, name);
CREATE INDEX by_status ON runs (status);
CREATE TABLE folder (changed INTEGER NOT NULL, seen INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class RunRow:
    """The fields of a run that lists show.

    Attributes:
        name: of its folder. status: "done", "failed", or "damaged" with the `problem`.
        key: the job's. environment: id of the environment it was computed in.
        recipe, model: their names. prompts: where they come from.
        parameters: the recipe's. time: when it was computed, in UTC.
        scalars: outputs and summaries over all prompts that are single numbers.
        tags: given by the user.
    """

    name: str
    status: str
    key: str = ""
    environment: str = ""
    recipe: str = "?"
    model: str = "?"
    prompts: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    scalars: dict[str, float] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    problem: str | None = None

    @property
    def id8(self) -> str:
        """The eight hex digits at the end of its name."""
        return self.name.rsplit("-", 1)[-1]


def run_names(folder: Path) -> list[str]:
    """Names of the runs in a runs folder, oldest first."""
    return sorted(name for name in _names(folder) if RUN_NAME.fullmatch(name))


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


class RunIndex:
    """The index of the runs in a folder.

    Args:
        project: the project. folder: with its runs. read: returns the row of a run by its name.
    """

    def __init__(self, project: Path, folder: Path, read: Callable[[str], RunRow]) -> None:
        self.folder, self.read = folder, read
        self.file = IndexFile(project / ".remote_mi" / "runs.sqlite", _TABLES)

    def names_of(self, key: str, environment: str | None) -> Iterator[str]:
        """Names of the done runs of a key, in one environment or in any, newest first.

        Runs that the index knows come first; it is refreshed only if those are not enough.

        Raises:
            Unusable: if the index cannot be used.
        """
        known = self.file.use(lambda db: _names_of_key(db, key, environment))
        yield from known

        def refresh_and_look(db: sqlite3.Connection) -> list[str]:
            self._refresh_names(db)
            return _names_of_key(db, key, environment)

        yield from (n for n in self.file.use(refresh_and_look) if n not in known)

    def latest_done(self) -> dict[tuple[str, str], str]:
        """(key, environment id) → name of the newest run that is done.

        Raises:
            Unusable: if the index cannot be used.
        """

        def work(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
            self._refresh_files(db)
            rows = db.execute(
                "SELECT key, environment, max(name) FROM runs "
                "WHERE status = 'done' GROUP BY key, environment"
            )
            return {(key, environment): _text(name) for key, environment, name in rows}

        return self.file.use(work)

    def rows(self) -> list[RunRow]:
        """All runs, oldest first.

        Raises:
            Unusable: if the index cannot be used.
        """

        def work(db: sqlite3.Connection) -> list[RunRow]:
            self._refresh_files(db)
            found = db.execute("SELECT row FROM runs ORDER BY name")
            return [_row_from_json(row) for (row,) in found]

        return self.file.use(work)

    def _refresh_names(self, db: sqlite3.Connection) -> None:
        """Add and remove runs whose folders appeared or disappeared since the last refresh."""
        changed = _mtime_ns(self.folder)
        last = db.execute("SELECT changed, seen FROM folder").fetchone()
        if last is None or last[0] != changed or last[1] - last[0] < _RACY:
            seen = time.time_ns()
            here = _names(self.folder)
            known = {name for (name,) in db.execute("SELECT name FROM runs")}
            new = [name for name in here - known if RUN_NAME.fullmatch(name)]
            self._store(db, sorted(new), known - here)
            if (changed, seen) != last:
                with transaction(db):
                    db.execute("DELETE FROM folder")
                    db.execute("INSERT INTO folder VALUES (?, ?)", (changed, seen))
        # A run being copied in has no run.json yet; when it arrives, only its own folder changes.
        waiting = db.execute("SELECT name, stamp FROM runs WHERE status = ?", (DAMAGED,)).fetchall()
        self._store(db, [n for n, stamp in waiting if stamp != _stamp(f"{self.folder}/{n}")], ())

    def _refresh_files(self, db: sqlite3.Connection) -> None:
        """As `_refresh_names`, and update runs whose files have changed."""
        self._refresh_names(db)
        known = db.execute("SELECT name, stamp FROM runs").fetchall()
        self._store(db, [n for n, stamp in known if stamp != _stamp(f"{self.folder}/{n}")], ())

    def _store(self, db: sqlite3.Connection, new: list[str], gone: Iterable[str]) -> None:
        """Read new runs and write their rows."""

        def read(name: str) -> tuple[Any, ...]:
            # Taken before reading, so that a later change is seen the next time.
            stamp = _stamp(f"{self.folder}/{name}")
            row = self.read(name)
            return (name, stamp, row.key, row.environment, row.status, to_json(asdict(row)))

        update_rows(db, "runs", new, gone, read)


def _names_of_key(db: sqlite3.Connection, key: str, environment: str | None) -> list[str]:
    rows = db.execute(
        "SELECT name FROM runs WHERE key = ? AND environment = ifnull(?, environment)"
        " AND status = 'done' ORDER BY name DESC",
        (key, environment),
    )
    return [_text(name) for (name,) in rows]


def _text(value: Any) -> str:
    """A value of the index that must be a text: SQLite stores any type in any column."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of a text")
    return value


def _row_from_json(text: str) -> RunRow:
    """A row as it was stored; checked by hand, since lists of runs are long.

    Raises:
        ValueError, TypeError: if it is none.
    """
    row = RunRow(**json.loads(text))
    texts = (row.name, row.status, row.key, row.environment, row.recipe, row.model, row.time)
    words, mappings = (row.prompts, row.problem), (row.scalars, row.parameters)
    if not (
        all(type(value) is dict for value in mappings)
        and type(row.tags) is list
        and all(type(value) is str for value in (*texts, *row.tags, *row.scalars))
        and all(value is None or type(value) is str for value in words)
        and all(type(value) is float for value in row.scalars.values())
    ):
        raise TypeError("a value of another type")
    return row


def _mtime_ns(folder: Path | str) -> int:
    """When a folder last changed, in nanoseconds; -1 if it does not exist."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _stamp(run: str) -> str:
    """A stamp that changes with run.json and with the list of files next to it."""
    try:
        info = os.stat(f"{run}/run.json")
        return f"{os.stat(run).st_mtime_ns}/{info.st_mtime_ns}/{info.st_size}"
    except OSError:
        return f"{_mtime_ns(run)}"
