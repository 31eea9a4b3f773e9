"""From a job to its result: there already, or planned, executed and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from remote_mi.backends.base import Ticket
from remote_mi.backends.options import Option
from remote_mi.backends.registry import parse_backend
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Watch
from remote_mi.jobs.dispatch.plan import Dispatcher, Plan, needs_a_yes
from remote_mi.jobs.execution import Execution
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import ResultPlace, computed_elsewhere, earlier, first_with_it, look_up
from remote_mi.store.result import Result

#: Whether a download that a plan wants is allowed.
Permit = Callable[[Plan], bool]


def nobody(plan: Plan) -> bool:
    """Where nobody can be asked, no large download is made."""
    return False


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
    return _there(job, where) or _submitted(job, where, watch)


def _submitted(job: Job, where: Plan, watch: Watch) -> Result | Ticket:
    kind, _ = parse_backend(where.chosen.backend)
    if not kind.detaches:
        raise UsageError(
            f"{kind.name} runs a job only while it is waited for",
            "leave --detach out, or name a server: --backend ndif",
        )
    started = Execution(job, where, watch).start()
    return started if isinstance(started, Result) else started.ticket


def look_anywhere(job: Job, asked: str) -> Result | None:
    """As a run with this backend would find it, else what was computed in any other environment."""
    return look_up(job, Dispatcher(job.project).backends(asked)) or computed_elsewhere(job)


def survey(job: Job, asked: str, everything: bool = True) -> tuple[Plan, ResultPlace | None]:
    """Where `execute` would find or compute the result, and the place that has it already.

    Args:
        everything: look at every backend, also after one was found that has it or can run it.
    """
    planner = Dispatcher(job.project)
    place = first_with_it(job, planner.backends(asked))
    if place is None:
        return (planner.survey if everything else planner.plan)(job, asked), None
    there = Option(place.backend, True, f"already computed there: {place.said}", model=job.model)
    if not everything:
        return Plan(there, (there,)), place
    return planner.survey(job, asked, there), place


def _planned(job: Job, asked: str, watch: Watch, permit: Permit) -> Result | tuple[Job, Plan]:
    """The result that is there, or the job with the model as it is to be run, and where."""
    planner = Dispatcher(job.project)
    hit = look_up(job, planner.backends(asked))
    if hit is not None:
        return hit
    note = earlier(job)
    if note:
        watch.note(note)
    where = planner.plan(job, asked)
    watch.note(where.line())
    if where.model != job.model:
        job = replace(job, model=where.model)
        hit = _there(job, where)  # of a device that was not the first choice
        if hit is not None:
            return hit
    if where.download and not permit(where):
        raise needs_a_yes(where)
    return job, where


def _there(job: Job, where: Plan) -> Result | None:
    """The result that is there already, of the backend that a plan has chosen."""
    return look_up(job, [(where.chosen.backend, where.open(job.project))])
