"""The ledger of remote jobs: one SQLite file per project, written before, at and after every step.

    <project>/.remote_mi/jobs.sqlite     one row per submission, and every status seen
    <project>/.remote_mi/results/<id>    a result as downloaded, until its run is saved
    <project>/.remote_mi/locks/<id>      held by the process that is waiting for the job

A row holds everything another process needs to finish the run. It never holds a key.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

from remote_mi.common.errors import NotFound, StoreError, UsageError, not_found
from remote_mi.common.text import line
from remote_mi.common.valid_json import parse_json, to_json
from remote_mi.store.typed_json import WrongJson, dataclass_from_json

SCHEMA = 1
#: States in which a job may still give a result.
OPEN = ("submitting", "unknown", "submitted", "fetched")
STATES = (*OPEN, "done", "failed", "expired", "forgotten")

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, host TEXT NOT NULL, url TEXT NOT NULL,
    recipe TEXT NOT NULL, model TEXT NOT NULL, calls INTEGER NOT NULL, compress INTEGER NOT NULL,
    state TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, deadline REAL,
    server_id TEXT NOT NULL, replaces TEXT, command TEXT, bytes_up INTEGER NOT NULL,
    bytes_down INTEGER, meta TEXT, run TEXT, finished REAL, error TEXT, expected TEXT NOT NULL,
    draft TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_key ON jobs (key, host);
CREATE TABLE IF NOT EXISTS statuses (
    job TEXT NOT NULL, time REAL NOT NULL, status TEXT NOT NULL, description TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_job ON statuses (job);
PRAGMA user_version = 1;
"""
_JSON = ("meta", "error", "expected", "draft")
#: An id names files, too.
_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
#: A server's id becomes part of an address.
_SERVER_ID = re.compile(r"[\w.:-]{0,200}", re.ASCII)
#: Latest moment that a date can be told of, in seconds since 1970.
_LATEST = 1e11


@dataclass(frozen=True)
class StatusSeen:
    """A status that the server reported, at a time in seconds since 1970."""

    time: float
    status: str
    description: str


@dataclass
class Entry:
    """One submission.

    Attributes:
        id: our id, sent with the job. server_id: the server's id for it.
        key: the job's key. host: the host's name; url: its address.
        recipe, model, calls: what was submitted. compress: whether the result is compressed.
        expected: per call, output → [shape, dtype]; None if not known beforehand.
        draft: the run, without its outputs.
        state: one of `STATES`. status: the last one the server reported.
        created, deadline: seconds since 1970; the result is kept until `deadline`.
        replaces: the submission that this one repeats. command: the command line.
        bytes_up, bytes_down: sizes. meta: the cost of the job, as the server reports it.
        run: name of the finished run, at `finished`. error: class, message, hint, server's text.
    """

    id: str
    key: str
    host: str
    url: str
    recipe: str
    model: str
    calls: int
    draft: dict[str, Any]
    expected: Any = None
    compress: int = 1
    state: str = "submitting"
    status: str = ""
    created: float = 0.0
    deadline: float | None = None
    server_id: str = ""
    replaces: str | None = None
    command: str | None = None
    bytes_up: int = 0
    bytes_down: int | None = None
    meta: dict[str, Any] | None = None
    run: str | None = None
    finished: float | None = None
    error: dict[str, Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still give a result."""
        return self.state in OPEN


_COLUMNS = [f.name for f in fields(Entry)]


class Ledger:
    """The ledger of a project; it need not exist yet. Safe for several threads and processes."""

    def __init__(self, project: Path) -> None:
        self.folder = project / ".remote_mi"
        self.path = self.folder / "jobs.sqlite"
        self._local = threading.local()  # one connection per thread

    def claim(self, entry: Entry, since: float) -> Entry:
        """Record a submission before it is sent, unless the same job is already open there.

        Args:
            since: when the result was last looked up and not found, in seconds since 1970.

        Returns:
            The entry; or one with the same key and host that is open, or was done since then.

        Raises:
            StoreError: if the project cannot be written.
        """
        with self._transaction() as db:
            row = db.execute(
                f"SELECT * FROM jobs WHERE key = ? AND host = ? AND (state IN {OPEN} "
                "OR (state = 'done' AND finished >= ?)) ORDER BY created DESC LIMIT 1",
                (entry.key, entry.host, since),
            ).fetchone()
            if row is not None:
                try:
                    return _entry(row)
                except WrongJson as error:
                    raise self._damaged(error) from None
            entry.created = time.time()
            entry.server_id = entry.id
            marks = ", ".join("?" * len(_COLUMNS))
            db.execute(f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({marks})", _values(entry))
        return entry

    def update(self, job_id: str, **changes: Any) -> None:
        """Change columns of an entry; a forgotten one stays forgotten, whatever happens to its job.

        Raises:
            StoreError: if the project cannot be written.
        """
        assert changes.get("state", "done") in STATES
        sets = ", ".join(f"{name} = ?" for name in changes)
        values = [to_json(v) if k in _JSON and v is not None else v for k, v in changes.items()]
        with self._transaction() as db:
            kept = "id = ? AND state != 'forgotten'"
            db.execute(f"UPDATE jobs SET {sets} WHERE {kept}", (*values, job_id))

    def note_status(self, job_id: str, status: str, description: str) -> None:
        """Record a status that the server reported."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET status = ? WHERE id = ?", (status, job_id))
            db.execute(
                "INSERT INTO statuses VALUES (?, ?, ?, ?)",
                (job_id, time.time(), status, description[:20_000]),
            )

    def get(self, job_id: str) -> Entry:
        """An entry by its full id.

        Raises:
            NotFound: if there is none.
        """
        found = self._select("WHERE id = ?", job_id)
        if not found:
            raise NotFound(f"no job {job_id!r}", "`remote-mi jobs ls` lists them all")
        return found[0]

    def find(self, wanted: str | None) -> Entry:
        """An entry by its id or a prefix of it; the newest for None.

        Raises:
            NotFound: with the nearest id. UsageError: if it matches several.
        """
        if wanted is None:
            newest = self._select("WHERE state != 'forgotten' ORDER BY created DESC LIMIT 1")
            if not newest:
                raise NotFound(
                    f"there are no remote jobs in {self.folder.parent}",
                    "`remote-mi run … --backend ndif` submits one",
                )
            return newest[0]
        found = self._select("WHERE substr(id, 1, ?) = ?", len(wanted), wanted) if wanted else []
        if not found:
            raise not_found("job", wanted, [e.id[:8] for e in self.all()], "remote-mi jobs ls")
        if len(found) > 1:
            raise UsageError(
                f"{wanted!r} matches {len(found)} jobs: {', '.join(e.id[:8] for e in found[:5])}",
                "give more digits",
            )
        return found[0]

    def all(self) -> list[Entry]:
        """Every entry, oldest first."""
        return self._select("ORDER BY created")

    def open_entries(self) -> list[Entry]:
        """Entries that may still give a result, oldest first."""
        return self._select(f"WHERE state IN {OPEN} ORDER BY created")

    def latest_of(self, key: str, host: str) -> Entry | None:
        """The newest entry of a job on a host, forgotten ones excluded."""
        found = self._select(
            "WHERE key = ? AND host = ? AND state != 'forgotten' ORDER BY created DESC LIMIT 1",
            key,
            host,
        )
        return found[0] if found else None

    def timeline(self, job_id: str) -> list[dict[str, Any]]:
        """Every status seen of a job, oldest first: time, status, description."""
        if not self.path.exists():
            return []
        with self._connection() as db:
            rows = db.execute(
                "SELECT time, status, description FROM statuses WHERE job = ? ORDER BY rowid",
                (job_id,),
            ).fetchall()
        try:
            seen = [dataclass_from_json(StatusSeen, dict(row), f"job {job_id}") for row in rows]
            for one in seen:
                _check_time("time", one.time)
        except WrongJson as error:
            raise self._damaged(error) from None
        return [{**asdict(one), "time": round(one.time, 3)} for one in seen]

    def result_path(self, job_id: str) -> Path:
        """The path of a job's result once it is fetched."""
        return self._subfolder("results") / job_id

    def lock(self, job_id: str) -> FileLock:
        """The lock held by whoever waits for the job; released when its holder dies."""
        return FileLock(self._subfolder("locks") / job_id, thread_local=False)

    def clean(self, job_id: str) -> None:
        """Remove the files of a job that is finished."""
        for folder in ("results", "locks"):
            (self.folder / folder / job_id).unlink(missing_ok=True)

    def _subfolder(self, name: str) -> Path:
        folder = self.folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _store_error(self.folder, error) from None
        return folder

    def _select(self, where: str, *values: Any) -> list[Entry]:
        if not self.path.exists():
            return []
        with self._connection() as db:
            rows = db.execute(f"SELECT * FROM jobs {where}", values).fetchall()
        try:
            return [_entry(row) for row in rows]
        except WrongJson as error:
            raise self._damaged(error) from None

    def _damaged(self, error: WrongJson) -> StoreError:
        return StoreError(
            f"the ledger of remote jobs is damaged: {self.path}: {line(str(error))}",
            "move it away; a job that it holds is then submitted anew by the same command",
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction in which nobody else writes."""
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            db = getattr(self._local, "db", None)
            if db is None or not self.path.exists():
                db = self._local.db = self._open()
            yield db
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            # The last one if SQLite quotes what is no text in a damaged schema.
            raise _store_error(self.folder, error) from None

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._create()
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        db.row_factory = sqlite3.Row
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._create()
        elif version != SCHEMA:
            raise StoreError(
                f"{self.path} has schema {version}, this version reads {SCHEMA}", "update remote_mi"
            )
        return db

    def _create(self) -> None:
        """Create the file; of several processes that find none, one does and the others wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        with FileLock(self._subfolder("locks") / "ledger", timeout=30):
            with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db:
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    db.execute("PRAGMA journal_mode = WAL")
                    db.executescript(_TABLES)


def current_command() -> str | None:
    """The running command as it was typed; None in any program but `remote-mi`."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    if program not in ("remote-mi", "__main__.py"):
        return None
    return shlex.join(["remote-mi", *(a for a in sys.argv[1:] if a != "--detach")])


def _entry(row: sqlite3.Row) -> Entry:
    """The entry in a row; SQLite stores values of any type in any column.

    Raises:
        WrongJson: naming a column that holds something else.
    """
    found = {name: row[name] for name in _COLUMNS}
    for name in _JSON:
        if found[name] is not None:
            try:
                found[name] = parse_json(found[name])
            except (ValueError, TypeError) as error:
                raise WrongJson(f"jobs.{name}", str(error)) from None
    entry = dataclass_from_json(Entry, found, "jobs")
    if not _ID.fullmatch(entry.id):
        raise WrongJson("jobs.id", f"{entry.id!r:.80} is not the id of a job")
    if not _SERVER_ID.fullmatch(entry.server_id or ""):
        raise WrongJson("jobs.server_id", f"{entry.server_id!r:.80} is not the id of a job")
    if entry.state not in STATES:
        raise WrongJson("jobs.state", f"{entry.state!r:.80} is not a state")
    for name in ("created", "deadline", "finished"):
        _check_time(f"jobs.{name}", getattr(entry, name))
    return entry


def _check_time(where: str, moment: float | None) -> None:
    if moment is not None and not 0 <= moment <= _LATEST:
        raise WrongJson(where, f"{moment:g} is not a time")


def _values(entry: Entry) -> list[Any]:
    found = []
    for name in _COLUMNS:
        value = getattr(entry, name)
        keep = name in ("draft", "expected") or (name in _JSON and value is not None)
        found.append(to_json(value) if keep else value)
    return found


def _store_error(folder: Path, error: Exception) -> StoreError:
    return StoreError(
        f"the ledger of remote jobs in {folder} cannot be used: {error}",
        "set REMOTE_MI_PROJECT to another project folder; a remote job is not sent "
        "without being recorded",
    )
