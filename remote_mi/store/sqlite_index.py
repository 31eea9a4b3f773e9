"""Small SQLite files that can be rebuilt from the files they index.

They are never authoritative: a caller that cannot use one reads the files instead. An index that is
missing, damaged or of another version is silently rebuilt.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
#: SQLite's codes that do not mean a damaged file: busy, locked, read-only, full, cannot open …
_TEMPORARY = {3, 5, 6, 8, 13, 14, 23}
_ATTEMPTS = 3
_CHUNK = 500


class Unusable(Exception):
    """The index cannot be used now; the files hold the same information, but are slower to read."""


class IndexFile:
    """An index in a file.

    Args:
        path: the file; its folder is created if missing, excluded from version control.
        tables: the SQL that creates it; a different text is a different version.
    """

    def __init__(self, path: Path, tables: str) -> None:
        self.path, self.tables = path, tables
        self.version = int(hashlib.sha256(tables.encode()).hexdigest()[:7], 16) + 1

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with a connection, in a new file if the old one is damaged.

        Raises:
            Unusable: if the file cannot be opened or written.
        """
        problem: Exception | None = None
        for _ in range(_ATTEMPTS):
            found = _inode(self.path)
            try:
                if found is None:
                    self._create(found)
                return self._attempt(work)
            except OSError as error:
                raise Unusable(str(error)) from error
            except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
                if _is_temporary(error):
                    raise Unusable(str(error)) from error
                problem = error
            try:
                self._create(found)
            except (sqlite3.Error, OSError) as error:
                raise Unusable(str(error)) from error
        raise Unusable(str(problem)) from problem

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with contextlib.closing(self._connect()) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != self.version:
                raise sqlite3.DatabaseError("another version")
            return work(db)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        # What a power failure destroys is rebuilt: no need to wait for the disk.
        db.execute("PRAGMA synchronous = OFF")
        return db

    def _create(self, damaged: int | None) -> None:
        """Replace the file with this inode by a new one, unless another process already has."""
        from filelock import FileLock  # slow to import, and only needed once per project

        folder = self.path.parent
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n")
        with FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout=5):
            if _inode(self.path) not in (None, damaged):
                return
            made = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            made.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(
                    f"BEGIN; {self.tables} PRAGMA user_version = {self.version}; COMMIT;"
                )
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            made.replace(self.path)  # atomic, so that nobody sees it without its tables


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _is_temporary(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _TEMPORARY


def update_rows(
    db: sqlite3.Connection,
    table: str,
    new: Sequence[str],
    gone: Iterable[str],
    read: Callable[[str], tuple[Any, ...] | None],
) -> None:
    """Write the rows of new or changed names and delete those of others.

    It is done in chunks, so that no other process waits for long.

    Args:
        table: its first column, the name, is its primary key.
        read: the values of a name's row; None deletes it.
    """
    gone = list(gone)
    for start in range(0, len(new), _CHUNK):
        chunk = new[start : start + _CHUNK]
        rows = {name: read(name) for name in chunk}
        gone += [name for name in chunk if rows[name] is None]
        found = [row for row in rows.values() if row is not None]
        if found:
            marks = ", ".join("?" * len(found[0]))
            with transaction(db):
                db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", found)
    if gone:
        name = db.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchone()[0]
        with transaction(db):
            db.executemany(f"DELETE FROM {table} WHERE {name} = ?", [(one,) for one in gone])


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction with an exclusive write lock."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
