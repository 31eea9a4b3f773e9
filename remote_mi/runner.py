"""The one place that joins the rooms: job → hit or plan → run → store → result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi import catalog, phenomena
from remote_mi.backends.base import Backend, FinishedElsewhere, Ticket, Work
from remote_mi.dispatch.plan import Dispatcher, Plan, needs_a_yes
from remote_mi.draft import Draft, run_id8
from remote_mi.environment import Environment, local_environment
from remote_mi.errors import (
    BackendUnavailable,
    Mismatch,
    RemoteMIError,
    RunFailed,
    StoreError,
    UsageError,
    WaitTimeout,
)
from remote_mi.finishing import Finisher, event
from remote_mi.job import Job
from remote_mi.key import digest
from remote_mi.models.spec import ModelSpec
from remote_mi.paths import project_folder
from remote_mi.phenomena import PromptSet
from remote_mi.progress import Silent, Watch
from remote_mi.prompt_choice import PromptChoice
from remote_mi.recipe import INPUTS, Card, card_of
from remote_mi.results import Result
from remote_mi.store.cache import Cache, Entry
from remote_mi.store.runs import RunRecord, Runs

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel
    from remote_mi.models.tokens import Tokenized


def run(
    recipe: str | Callable[..., Any],
    *,
    model: str | ModelSpec = ModelSpec(),  # noqa: B008 - immutable
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
        parameters: the recipe's parameters whose names are taken by the arguments above.
        **inputs: the recipe's parameters, and prompt/target or clean/corrupt/answer/wrong.

    Raises:
        RemoteMIError: every problem a user can act on, by kind (see `remote_mi.errors`).
    """
    job = job_from(recipe, model, phenomenon, pairs, n, seed, drop_invalid, project, parameters,
                   inputs)  # fmt: skip
    return execute(job, backend, timeout, watch or Silent(), lambda plan: fetch)


def job_from(
    recipe: str | Callable[..., Any],
    model: str | ModelSpec,
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
    spec = ModelSpec(model) if isinstance(model, str) else model
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
            raise UsageError(f"recipe {card.name!r} reads attention weights, which attention "
                             f"{spec.attention!r} does not give", "leave --attention out")  # fmt: skip
        spec = replace(spec, attention="eager")
    if card.analysis and card.path is None:
        raise UsageError(f"recipe {card.name!r} has an analysis and no file",
                         "write it into a file, and name the file")  # fmt: skip
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
    model: str | ModelSpec = ModelSpec(),  # noqa: B008 - immutable
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
    job = job_from(recipe, model, phenomenon, pairs, n, seed, drop_invalid, project, parameters,
                   inputs)  # fmt: skip
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
    return _Execution(job, where, watch).result(timeout)


def hand_over(job: Job, backend: str, watch: Watch, permit: Permit = nobody) -> Result | Ticket:
    """Submit the job and return at once: its ticket, or the result that is already there.

    Raises:
        UsageError: if the backend runs jobs only while it is waited for. Others as `run`.
    """
    planned = _planned(job, backend, watch, permit)
    if isinstance(planned, Result):
        return planned
    job, where = planned
    if not where.backend.detaches:
        raise UsageError(f"{where.backend.name} runs a job only while it is waited for",
                         "leave --detach out, or name a server: --backend ndif")  # fmt: skip
    return _Execution(job, where, watch).ticket()


def _planned(job: Job, asked: str, watch: Watch, permit: Permit) -> Result | tuple[Job, Plan]:
    """The result that is there, or the job with the model as it is to be run, and where."""
    planner = Dispatcher(job.project, lambda job, backend: None)  # hits are looked for here
    for name in planner.candidates(asked):
        hit = look_up(job, planner.backend(name))
        if hit is not None:
            return hit
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


def finish(
    backend: Backend,
    ticket: Ticket,
    draft: Draft,
    project: Path,
    timeout: float | None,
    watch: Watch,
    tokenizer: Any = None,
) -> Result:
    """Wait for a submitted job and make the run of it, in whatever process it was submitted.

    Args:
        tokenizer: the model's, where it is at hand.

    Raises:
        FinishedElsewhere: if another process was quicker. Others as `Backend.collect`; a job that
        failed leaves a failed run behind.
    """
    finisher = Finisher(draft, project, watch, tokenizer)
    try:
        computed = backend.collect(ticket, watch, timeout)
        for index, outputs in zip(draft.missing, computed, strict=True):
            finisher.take(index, outputs)
    except (WaitTimeout, BackendUnavailable, StoreError):
        raise  # the job may still give a result
    except RemoteMIError as error:
        finisher.failure(error, ticket.record)
        raise
    draft.events.append(event("collected", record=ticket.record))
    try:
        result = finisher.result(ticket.record)
    except Mismatch as error:
        backend.settle(ticket, None, error)
        raise
    except RunFailed as error:  # its analysis; the outputs are cached
        finisher.failure(error, ticket.record)
        backend.settle(ticket, None, error)
        raise
    kept = result.path is not None or finisher.unsaved is None
    backend.settle(ticket, result.run_id if kept else None)
    return result


def look_up(job: Job, backend: Backend) -> Result | None:
    """The result of the same job in the same environment, or None; never imports torch."""
    environment = backend.environment(job.model)
    if environment is None:
        return None
    kept = Runs(job.project).lookup(job.key, environment)
    if kept is not None:
        return _shown_as_now(kept, job, "run")
    entry = Cache(job.cache).get(job.key, environment)
    return None if entry is None else _from_cache(job, entry)


def found(job: Job, backend: Backend) -> str | None:
    """Where the result of a job of a backend is: "run NAME", "the cache", or None."""
    environment = backend.environment(job.model)
    if environment is None:
        return None
    kept = Runs(job.project).lookup(job.key, environment)
    if kept is not None:
        return f"run {kept.run_id}"
    return None if Cache(job.cache).get(job.key, environment) is None else "the cache"


def look_anywhere(job: Job, asked: str) -> Result | None:
    """As a run with this backend would find it, else what was computed in any other environment.

    The provenance of the latter says under `reused` that this was asked for.
    """
    planner = dispatcher(job.project)
    for name in planner.candidates(asked):
        hit = look_up(job, planner.backend(name))
        if hit is not None:
            return hit
    runs, cache = Runs(job.project), Cache(job.cache)
    for environment in cache.environments(job.key):
        noted = f"taken on request, computed in {environment}"
        kept = runs.lookup(job.key, environment)
        if kept is not None:
            return _shown_as_now(kept, job, "run", reused=noted)
        entry = cache.get(job.key, environment)
        if entry is not None:
            return _from_cache(job, entry, reused=noted)
    return None


def _from_cache(job: Job, entry: Entry, **noted: str) -> Result:
    """A run of the project that is made from what the cache has.

    Args:
        noted: for its provenance.
    """
    provenance = {**entry.record, **noted}
    result = Result(job.card.shown(), entry.document, entry.arrays, provenance)
    id8 = run_id8(job, entry.environment)
    try:
        result = Runs(job.project).write(RunRecord(id8, result, job.lock(), job.sources(),
                                                   [event("taken from the cache")]))  # fmt: skip
    except StoreError:
        pass  # a project that cannot be written still shows what the cache has
    return _shown_as_now(result, job, "cache", **noted)


def _shown_as_now(result: Result, job: Job, source: str, **noted: str) -> Result:
    """The result with the recipe's figures as they are today, and where it came from."""
    result.recipe = job.card.shown()
    result.provenance = {**result.provenance, **noted, "cache": "hit", "hit_from": source}
    return result


class _Execution:
    """One execution of a job that is not there yet."""

    def __init__(self, job: Job, plan: Plan, watch: Watch) -> None:
        self.job, self.plan, self.backend, self.watch = job, plan, plan.backend, watch
        self.events = [event("planned", backend=plan.backend.name, reason=plan.reason)]

    def ticket(self) -> Result | Ticket:
        """The job's ticket: of the same job if it is under way already, else submitted now."""
        ticket = self.backend.resume(self.job.key, self.watch)
        if ticket is None:
            model, draft, calls = self._prepare()
            if not draft.missing:
                return Finisher(draft, self.job.project, self.watch, model.tokenizer).result({})
            ticket = self._submit(model, draft, calls)
        return ticket

    def result(self, timeout: float | None) -> Result:
        """The job's result, waited for."""
        while True:
            tokenizer = None
            ticket = self.backend.resume(self.job.key, self.watch)
            if ticket is not None:
                draft = Draft.from_json(ticket.draft)
            else:
                model, draft, calls = self._prepare()
                tokenizer = model.tokenizer
                if not draft.missing:
                    return Finisher(draft, self.job.project, self.watch, tokenizer).result({})
                ticket = self._submit(model, draft, calls)
                draft = Draft.from_json(ticket.draft) if ticket.draft else draft
            try:
                return finish(self.backend, ticket, draft, self.job.project, timeout, self.watch,
                              tokenizer)  # fmt: skip
            except FinishedElsewhere:
                result = look_up(self.job, self.backend)
                if result is not None:
                    return result
                # It is gone again. What was done before now does not count from here on.
                self.events = [event("planned", backend=self.backend.name, reason="once more")]

    def _prepare(self) -> tuple[LoadedModel, Draft, list[Any]]:
        """The opened model, the run so far, and what the recipe is to be called with."""
        from remote_mi.interventions import reuses_prefix
        from remote_mi.models.tokens import tokenize

        job = self.job
        model = self.backend.open(job.model, self.watch)
        tokenized = tokenize(model.tokenizer, job.prompts, job.model, job.card.over,
                             model.context, job.drop_invalid, model.masked)  # fmt: skip
        if job.card.called_once:
            calls: list[Any] = [None if job.card.over == "none" else tokenized.prompts]
            keys = job.part_keys
            if tokenized.dropped:
                keys = [digest([keys[0], tokenized.kept])]
        else:
            calls, keys = tokenized.prompts, [job.part_keys[i] for i in tokenized.kept]
        record = dict(model.record)
        if not reuses_prefix(model.lm):
            record["sweeps"] = "in full: its attention does not let rows share a prefix"
        environment = self._environment(record)
        cache = Cache(job.cache)
        missing = [i for i, key in enumerate(keys) if cache.get(key, environment) is None]
        self.events.append(event("looked up", parts=len(keys), missing=len(missing)))
        draft = self._draft(tokenized, environment, keys, missing, record)
        return model, draft, [calls[i] for i in missing]

    def _parameters(self, model: LoadedModel) -> dict[str, Any]:
        """The recipe's parameters, with texts that it takes as prompts tokenized."""
        from remote_mi.models.tokens import tokenize

        parameters = dict(self.job.parameters)
        for param in self.job.card.parameters:
            if param.kind == "prompt":
                text = PromptSet((phenomena.Example(parameters[param.name]),), param.name)
                made = tokenize(model.tokenizer, text, self.job.model, "prompt", model.context,
                                masked=model.masked)  # fmt: skip
                parameters[param.name] = made.prompts[0]
        return parameters

    def _environment(self, record: Mapping[str, Any]) -> Environment:
        """Where it is computed: for a local run the device that is really used."""
        if "device" in record:
            return local_environment(record["device"])
        found = self.backend.environment(self.job.model)
        return found or Environment(self.backend.name, "unknown", "unknown", "unknown")

    def _draft(
        self,
        tokenized: Tokenized,
        environment: Environment,
        keys: list[str],
        missing: list[int],
        record: dict[str, Any],
    ) -> Draft:
        job = self.job
        parts = []
        for index, kept in enumerate(tokenized.kept):
            example = job.prompts.examples[kept]
            text = {"clean": example.clean, "corrupt": example.corrupt, "answer": example.answer,
                    "wrong": example.wrong, "template": example.template}  # fmt: skip
            parts.append({"tokens": tokenized.tokens[index], "template": example.template,
                          "labels": dict(tokenized.labels[index]), "label": example.label,
                          "group": example.group, "text": text})  # fmt: skip
        provenance = {
            "key": job.key,
            "code": job.code,
            "backend": self.backend.name,
            "reason": self.plan.reason,
            "environment": environment.to_json(),
            "model": job.model.identity(),
            "parameters": dict(job.parameters),
            "prompts": {"origin": job.prompts.origin, **job.prompts.details, **tokenized.record},
        }
        notes = [f"left out: {why}" for why in tokenized.dropped.values()] + tokenized.doubts
        sources = {name: text.decode() for name, text in job.sources().items()}
        return Draft(
            job.card.shown(), job.card.path.name if job.card.path else None, job.key,
            run_id8(job, environment), keys, missing, job.lock(), sources, asdict(job.model), parts,
            notes, provenance, environment.to_json(), record, self.events,
            store=str(job.store or ""), about=job.about(), kept=tokenized.kept,
        )  # fmt: skip

    def _submit(self, model: LoadedModel, draft: Draft, calls: list[Any]) -> Ticket:
        job = self.job
        function = job.function
        if function is None:
            function = catalog.load_function(job.card, job.project)
        else:
            catalog.ship_by_value({})
        self.watch.stage(f"running {job.card.name} on {self.backend.name}")
        parameters = self._parameters(model)
        work = Work(job.card, function, calls, parameters, job.key, job.project, job.model,
                    draft.to_json())  # fmt: skip
        ticket = self.backend.submit(model, work, self.watch)
        draft.events.append(event("submitted", id=ticket.id))
        return ticket
