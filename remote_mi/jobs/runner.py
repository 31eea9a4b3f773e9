"""From a job to its result: found, or planned, executed and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from remote_mi.backends.options import Option
from remote_mi.backends.registry import parse_backend
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Watch
from remote_mi.jobs.dispatch.plan import Dispatcher, Plan, download_not_allowed
from remote_mi.jobs.early_checks import check_before_loading
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import (
    ResultPlace,
    earlier_result_note,
    find_computed_elsewhere,
    first_place_with_result,
    look_up,
)
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from remote_mi.backends.base import Ticket

#: Decides whether the download that a plan requires is allowed.
Permit = Callable[[Plan], bool]


def deny_downloads(plan: Plan) -> bool:
    """The default where nobody can be asked: no large downloads."""
    return False


def execute(
    job: Job, backend: str, timeout: float | None, watch: Watch, permit: Permit = deny_downloads
) -> Result:
    """The job's result: from the runs, from the cache, or computed now. Errors as `remote_mi.run`.

    Args:
        permit: called before a download that is larger than the settings allow without asking.
    """
    found = _find_or_plan(job, backend, watch, permit)
    if isinstance(found, Result):
        return found
    from remote_mi.jobs.execution import Execution  # slow to import, and a hit needs none of it

    job, plan = found
    return Execution(job, plan, watch).result(timeout)


def submit_or_find(
    job: Job, backend: str, watch: Watch, permit: Permit = deny_downloads
) -> Result | Ticket:
    """Submit the job and return at once: its ticket, or its existing result.

    Raises:
        UsageError: if the backend cannot run jobs in the background. Others as `remote_mi.run`.
    """
    found = _find_or_plan(job, backend, watch, permit)
    if isinstance(found, Result):
        return found
    return _submit(*found, watch)


def submit_planned(job: Job, plan: Plan, watch: Watch) -> Result | Ticket:
    """As `submit_or_find`, for a job that is already planned."""
    if plan.model != job.model:
        job = replace(job, model=plan.model)
    return _find_on_chosen(job, plan) or _submit(job, plan, watch)


def _submit(job: Job, plan: Plan, watch: Watch) -> Result | Ticket:
    kind, _ = parse_backend(plan.chosen.backend)
    if not kind.detaches:
        raise UsageError(
            f"{kind.name} cannot run a job in the background",
            "leave --detach out, or name a server: --backend ndif",
        )
    from remote_mi.jobs.execution import Execution

    started = Execution(job, plan, watch).start()
    return started if isinstance(started, Result) else started.ticket


def look_up_anywhere(job: Job, requested: str) -> Result | None:
    """The existing result that a run on this backend would reuse, else one of any environment."""
    return look_up(job, Dispatcher(job.project).backends(requested)) or find_computed_elsewhere(job)


def survey(job: Job, requested: str, everything: bool = True) -> tuple[Plan, ResultPlace | None]:
    """Where `execute` would find or compute the result, and the place of an existing one.

    Args:
        everything: consider every backend, even after one was found that has it or can run it.
    """
    planner = Dispatcher(job.project)
    place = first_place_with_result(job, planner.backends(requested))
    if place is None:
        check_before_loading(job)
        return (planner.survey if everything else planner.plan)(job, requested), None
    there = Option(
        place.backend, True, f"already computed there: {place.description}", model=job.model
    )
    if not everything:
        return Plan(there, (there,)), place
    return planner.survey(job, requested, there), place


def _find_or_plan(
    job: Job, requested: str, watch: Watch, permit: Permit
) -> Result | tuple[Job, Plan]:
    """The existing result, or the plan and the job with the model as the plan runs it."""
    planner = Dispatcher(job.project)
    hit = look_up(job, planner.backends(requested))
    if hit is not None:
        return hit
    check_before_loading(job)
    note = earlier_result_note(job)
    if note:
        watch.note(note)
    plan = planner.plan(job, requested)
    watch.note(plan.line())
    if plan.model != job.model:
        job = replace(job, model=plan.model)
        hit = _find_on_chosen(job, plan)  # from a device that was not the first choice
        if hit is not None:
            return hit
    if plan.download and not permit(plan):
        raise download_not_allowed(plan)
    return job, plan


def _find_on_chosen(job: Job, plan: Plan) -> Result | None:
    """The existing result of the backend that a plan has chosen."""
    return look_up(job, [(plan.chosen.backend, plan.open(job.project))])
