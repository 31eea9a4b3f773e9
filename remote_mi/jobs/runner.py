"""From a job to its result: there already, or planned, executed and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from remote_mi.backends.base import Ticket
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Watch
from remote_mi.jobs.dispatch.plan import Dispatcher, Plan, needs_a_yes
from remote_mi.jobs.execution import Execution
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import computed_elsewhere, earlier, found, look_up
from remote_mi.store.result import Result

#: Whether a download that a plan wants is allowed.
Permit = Callable[[Plan], bool]


def nobody(plan: Plan) -> bool:
    """Where nobody can be asked, no large download is made."""
    return False


def dispatcher(project: Path) -> Dispatcher:
    """Plans the jobs of a project; it knows what was computed before."""
    return Dispatcher(project, found)


def execute(
    job: Job, backend: str, timeout: float | None, watch: Watch, permit: Permit = nobody
) -> Result:
    """The job's result: from the runs, from the cache, or computed now. Errors as `remote_mi.run`.

    Args:
        permit: asked before a download that is larger than the settings allow unasked.
    """
    planned = _planned(job, backend, watch, permit)
    if isinstance(planned, Result):
        return planned
    job, where = planned
    return Execution(job, where, watch).result(timeout)


def hand_over(job: Job, backend: str, watch: Watch, permit: Permit = nobody) -> Result | Ticket:
    """Submit the job and return at once: its ticket, or the result that is already there.

    Raises:
        UsageError: if the backend runs jobs only while it is waited for. Others as `remote_mi.run`.
    """
    planned = _planned(job, backend, watch, permit)
    if isinstance(planned, Result):
        return planned
    return _submitted(*planned, watch)


def hand_over_planned(job: Job, where: Plan, watch: Watch) -> Result | Ticket:
    """As `hand_over`, where it is decided already by which backend, and why."""
    if where.model != job.model:
        job = replace(job, model=where.model)
    hit = look_up(job, where.backend)
    return hit or _submitted(job, where, watch)


def _submitted(job: Job, where: Plan, watch: Watch) -> Result | Ticket:
    if not where.backend.detaches:
        raise UsageError(
            f"{where.backend.name} runs a job only while it is waited for",
            "leave --detach out, or name a server: --backend ndif",
        )
    return Execution(job, where, watch).ticket()


def look_anywhere(job: Job, asked: str) -> Result | None:
    """As a run with this backend would find it, else what was computed in any other environment."""
    return _hit(job, dispatcher(job.project), asked) or computed_elsewhere(job)


def _hit(job: Job, planner: Dispatcher, asked: str) -> Result | None:
    """The result that is there, of the first backend that has it."""
    for name in planner.candidates(asked):
        hit = look_up(job, planner.backend(name))
        if hit is not None:
            return hit
    return None


def _planned(job: Job, asked: str, watch: Watch, permit: Permit) -> Result | tuple[Job, Plan]:
    """The result that is there, or the job with the model as it is to be run, and where."""
    planner = Dispatcher(job.project, lambda job, backend: None)  # hits are looked for here
    hit = _hit(job, planner, asked)
    if hit is not None:
        return hit
    note = earlier(job)
    if note:
        watch.note(note)
    where = planner.plan(job, asked)
    watch.note(where.line())
    if where.model != job.model:
        job = replace(job, model=where.model)
        hit = look_up(job, where.backend)  # of a device that was not the first choice
        if hit is not None:
            return hit
    if where.download and not permit(where):
        raise needs_a_yes(where)
    return job, where
