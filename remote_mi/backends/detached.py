"""A backend whose jobs continue while nobody waits for them; any process can fetch their results.

Every step is recorded in the ledger before it is taken. A backend of this kind only has to send a
job, poll it, and read its outputs.

    class Mine(DetachedBackend):
        def environment(self, spec): ...                       # under which results are stored
        def send(self, entry, model, work, watch): ...         # start it; returns at once
        def poll(self, entry, watch): ...                      # record a new status; may raise
        def outputs(self, entry): ...                          # of a completed job
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from remote_mi.backends.base import (
    Backend,
    FinishedElsewhere,
    Outputs,
    Ticket,
    Work,
    check_outputs,
    do_nothing,
)
from remote_mi.backends.errors import (
    QueueTimeout,
    ResultExpired,
    StillRunning,
    SubmissionUnknown,
    from_record,
    to_record,
)
from remote_mi.backends.job_locks import JobLocks
from remote_mi.backends.ledger import Entry, Ledger, current_command
from remote_mi.common.errors import BackendUnavailable, Detached, RemoteMIError, StoreError
from remote_mi.common.progress import Watch
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.outputs import outputs_from_json

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel

#: Default wait for a job.
DEFAULT_TIMEOUT_S = 3600.0
POLL_FIRST_S, POLL_LAST_S, POLL_GROWTH = 0.05, 5.0, 1.05
#: After this wait, the collector is started too.
_LONG_WAIT_S = 2.0
#: Statuses of a job that has not started, as NDIF names them.
WAITING = ("", "RECEIVED", "QUEUED", "PROVISIONING", "DEPLOYING")
#: Status of a job whose result is ready.
COMPLETED = "COMPLETED"


class DetachedBackend(Backend):
    """See the module.

    Args:
        name: as recorded in runs and the ledger. project: the user's project, with the ledger.
        url: the address to show to the user.

    Attributes:
        patience_s: how long it may be unreachable before its jobs are given up.
    """

    patience_s = 24 * 3600.0

    def __init__(self, name: str, project: Path, url: str = "") -> None:
        self.name, self.project, self.url = name, project, url or name
        self.ledger = Ledger(project)
        self.locks = JobLocks(self.ledger)

    # --- implemented by each backend of this kind ---

    def send(self, entry: Entry, model: LoadedModel, work: Work, watch: Watch) -> None:
        """Start the work of a recorded entry. An error means that it did not start."""
        raise NotImplementedError

    def poll(self, entry: Entry, watch: Watch) -> None:
        """Update the status of a job that was sent and may still give a result; its lock is held.

        Record a new status with `set_status`; COMPLETED means that the outputs can be read.

        Raises:
            JobFailed: if it failed there; raise what `mark_failed` returns.
        """
        raise NotImplementedError

    def was_received(self, entry: Entry) -> bool:
        """Whether a job whose submission was interrupted has arrived."""
        return False

    def outputs(self, entry: Entry) -> Iterator[Mapping[str, Any]]:
        """What each call of a completed job returned, as arrays or nested lists."""
        raise NotImplementedError

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        """The model's configuration and tokenizer, without its weights."""
        from remote_mi.models.load import UNSENT_ID, build_weightless

        watch.stage(f"describing {spec.name} (configuration and tokenizer only)")
        return build_weightless(spec, watch, UNSENT_ID)

    def record_of(self, entry: Entry) -> dict[str, Any]:
        """The job's record in the provenance of its run."""
        seen = self.ledger.timeline(entry.id)
        return {
            "job_id": entry.id,
            "timeline": [[s["status"], s["time"]] for s in seen],
            "seconds": round(seen[-1]["time"] - entry.created, 3) if seen else None,
        }

    def stop(self, entry: Entry) -> None:
        """Stop a job whose result is no longer wanted, if possible."""

    # --- helpers for these ---

    def set_status(self, entry: Entry, status: str, description: str = "") -> None:
        """Record a new status of a job."""
        if status != entry.status:
            entry.status = status
            self.ledger.note_status(entry.id, status, description)

    def mark_failed(self, entry: Entry, error: RemoteMIError) -> RemoteMIError:
        """Record that a job ended in an error; returns the error."""
        entry.state = "failed"
        self.ledger.update(entry.id, state="failed", error=to_record(error))
        return error

    def new_entry(self, work: Work, **more: Any) -> Entry:
        """A new entry for some work, not yet recorded."""
        return Entry(
            str(uuid.uuid4()),
            work.key,
            self.name,
            self.url,
            work.card.name,
            work.spec.name,
            len(work.calls),
            dict(work.draft),
            command=current_command(),
            **more,
        )

    # --- the protocol ---

    def refresh(self, entry: Entry, watch: Watch) -> Entry:
        """Bring an open entry up to date; its lock is held. Errors as for `poll`."""
        if entry.state in ("submitting", "unknown"):
            if not self.was_received(entry):
                error = SubmissionUnknown(
                    f"job {entry.id[:8]}: {entry.url} does not know it",
                    "run the same command again",
                )
                self.mark_failed(entry, error)
                watch.note(f"{error.message}; it counts as not submitted")
                return entry
            entry.state = "submitted"
            self.ledger.update(entry.id, state="submitted")
        if entry.is_open and entry.state != "fetched":
            self.poll(entry, watch)
        return entry

    def ticket_of(self, entry: Entry) -> Ticket:
        """The ticket of an entry of the ledger."""
        return Ticket(self.name, entry.id, draft=entry.draft)

    def is_ready(self, entry: Entry) -> bool:
        """Whether an entry's outputs can be collected without waiting."""
        return entry.is_open and (entry.state == "fetched" or entry.status == COMPLETED)

    def resume(self, key: str, watch: Watch) -> Ticket | None:
        entry = self.ledger.latest_of(key, self.name)
        if entry is None:
            return None
        if entry.is_open and self.locks.take(entry.id):
            try:
                entry = self.refresh(self.ledger.get(entry.id), watch)
            except ResultExpired:
                entry = self.ledger.get(entry.id)
            except RemoteMIError as error:
                if self.ledger.get(entry.id).is_open:
                    add_resume_hint(entry.id, error)
                raise
            finally:
                self.locks.release(entry.id)
        if entry.state == "expired":
            watch.note(
                f"the result of job {entry.id[:8]} was not fetched within the time that "
                f"{entry.url} keeps results; submitting the job again"
            )
        if not entry.is_open:
            return None
        watch.note(f"job {entry.id[:8]} of the same run is already under way")
        return self.ticket_of(entry)

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        entry = self.new_entry(work)

        def send() -> bool:
            self.send(entry, model, work, watch)
            self.ledger.update(entry.id, state="submitted")
            return True

        ticket = self.record_and_send(entry, work, watch, send)
        assert ticket is not None
        return ticket

    def record_and_send(
        self, entry: Entry, work: Work, watch: Watch, send: Callable[[], bool]
    ) -> Ticket | None:
        """Record an entry and send its work; None if `send` reports that it did not arrive.

        If the same job has another entry, open or just done, that one is used instead.
        """
        self.locks.take(entry.id)  # first, so that nobody who sees the entry takes its job for lost
        try:
            claimed = self.ledger.claim(entry, work.draft["events"][0]["time"])
            if claimed.id != entry.id:
                watch.note(f"job {claimed.id[:8]} of the same run is already under way")
                self.ledger.clean(entry.id)
                return self.ticket_of(claimed)
            return self.ticket_of(entry) if send() else None
        except RemoteMIError as error:
            if not isinstance(error, (SubmissionUnknown, StoreError)):
                self.ledger.update(entry.id, state="failed", error=to_record(error))
            raise
        finally:
            self.locks.release(entry.id)

    def collect(
        self,
        ticket: Ticket,
        watch: Watch,
        timeout: float | None = None,
        on_leave: Callable[[], None] = do_nothing,
    ) -> Iterator[Outputs]:
        deadline = time.monotonic() + (timeout or DEFAULT_TIMEOUT_S)
        try:
            entry = self._acquire(ticket.id, watch, deadline)
            try:
                yield from self.await_outputs(entry, watch, deadline, on_leave)
            finally:
                ticket.record.update(self.record_of(entry))
        except KeyboardInterrupt:
            on_leave()
            self.locks.release(ticket.id)
            raise Detached(self.detached_message(self.ledger.get(ticket.id))) from None
        except BaseException as error:
            if self.ledger.get(ticket.id).is_open and not isinstance(error, GeneratorExit):
                on_leave()
                add_resume_hint(ticket.id, error)
            self.locks.release(ticket.id)
            raise

    def detached_message(self, entry: Entry) -> str:
        """The message for somebody who stops waiting."""
        short = entry.id[:8]
        return (
            f"job {short} goes on at {self.url}, and its result will be fetched: "
            f"`remote-mi jobs wait {short}` or the same command picks it up\n"
            f"  `remote-mi jobs forget {short}` gives up its result"
        )

    def _acquire(self, job_id: str, watch: Watch, deadline: float) -> Entry:
        """Wait until this process holds the job's lock."""
        while not self.locks.take(job_id):
            entry = self.ledger.get(job_id)
            if entry.state == "done":
                raise FinishedElsewhere
            watch.stage(
                f"{entry.url} · {entry.status.lower() or 'submitting'} "
                "(another process fetches the result)"
            )
            if time.monotonic() > deadline:
                raise_wait_timeout(entry)
            time.sleep(0.1)
        entry = self.ledger.get(job_id)
        if entry.state == "done":
            raise FinishedElsewhere
        if not entry.is_open:
            raise from_record(entry.error or {"message": f"job {job_id[:8]} is {entry.state}"})
        return entry

    def await_outputs(
        self, entry: Entry, watch: Watch, deadline: float, on_leave: Callable[[], None]
    ) -> Iterator[Outputs]:
        """Wait for a job whose lock is held; the outputs of each call.

        Args:
            deadline: on the monotonic clock. on_leave: called once if the wait takes seconds.
        """
        pause, begun, told = POLL_FIRST_S, time.monotonic(), False
        while not self.is_ready(self.refresh(entry, watch)):
            if not entry.is_open:
                raise from_record(self.ledger.get(entry.id).error or {})
            watch.stage(f"{entry.url} · {entry.status.lower() or 'submitted'}")
            if time.monotonic() >= deadline:
                raise_wait_timeout(entry)
            if not told and time.monotonic() - begun > _LONG_WAIT_S:
                told = True
                on_leave()
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * POLL_GROWTH, POLL_LAST_S)
        yield from self.checked_outputs(entry, self.outputs(entry))

    def checked_outputs(
        self, entry: Entry, calls: Iterator[Mapping[str, Any]]
    ) -> Iterator[Outputs]:
        """What each call returned, checked against the recipe's declaration."""
        recipe, draft = f"job {entry.id[:8]}: recipe {entry.recipe!r}", entry.draft
        declared = outputs_from_json(draft["recipe"]["returns"])
        outputs = {name: output for name, output in declared.items() if not output.judges}
        once = draft["recipe"]["over"] not in ("prompt", "pair")
        examples = len(draft["parts"]) if once else None
        for returned in calls:
            yield check_outputs(recipe, outputs, returned, examples)

    def close(self, ticket: Ticket, run: str | None, error: RemoteMIError | None = None) -> None:
        """Mark the entry of a saved run as done; if the run could not be saved, it stays open."""
        try:
            if error is not None:
                self.ledger.update(ticket.id, state="failed", error=to_record(error))
            elif run is not None:
                self.ledger.update(ticket.id, state="done", run=run, finished=time.time())
            if error is not None or run is not None:
                self.ledger.clean(ticket.id)
        except StoreError:
            pass  # the result is shown anyway; the next command finds the entry as it was
        self.locks.release(ticket.id)

    def forget(self, entry: Entry) -> None:
        """Give up a job's result."""
        self.ledger.update(entry.id, state="forgotten")
        self.ledger.clean(entry.id)
        if entry.is_open:
            self.stop(entry)


def raise_wait_timeout(entry: Entry) -> NoReturn:
    """Raise the error of a wait that ended before the job did.

    Raises:
        QueueTimeout: if the job has not started. StillRunning: if it has.
    """
    kind = QueueTimeout if entry.status in WAITING else StillRunning
    raise kind(
        f"job {entry.id[:8]}: the wait for {entry.url} ended at status {entry.status or 'none yet'}",
        resume_hint(entry.id),
    )


def resume_hint(job_id: str) -> str:
    """What to type to come back to a job."""
    short = job_id[:8]
    return (
        f"it is not lost: `remote-mi jobs wait {short}`, or the same command, goes on; "
        f"`remote-mi jobs forget {short}` gives it up"
    )


def add_resume_hint(job_id: str, error: BaseException) -> None:
    """Make an error that ends the wait for an open job name it and say how to come back."""
    if not isinstance(error, RemoteMIError):
        return
    name, back = f"job {job_id[:8]}", resume_hint(job_id)
    if name not in error.message:
        error.message = f"{name}: {error.message}"
    if back not in (error.hint or ""):
        suggest_doctor = isinstance(error, BackendUnavailable) or not error.hint
        error.hint = (
            f"{back}; `remote-mi doctor` checks the server"
            if suggest_doctor
            else f"{error.hint}; {back}"
        )
