"""Small SQLite files that can be made again from the files they index.

They are never the truth: whoever reads one reads the files instead where it cannot be used. A
file that is missing, damaged or of another version is made anew without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
#: SQLite's codes for a file that is not at fault: busy, locked, read-only, full, cannot open …
_NOT_NOW = {3, 5, 6, 8, 13, 14, 23}
_ATTEMPTS = 3


class Unusable(Exception):
    """The index cannot be used now; the files tell the same, more slowly."""


class IndexFile:
    """An index in a file.

    Args:
        path: the file; its folder is made, out of version control, if it is missing.
        tables: the statements that make it; another text is another version.
    """

    def __init__(self, path: Path, tables: str) -> None:
        self.path, self.tables = path, tables
        self.version = int(hashlib.sha256(tables.encode()).hexdigest()[:7], 16) + 1

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives with a connection, in a new file if the old one is damaged.

        Raises:
            Unusable: if the file cannot be opened or written.
        """
        problem: Exception | None = None
        for _ in range(_ATTEMPTS):
            found = _inode(self.path)
            try:
                if found is None:
                    self._make(found)
                return self._attempt(work)
            except OSError as error:
                raise Unusable(str(error)) from error
            except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
                if _not_now(error):
                    raise Unusable(str(error)) from error
                problem = error
            try:
                self._make(found)
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
        # What a loss of power takes is made again: no need to wait for the disk.
        db.execute("PRAGMA synchronous = OFF")
        return db

    def _make(self, damaged: int | None) -> None:
        """A new file in place of the one of this inode, unless another process was quicker."""
        from filelock import FileLock  # slow to import, and only needed once a project

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
            made.replace(self.path)  # whole, so that nobody sees it without its tables


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _not_now(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _NOT_NOW


@contextlib.contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction in which nobody else writes."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
