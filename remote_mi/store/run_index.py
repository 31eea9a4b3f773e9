"""The index of a project's runs, so that finding one takes as long among 10,000 as among 100.

    <project>/.remote_mi/runs.sqlite

The runs folder is the truth. Its time of change tells whether a run came or went since the index
last looked; folders that were copied in or deleted by hand are noticed the same way.
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

from remote_mi.store.sqlite_index import IndexFile, writing

#: Names of runs; other folders beside them are not runs.
RUN_NAME = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{8}")
DAMAGED = "damaged"
#: A change this recent (nanoseconds) may hide another one: clocks of file systems are coarse.
_RACY = 2_000_000_000
_CHUNK = 500
_TABLES = """
CREATE TABLE runs (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, key TEXT NOT NULL,
    environment TEXT NOT NULL, status TEXT NOT NULL, row TEXT NOT NULL);
CREATE INDEX by_key ON runs (key, environment, status, name);
CREATE INDEX by_status ON runs (status);
CREATE TABLE folder (changed INTEGER NOT NULL, seen INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class RunRow:
    """What a list says of a run, without its numbers.

    Attributes:
        name: of its folder. status: "done", "failed", or "damaged" with the `problem`.
        key: the job's. environment: id of where it was computed.
        recipe, model: their names. prompts: where they come from.
        parameters: the recipe's. time: when it was computed, in UTC.
        scalars: outputs and summaries that are single numbers, over all prompts.
        tags: what the user calls it.
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
        """The eight digits that end its name."""
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
        project: the project; `folder` its runs. read: the row of a run by its name.
    """

    def __init__(self, project: Path, folder: Path, read: Callable[[str], RunRow]) -> None:
        self.folder, self.read = folder, read
        self.file = IndexFile(project / ".remote_mi" / "runs.sqlite", _TABLES)

    def names_of(self, key: str, environment: str | None) -> Iterator[str]:
        """Names of the runs of a key that are done, in an environment or in any, newest first.

        What the index knows comes first; the folder is looked at when that was not enough.

        Raises:
            Unusable: if the index cannot be used.
        """
        known = self.file.use(lambda db: _of_key(db, key, environment))
        yield from known

        def looked_again(db: sqlite3.Connection) -> list[str]:
            self._take_names(db)
            return _of_key(db, key, environment)

        yield from (n for n in self.file.use(looked_again) if n not in known)

    def done(self) -> dict[tuple[str, str], str]:
        """(key, environment) → the newest run that is done.

        Raises:
            Unusable: if the index cannot be used.
        """

        def work(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
            self._take_files(db)
            rows = db.execute(
                "SELECT key, environment, max(name) FROM runs "
                "WHERE status = 'done' GROUP BY key, environment"
            )
            return {(key, environment): name for key, environment, name in rows}

        return self.file.use(work)

    def rows(self) -> list[RunRow]:
        """All runs, oldest first.

        Raises:
            Unusable: if the index cannot be used.
        """

        def work(db: sqlite3.Connection) -> list[RunRow]:
            self._take_files(db)
            found = db.execute("SELECT row FROM runs ORDER BY name")
            return [RunRow(**json.loads(row)) for (row,) in found]

        return self.file.use(work)

    def _take_names(self, db: sqlite3.Connection) -> None:
        """Take in the runs that came and went since the index last looked."""
        changed = _changed(self.folder)
        last = db.execute("SELECT changed, seen FROM folder").fetchone()
        if last is None or last[0] != changed or last[1] - last[0] < _RACY:
            seen = time.time_ns()
            here = _names(self.folder)
            known = {name for (name,) in db.execute("SELECT name FROM runs")}
            new = [name for name in here - known if RUN_NAME.fullmatch(name)]
            self._store(db, sorted(new), known - here)
            if (changed, seen) != last:
                with writing(db):
                    db.execute("DELETE FROM folder")
                    db.execute("INSERT INTO folder VALUES (?, ?)", (changed, seen))
        # One that is being copied in has no run.json yet; its arrival shows in its own folder only.
        waiting = db.execute("SELECT name, stamp FROM runs WHERE status = ?", (DAMAGED,)).fetchall()
        self._store(db, [n for n, stamp in waiting if stamp != _stamp(f"{self.folder}/{n}")], ())

    def _take_files(self, db: sqlite3.Connection) -> None:
        """As `_take_names`, and runs whose files were changed where they are."""
        self._take_names(db)
        known = db.execute("SELECT name, stamp FROM runs").fetchall()
        self._store(db, [n for n, stamp in known if stamp != _stamp(f"{self.folder}/{n}")], ())

    def _store(self, db: sqlite3.Connection, new: list[str], gone: Iterable[str]) -> None:
        """Read new runs and write their rows; in pieces, so that no other process waits for long."""
        for start in range(0, len(new), _CHUNK):
            rows = []
            for name in new[start : start + _CHUNK]:
                # Before reading: a change that comes later is seen the next time.
                stamp = _stamp(f"{self.folder}/{name}")
                row = self.read(name)
                rows.append(
                    (name, stamp, row.key, row.environment, row.status, json.dumps(asdict(row)))
                )
            with writing(db):
                db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", rows)
        if gone:
            with writing(db):
                db.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in gone])


def _of_key(db: sqlite3.Connection, key: str, environment: str | None) -> list[str]:
    rows = db.execute(
        "SELECT name FROM runs WHERE key = ? AND environment = ifnull(?, environment)"
        " AND status = 'done' ORDER BY name DESC",
        (key, environment),
    )
    return [name for (name,) in rows]


def _changed(folder: Path | str) -> int:
    """When a folder last changed, in nanoseconds; -1 if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _stamp(run: str) -> str:
    """Changes when run.json, or what lies beside it, does."""
    try:
        info = os.stat(f"{run}/run.json")
        return f"{os.stat(run).st_mtime_ns}/{info.st_mtime_ns}/{info.st_size}"
    except OSError:
        return f"{_changed(run)}"
