"""The one place that joins the rooms: job → hit or plan → run → store → result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi import catalog, phenomena
from remote_mi.backends.base import Outputs, Work
from remote_mi.dispatch.plan import Plan, choose
from remote_mi.environment import Environment, local_environment
from remote_mi.errors import Mismatch, RemoteMIError, StoreError, UsageError
from remote_mi.job import Job
from remote_mi.key import digest
from remote_mi.models.spec import ModelSpec
from remote_mi.paths import cache_root, project_folder
from remote_mi.phenomena import PromptSet
from remote_mi.progress import Silent, Watch
from remote_mi.recipe import INPUTS, card_of
from remote_mi.results import Result
from remote_mi.store.cache import Cache
from remote_mi.store.runs import RunRecord, Runs

if TYPE_CHECKING:
    from remote_mi.models.tokens import Tokenized


@dataclass(frozen=True)
class PromptChoice:
    """Which prompts a job takes: exactly one of a phenomenon, a file, or texts.

    Attributes:
        phenomenon: name or file, optionally `name:template`.
        pairs: JSONL file, or a list of dicts as its lines.
        texts: prompt/target or clean/corrupt/answer/wrong.
        size, seed: of a phenomenon; None takes the phenomenon's own.
    """

    phenomenon: str | None = None
    pairs: str | Path | list[Mapping[str, str]] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    seed: int | None = None

    def resolve(self, project: Path) -> PromptSet:
        """The prompts as text.

        Raises:
            UsageError: if none or more than one source is given.
            NotFound: for an unknown phenomenon or template.
        """
        given = [self.phenomenon is not None, self.pairs is not None, bool(self.texts)]
        if sum(given) != 1:
            raise UsageError(
                "give the prompts one way" if sum(given) else "there are no prompts",
                "--phenomenon NAME, or --pairs FILE.jsonl, or -p prompt=…, or "
                "-p clean=… -p corrupt=… -p answer=… -p wrong=…",
            )
        if self.phenomenon is not None:
            name, _, template = self.phenomenon.partition(":")
            found = phenomena.find(name, project)
            return found.prompts(self.size, self.seed, template or None)
        if self.seed is not None:
            raise UsageError("--seed belongs to a phenomenon", "leave it out")
        if self.texts:
            return PromptSet((phenomena.from_fields(self.texts),), "command line")
        if isinstance(self.pairs, list):
            examples = tuple(phenomena.from_fields(fields) for fields in self.pairs)
            prompts = PromptSet(examples, "list")
        else:
            assert self.pairs is not None
            prompts = phenomena.from_jsonl(Path(self.pairs))
        if self.size is not None and not 1 <= self.size <= len(prompts.examples):
            raise UsageError(f"-n {self.size}: there are {len(prompts.examples)} prompts")
        return PromptSet(prompts.examples[: self.size], prompts.origin)


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
        parameters: the recipe's parameters whose names are taken by the arguments above.
        **inputs: the recipe's parameters, and prompt/target or clean/corrupt/answer/wrong.

    Raises:
        RemoteMIError: every problem a user can act on, by kind (see `remote_mi.errors`).
    """
    spec = ModelSpec(model) if isinstance(model, str) else model
    texts = {k: v for k, v in inputs.items() if k in INPUTS and v is not None}
    choice = PromptChoice(phenomenon, pairs, texts, n, seed)
    given = {**(parameters or {}), **{k: v for k, v in inputs.items() if k not in INPUTS}}
    folder = Path(project).absolute() if project else project_folder()
    job = make_job(recipe, spec, choice, given, folder, drop_invalid)
    return execute(job, backend, timeout, watch or Silent())


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
    if "attention_weights" in card.needs:
        if spec.attention not in ("auto", "eager"):
            raise UsageError(f"recipe {card.name!r} reads attention weights, which attention "
                             f"{spec.attention!r} does not give", "leave --attention out")  # fmt: skip
        spec = replace(spec, attention="eager")
    prompts = choice.resolve(project)
    if card.over == "pair":
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
    function = None if isinstance(recipe, str) else recipe
    return Job(card, spec, prompts, card.resolve(given), project, function, drop_invalid)


def execute(job: Job, backend: str, timeout: float | None, watch: Watch) -> Result:
    """The job's result: from the runs, from the cache, or computed now. Errors as `run`."""
    plan = choose(backend, job.model)
    hit = look_up(job, plan)
    if hit is not None:
        return hit
    return _Execution(job, plan, timeout, watch).result()


def look_up(job: Job, plan: Plan) -> Result | None:
    """The result of the same job in the same environment, or None; never imports torch."""
    environment = plan.backend.environment(job.model)
    if environment is None:
        return None
    runs, cache = Runs(job.project), Cache(cache_root())
    id8 = _id8(job, environment)
    for name in runs.by_id8(id8):
        try:
            if runs.read_info(name)["status"] == "done":
                result = runs.read(name)
                return _shown_as_now(result, job, "run")
        except Mismatch:
            continue  # a damaged run is computed again, or taken from the cache
    entry = cache.get(job.key, environment)
    if entry is None:
        return None
    result = Result(job.card.shown(), entry.document, entry.arrays, dict(entry.record))
    try:
        result = runs.write(RunRecord(id8, result, job.lock(), job.sources(),
                                      [_event("taken from the cache")]))  # fmt: skip
    except StoreError:
        pass  # a project that cannot be written still shows what the cache has
    return _shown_as_now(result, job, "cache")


def _shown_as_now(result: Result, job: Job, source: str) -> Result:
    """The result with the recipe's figures as they are today, and where it came from."""
    result.recipe = job.card.shown()
    result.provenance = {**result.provenance, "cache": "hit", "hit_from": source}
    return result


def _id8(job: Job, environment: Environment) -> str:
    return digest([job.key, environment.id])[:8]


def _event(what: str, **more: Any) -> dict[str, Any]:
    return {"time": round(time.time(), 3), "event": what, **more}


class _Execution:
    """One execution of a job that is not there yet."""

    def __init__(self, job: Job, plan: Plan, timeout: float | None, watch: Watch) -> None:
        self.job, self.plan, self.timeout, self.watch = job, plan, timeout, watch
        self.cache = Cache(cache_root())
        self.events = [_event("planned", backend=plan.backend.name, reason=plan.reason)]
        self.unsaved: StoreError | None = None
        self.record: dict[str, Any] = {}

    def result(self) -> Result:
        try:
            return self._compute()
        except RemoteMIError as error:
            self._keep_failure(error)
            raise

    def _compute(self) -> Result:
        from remote_mi.models.tokens import tokenize
        from remote_mi.statistics import assemble

        job = self.job
        model = self.plan.backend.open(job.model, self.watch)
        tokenized = tokenize(model.tokenizer, job.prompts, job.model, job.card.over,
                             model.context, job.drop_invalid)  # fmt: skip
        raw = self._raw_outputs(model, tokenized)
        self.watch.stage("putting the results together")
        assembled = assemble(job.card, self._parts(raw, tokenized))
        notes = [f"left out: {why}" for why in tokenized.dropped.values()] + tokenized.doubts
        notes += assembled.notes
        document = {
            "parts": [
                {"tokens": p.tokens, "labels": dict(p.labels), **p.text}
                for p in self._parts(raw, tokenized, texts_only=True)
            ],
            "axes": assembled.axes,
            "notes": notes,
            "vocabulary": self._vocabulary(model.tokenizer, raw),
        }
        environment = self.environment()
        provenance = self._provenance(environment, tokenized.record)
        return self._store(Result(job.card.shown(), document, assembled.arrays, provenance))

    def environment(self) -> Environment:
        """Where it was computed: for a local run the device that was really used."""
        if "device" in self.record:
            return local_environment(self.record["device"])
        found = self.plan.backend.environment(self.job.model)
        return found or Environment(self.plan.backend.name, "unknown", "unknown", "unknown")

    def _raw_outputs(self, model: Any, tokenized: Tokenized) -> list[Outputs]:
        """Raw outputs of every call: those of the cache, and the others computed and kept."""
        from remote_mi.interventions import reuses_prefix

        job, backend = self.job, self.plan.backend
        calls = [tokenized.prompts] if job.card.over == "set" else tokenized.prompts
        keys = (
            job.part_keys if job.card.over == "set" else [job.part_keys[i] for i in tokenized.kept]
        )
        if job.card.over == "set" and tokenized.dropped:
            keys = [digest([keys[0], tokenized.kept])]
        self.record = dict(model.record)
        if not reuses_prefix(model.lm):
            self.record["sweeps"] = "in full: its attention does not let rows share a prefix"
        environment = self.environment()
        found = [self.cache.get(key, environment) for key in keys]
        outputs: list[Outputs | None] = [entry.arrays if entry else None for entry in found]
        missing = [index for index, entry in enumerate(outputs) if entry is None]
        self.events.append(_event("looked up", parts=len(keys), missing=len(missing)))
        if missing:
            function = job.function
            if function is None:
                function = catalog.load_function(job.card, job.project)
            else:
                catalog.ship_by_value({})
            work = Work(job.card, function, [calls[i] for i in missing], job.parameters, job.key)
            self.watch.stage(f"running {job.card.name} on {backend.name}")
            ticket = backend.submit(model, work, self.watch)
            self.events.append(_event("submitted", id=ticket.id))
            arrived = backend.collect(ticket, self.watch, self.timeout)
            for index, computed in zip(missing, arrived, strict=True):
                outputs[index] = computed
                self._keep_part(keys[index], environment, computed)
            self.record.update(ticket.record)
            self.events.append(_event("collected", **{"record": ticket.record}))
        self.record["parts_from_cache"] = len(keys) - len(missing)
        return [entry for entry in outputs if entry is not None]

    def _keep_part(self, key: str, environment: Environment, computed: Outputs) -> None:
        if self.unsaved is None:
            try:
                self.cache.put(key, environment, {}, computed, {})
            except StoreError as error:
                self.unsaved = error

    def _parts(
        self, raw: list[Outputs], tokenized: Tokenized, texts_only: bool = False
    ) -> list[Any]:
        from remote_mi.statistics import Part

        parts = []
        for index, kept in enumerate(tokenized.kept):
            example = self.job.prompts.examples[kept]
            text = {"clean": example.clean, "corrupt": example.corrupt, "answer": example.answer,
                    "wrong": example.wrong, "template": example.template}  # fmt: skip
            arrays = raw[0] if self.job.card.over == "set" else raw[index]
            parts.append(Part(arrays, tokenized.tokens[index], tokenized.labels[index],
                              example.template, text))  # fmt: skip
        if self.job.card.over == "set" and not texts_only:
            return parts[:1]
        return parts

    def _vocabulary(self, tokenizer: Any, raw: list[Outputs]) -> dict[str, str]:
        """Text of every token id that an output holds."""
        ids: set[int] = set()
        for name, output in self.job.card.returns.items():
            if output.kind == "token":
                for outputs in raw:
                    ids.update(int(i) for i in outputs[name].reshape(-1))
        return {str(i): tokenizer.decode([i]) for i in sorted(ids)}

    def _provenance(self, environment: Environment, prompts: Mapping[str, Any]) -> dict[str, Any]:
        job = self.job
        return {
            "key": job.key,
            "code": job.code,
            "backend": self.plan.backend.name,
            "reason": self.plan.reason,
            "environment": environment.to_json(),
            "model": job.model.identity(),
            "parameters": dict(job.parameters),
            "prompts": {"origin": job.prompts.origin, **job.prompts.details, **prompts},
            "record": self.record,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cache": "miss",
        }

    def _store(self, result: Result) -> Result:
        """Keep the result in the cache and as a run; if neither can be, it is still given."""
        job = self.job
        environment = self.environment()
        if self.unsaved is None:
            try:
                self.cache.put(job.key, environment, result.document, result.arrays,
                               result.provenance)  # fmt: skip
            except StoreError as error:
                self.unsaved = error
        if self.unsaved is not None:
            self.watch.note(f"warning: not cached: {self.unsaved}")
            result.provenance = {**result.provenance, "cache": "miss (not cached)"}
        self.events.append(_event("finished"))
        record = RunRecord(_id8(job, environment), result, job.lock(), job.sources(), self.events)
        try:
            return Runs(job.project).write(record)
        except StoreError as error:
            self.watch.note(f"warning: the run is not kept: {error}")
            return result

    def _keep_failure(self, error: RemoteMIError) -> None:
        """A failed run leaves its error behind; a mistake before anything ran does not."""
        if not any(event["event"] == "submitted" for event in self.events):
            return
        self.events.append(_event("failed", error=str(error)))
        environment = self.environment()
        empty = {"parts": [], "axes": {}, "notes": [], "vocabulary": {}}
        result = Result(self.job.card.shown(), empty, {}, self._provenance(environment, {}))
        try:
            Runs(self.job.project).write(RunRecord(
                _id8(self.job, environment), result, self.job.lock(), self.job.sources(),
                self.events, str(error),
            ))  # fmt: skip
        except StoreError:
            pass  # the error itself is what the user needs to see
