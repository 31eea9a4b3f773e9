"""Jobs on servers, from any process: their state, waiting for them, giving them up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remote_mi.backends.base import FinishedElsewhere
from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.registry import backend_of, error_of
from remote_mi.common.display import Displayed
from remote_mi.common.errors import NotFound
from remote_mi.common.progress import Silent, Watch
from remote_mi.jobs import start_collector
from remote_mi.jobs.execution import Started, finish
from remote_mi.jobs.job import Job
from remote_mi.jobs.runner import submit_or_find
from remote_mi.store.draft import Draft
from remote_mi.store.opening import load_run
from remote_mi.store.result import Result


class RemoteJob(Displayed):
    """A job that was submitted to a server, or its result if there already was one.

    Attributes:
        id: of the job; None if nothing had to be submitted.
    """

    def __init__(self, project: Path, job_id: str | None, result: Result | None = None) -> None:
        self.project, self.id, self._result = project, job_id, result

    @property
    def entry(self) -> Entry:
        """Its current entry in the ledger.

        Raises:
            NotFound: if nothing was submitted.
        """
        if self.id is None:
            raise NotFound("nothing was submitted: there already was a result")
        return Ledger(self.project).get(self.id)

    @property
    def state(self) -> str:
        """One of `remote_mi.backends.ledger.STATES`."""
        return self.entry.state if self.id else "done"

    @property
    def timeline(self) -> list[dict[str, Any]]:
        """Every status seen so far: time, status, description."""
        return Ledger(self.project).timeline(self.id) if self.id else []

    def wait(self, timeout: float | None = None, watch: Watch | None = None) -> Result:
        """Wait up to `timeout` seconds for the result; errors as `remote_mi.run`."""
        if self._result is None:
            self._result = collect(self.entry, self.project, timeout, watch or Silent())
        return self._result

    def __repr__(self) -> str:
        if self.id is None:
            return "<RemoteJob: there already was a result>"
        entry = self.entry
        return (
            f"<RemoteJob {entry.id[:8]} {entry.recipe} on {entry.url}: "
            f"{entry.state} {entry.status.lower()}>"
        )


def submit_job(job: Job, backend: str, watch: Watch) -> RemoteJob:
    """Submit a job and leave it to the collector; errors as `remote_mi.run`."""
    submitted = submit_or_find(job, backend, watch)
    if isinstance(submitted, Result):
        return RemoteJob(job.project, None, submitted)
    start_collector.start(job.project)
    return RemoteJob(job.project, submitted.id)


def collect(entry: Entry, project: Path, timeout: float | None, watch: Watch) -> Result:
    """The result of a ledger entry: fetched and saved now, or loaded from its run.

    Raises:
        RemoteMIError: the error the job ended with, or what `Backend.collect` raises.
    """
    if entry.is_open:
        backend = backend_of(entry, project)
        try:
            started = Started(backend.ticket_of(entry), Draft.from_json(entry.draft))
            return finish(backend, started, project, timeout, watch)
        except FinishedElsewhere:
            entry = Ledger(project).get(entry.id)
    if entry.state == "done" and entry.run:
        return load_run(entry.run, project)
    error = error_of(entry)
    if error is not None:
        raise error
    raise NotFound(f"job {entry.id[:8]} is {entry.state}", "run the same command again")


def forget(entry: Entry, project: Path) -> None:
    """Give up a job's result; the backend stops the job if it can."""
    backend_of(entry, project).forget(entry)
