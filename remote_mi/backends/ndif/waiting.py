"""Waiting for a submitted job and fetching its result, by whoever holds the job's lock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from remote_mi.backends.detached import (
    POLL_FIRST_S,
    POLL_GROWTH,
    POLL_LAST_S,
    raise_wait_timeout,
    resume_hint,
)
from remote_mi.backends.errors import (
    Evicted,
    ResultExpired,
    ResultRefused,
    ServerDown,
    StillRunning,
    SubmissionUnknown,
    to_record,
)
from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.ndif import results
from remote_mi.backends.ndif.client import POLL_TIMEOUT_S, Client
from remote_mi.backends.ndif.errors import job_error
from remote_mi.backends.ndif.hosts import HERE
from remote_mi.backends.ndif_server import personal
from remote_mi.common.errors import RunFailed
from remote_mi.common.progress import Watch

#: How long a server may be unreachable while waiting for a job.
OUTAGE_LIMIT_S = 90.0
#: How long to look on the server for a submission whose reply was lost.
LOOKUP_S = 5.0
#: How long the server may report nothing about an accepted job.
UNHEARD_LIMIT_S = 120.0
#: How long a server keeps results, if their address does not tell.
KEPT_S = 3600.0


class Waiter:
    """Follows one entry of the ledger."""

    def __init__(self, client: Client, ledger: Ledger, entry: Entry, watch: Watch) -> None:
        self.client, self.ledger, self.entry, self.watch = client, ledger, entry, watch

    def poll(self, patience: float = POLL_TIMEOUT_S) -> dict[str, Any] | None:
        """Ask once and record a new status. Returns the answer, or None if there is none yet.

        Args:
            patience: seconds in which the server has to answer.

        Raises:
            JobFailed, NotHosted: if the job failed there; the entry says so, too.
            ResultExpired: if its result is no longer there; the entry says so, too.
            Evicted: if its server was stopped; the entry says so, too.
            ServerDown, NotNdif: if the server does not answer.
        """
        entry = self.entry
        if self.is_lost():
            raise self.mark_lost()
        answer = self.client.job_response(entry.server_id, patience)
        if answer is None:
            self._check_deadline(None)
            return None
        status, description = answer["status"], str(answer.get("description") or "")
        if status != entry.status:
            entry.status = status
            self.ledger.note_status(entry.id, status, description)
            if entry.state in ("submitting", "unknown"):
                self._change(state="submitted")
            said = description.splitlines()[0] if description and status != "ERROR" else ""
            self.watch.stage(f"{entry.url} · {status.lower()}" + (f" · {said}" if said else ""))
            if status == "COMPLETED":
                self._change(deadline=_expiry(answer.get("data")), meta=answer.get("meta"))
        if status == "ERROR":
            error = job_error(entry.id, entry.url, answer, entry.draft.get("file"))
            self._change(state="failed", error=to_record(error), meta=answer.get("meta"))
            raise error
        if status == "COMPLETED":
            self._check_deadline(answer.get("data"))
        return answer

    def _check_deadline(self, url: Any) -> None:
        """Raise if the result has expired. The server decides: clocks may be wrong."""
        deadline = self.entry.deadline
        if deadline and time.time() > deadline and (url is None or self.client.is_gone(url)):
            raise self._mark_expired()

    def _mark_expired(self) -> ResultExpired:
        """Mark the entry as expired; returns the error."""
        entry = self.entry
        repeat = f": {entry.command}" if entry.command else ""
        error = ResultExpired(
            f"job {entry.id[:8]}: {entry.url} no longer has its result, which it keeps for a while only",
            f"the same command submits the job again{repeat}",
        )
        self._change(state="expired", error=to_record(error))
        return error

    def was_received(self) -> bool:
        """Whether the server has a job whose submission was cut off; if not, the entry says so.

        Raises:
            As `poll`.
        """
        until, pause = time.monotonic() + LOOKUP_S, 0.1
        while self.poll() is None:
            if time.monotonic() > until:
                error = SubmissionUnknown(
                    f"job {self.entry.id[:8]}: {self.entry.url} does not know it",
                    "run the same command again",
                )
                self._change(state="failed", error=to_record(error))
                self.watch.note(f"{error.message}; it counts as not submitted")
                return False
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        return True

    def is_lost(self) -> bool:
        """Whether the job was on a personal server that has been stopped since."""
        entry = self.entry
        return entry.host == HERE.name and not personal.is_same_server(entry.url, entry.created)

    def mark_lost(self) -> Evicted:
        """Mark the job as lost with its server; returns the error."""
        error = Evicted(
            f"job {self.entry.id[:8]}: the server at {self.entry.url} was stopped, and its jobs with it",
            "the same command submits it again",
        )
        self._change(state="failed", error=to_record(error))
        return error

    def wait_until_completed(
        self, deadline: float | None, after_a_while: Callable[[], None]
    ) -> dict[str, Any]:
        """Ask until the job is done.

        Args:
            deadline: on the monotonic clock. after_a_while: called once if it takes seconds.

        Raises:
            QueueTimeout, StillRunning: if the wait ends before the job. Otherwise as `poll`.
        """
        pause, begun = POLL_FIRST_S, time.monotonic()
        last, reached, heard, told = self.entry.status, begun, begun, False
        while True:
            now = time.monotonic()
            left = POLL_TIMEOUT_S if deadline is None else deadline - now
            try:
                answer = self.poll(min(POLL_TIMEOUT_S, max(1.0, left)))
                reached = now
                heard = now if answer is not None else heard
            except ServerDown as error:
                answer, heard = None, now
                if now - reached > OUTAGE_LIMIT_S:
                    raise ServerDown(*self._still_open(str(error).splitlines()[0])) from None
                self.watch.stage(f"{self.entry.url} cannot be reached; asking again")
            if answer is not None and answer["status"] == "COMPLETED":
                return answer
            if self.entry.status != last:
                last, pause = self.entry.status, POLL_FIRST_S
            self._check_patience(now, heard, deadline)
            if not told and now - begun > 2.0:
                told = True
                after_a_while()
            limit = POLL_LAST_S if deadline is None else max(0.0, deadline - now)
            time.sleep(min(pause, limit))
            pause = min(pause * POLL_GROWTH, POLL_LAST_S)

    def _check_patience(self, now: float, heard: float, deadline: float | None) -> None:
        status, url = self.entry.status, self.entry.url
        if now - heard > UNHEARD_LIMIT_S:
            was = f", which was {status.lower()}" if status else ""
            raise StillRunning(
                *self._still_open(
                    f"{url} accepted the job{was}, and has said nothing of it for {UNHEARD_LIMIT_S:.0f} s"
                )
            )
        if deadline is not None and now >= deadline:
            raise_wait_timeout(self.entry)

    def _still_open(self, problem: str) -> tuple[str, str]:
        return f"job {self.entry.id[:8]}: {problem}", resume_hint(self.entry.id)

    def fetch(self, answer: dict[str, Any]) -> Path:
        """Download the result of a job that is done; the entry says so.

        Raises:
            ResultExpired, ResultRefused, ServerDown, StoreError: as `Client.download`.
        """
        entry = self.entry
        target = self.ledger.result_path(entry.id)
        partial = target.with_suffix(".part")
        limit = results.max_result_bytes(entry.expected)
        self.watch.stage("fetching the result")

        try:
            size = self.client.download(answer.get("data"), partial, limit, self.watch)
            partial.replace(target)
        except ResultExpired:
            raise self._mark_expired() from None
        except ResultRefused as error:
            raise self.mark_refused(error) from None
        finally:
            partial.unlink(missing_ok=True)
        self._change(state="fetched", bytes_down=size)
        return target

    def mark_refused(self, error: RunFailed) -> ResultRefused:
        """Mark the entry as failed because its result was refused; returns the error."""
        name = f"job {self.entry.id[:8]}"
        message = error.message if error.message.startswith(name) else f"{name}: {error.message}"
        hint = error.hint if isinstance(error, ResultRefused) else None
        refused = ResultRefused(message, hint or "the same command submits the job again")
        self._change(state="failed", error=to_record(refused))
        return refused

    def _change(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.entry, name, value)
        self.ledger.update(self.entry.id, **changes)


def _expiry(url: Any) -> float:
    """When a presigned address expires, in seconds since 1970."""
    try:
        query = {k.lower(): v[0] for k, v in parse_qs(urlsplit(url).query).items()}
        if "x-amz-expires" in query:
            signed = datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return (signed + timedelta(seconds=int(query["x-amz-expires"]))).timestamp()
        return float(query["expires"])
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        return time.time() + KEPT_S
