"""The one place that joins the rooms: job → hit or plan → run → store → result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remote_mi.backends.base import Ticket
from remote_mi.common.errors import UsageError
from remote_mi.common.paths import project_folder
from remote_mi.common.progress import Silent, Watch
from remote_mi.jobs.dispatch.plan import Dispatcher, Plan, needs_a_yes
from remote_mi.jobs.execution import Execution
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import computed_elsewhere, earlier, found, look_up
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.phenomena import PromptSet
from remote_mi.recipes import catalog
from remote_mi.recipes.declaration import INPUTS, Card, card_of
from remote_mi.store.result import Result


def run(
    recipe: str | Callable[..., Any],
    *,
    model: str | Path | ModelSpec = ModelSpec(),  # noqa: B008 - immutable
    phenomenon: str | None = None,
    pairs: str | Path | list[Mapping[str, str]] | None = None,
    n: int | None = None,
    seed: int | None = None,
    backend: str = "auto",
    timeout: float | None = None,
    drop_invalid: bool = False,
    project: str | Path | None = None,
    watch: Watch | None = None,
    fetch: bool = False,
    reuse_any: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> Result:
    """Run a recipe, or give the result that is already there.

    Args:
        recipe: a name, a file (`my.py`, `my.py:name`), or a function decorated with @recipe.
        model: a hub id, a folder, the embedded model's name, or a `ModelSpec`.
        phenomenon: name or file, optionally with a template: "ioi", "ioi:store".
        pairs: JSONL file or list of dicts with clean, corrupt, answer, wrong (or prompt, target).
        n, seed: how many prompts of a phenomenon, and its seed.
        backend: "auto", "local", "ndif" or "ndif:https://host".
        timeout: seconds to wait for a remote job.
        drop_invalid: leave out prompts that do not fit the tokenizer, noting which.
        project: folder of runs/ and recipes/; the working folder by default.
        watch: shows progress.
        fetch: allow a download of a model of whatever size (`limits.ask_above` in remote-mi.yaml
            is what is fetched without).
        reuse_any: take a result that was computed in any environment; its provenance says so.
        parameters: the recipe's parameters whose names are taken by the arguments above.
        **inputs: the recipe's parameters, and prompt/target or clean/corrupt/answer/wrong.

    Raises:
        RemoteMIError: every problem a user can act on, by kind (see `remote_mi.common.errors`).
    """
    job = job_from(
        recipe, model, phenomenon, pairs, n, seed, drop_invalid, project, parameters, inputs
    )
    kept = look_anywhere(job, backend) if reuse_any else None
    return kept or execute(job, backend, timeout, watch or Silent(), lambda plan: fetch)


def job_from(
    recipe: str | Callable[..., Any],
    model: str | Path | ModelSpec,
    phenomenon: str | None,
    pairs: str | Path | list[Mapping[str, str]] | None,
    n: int | None,
    seed: int | None,
    drop_invalid: bool,
    project: str | Path | None,
    parameters: Mapping[str, Any] | None,
    inputs: Mapping[str, Any],
) -> Job:
    """The job of the arguments of `run`."""
    spec = model if isinstance(model, ModelSpec) else ModelSpec(str(model))
    texts = {k: v for k, v in inputs.items() if k in INPUTS and v is not None}
    choice = PromptChoice(phenomenon, pairs, texts, n, seed)
    given = {**(parameters or {}), **{k: v for k, v in inputs.items() if k not in INPUTS}}
    folder = Path(project).absolute() if project else project_folder()
    return make_job(recipe, spec, choice, given, folder, drop_invalid)


def make_job(
    recipe: str | Callable[..., Any],
    spec: ModelSpec,
    choice: PromptChoice,
    parameters: Mapping[str, Any],
    project: Path,
    drop_invalid: bool = False,
) -> Job:
    """A validated job; errors as `run`, as far as they show without a tokenizer."""
    card = catalog.find(recipe, project) if isinstance(recipe, str) else card_of(recipe)
    card.resolve(parameters)  # a mistyped name is told before the prompts that it was meant for
    prompts = choice.none(card.name) if card.over == "none" else choice.resolve(project)
    function = None if isinstance(recipe, str) else recipe
    return job_on(card, spec, prompts, parameters, project, function, drop_invalid)


def job_on(
    card: Card,
    spec: ModelSpec,
    prompts: PromptSet,
    parameters: Mapping[str, Any],
    project: Path,
    function: Callable[..., Any] | None = None,
    drop_invalid: bool = False,
) -> Job:
    """A validated job of a recipe and prompts that were found; errors as `make_job`."""
    if "attention_weights" in card.needs:
        if spec.attention not in ("auto", "eager"):
            raise UsageError(
                f"recipe {card.name!r} reads attention weights, which attention "
                f"{spec.attention!r} does not give",
                "leave --attention out",
            )
        spec = replace(spec, attention="eager")
    if card.analysis and card.path is None:
        raise UsageError(
            f"recipe {card.name!r} has an analysis and no file",
            "write it into a file, and name the file",
        )
    if card.takes_pairs:
        for index, example in enumerate(prompts.examples):
            if example.corrupt is None:
                raise UsageError(
                    f"recipe {card.name!r} works on clean/corrupt pairs; prompt {index + 1} has "
                    "no corrupt one",
                    "give -p clean=… -p corrupt=… -p answer=… -p wrong=…, or --phenomenon NAME",
                )
    names = {p.name for p in card.parameters}
    given = dict(parameters)
    if prompts.metric is not None and "metric" in names:
        given.setdefault("metric", prompts.metric)
    return Job(card, spec, prompts, card.resolve(given), project, function, drop_invalid)


#: Whether a download that a plan wants is allowed.
Permit = Callable[[Plan], bool]


def nobody(plan: Plan) -> bool:
    """Where nobody can be asked, no large download is made."""
    return False


def plan(
    recipe: str | Callable[..., Any],
    *,
    model: str | Path | ModelSpec = ModelSpec(),  # noqa: B008 - immutable
    phenomenon: str | None = None,
    pairs: str | Path | list[Mapping[str, str]] | None = None,
    n: int | None = None,
    seed: int | None = None,
    backend: str = "auto",
    drop_invalid: bool = False,
    project: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> Plan:
    """Where `run` with the same arguments would run the job, and why; nothing is run.

    Every backend is looked at, servers are asked. Args as `run`.

    Raises:
        BackendUnavailable: if no backend can serve. Others as `run`.
    """
    job = job_from(
        recipe, model, phenomenon, pairs, n, seed, drop_invalid, project, parameters, inputs
    )
    return dispatcher(job.project).survey(job, backend)


def dispatcher(project: Path) -> Dispatcher:
    """Plans the jobs of a project; it knows what was computed before."""
    return Dispatcher(project, found)


def execute(
    job: Job, backend: str, timeout: float | None, watch: Watch, permit: Permit = nobody
) -> Result:
    """The job's result: from the runs, from the cache, or computed now. Errors as `run`.

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
        UsageError: if the backend runs jobs only while it is waited for. Others as `run`.
    """
    planned = _planned(job, backend, watch, permit)
    if isinstance(planned, Result):
        return planned
    return hand_over_planned(*planned, watch)


def hand_over_planned(job: Job, where: Plan, watch: Watch) -> Result | Ticket:
    """As `hand_over`, where it is decided already by which backend, and why."""
    if where.model != job.model:
        job = replace(job, model=where.model)
    hit = look_up(job, where.backend)
    if hit is not None:
        return hit
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
