"""Executing a job that has no result yet: open the model, submit, wait, write the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import Backend, FinishedElsewhere, Ticket, Work
from remote_mi.common.digests import digest
from remote_mi.common.errors import (
    BackendUnavailable,
    Mismatch,
    RemoteMIError,
    RunFailed,
    StoreError,
    UsageError,
    WaitTimeout,
)
from remote_mi.common.progress import Watch
from remote_mi.jobs import start_collector
from remote_mi.jobs.artifacts import folders_of, keep_artifacts, records_of
from remote_mi.jobs.dispatch.plan import Plan
from remote_mi.jobs.job import Job
from remote_mi.jobs.keep import Finisher, cached_outputs
from remote_mi.jobs.lookup import look_up
from remote_mi.jobs.site_checks import layers_without_site
from remote_mi.models.abilities import check_needs_by_model
from remote_mi.prompts.examples import Example
from remote_mi.recipes import loading
from remote_mi.store.cache import Cache
from remote_mi.store.draft import Draft
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result
from remote_mi.store.run_record import event_line, id8_of
from remote_mi.store.samples import PROMPT_TEXTS

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel
    from remote_mi.prompts.tokens import Tokenized


@dataclass
class Started:
    """A submitted job.

    Attributes:
        ticket: the backend's. draft: the run so far.
        tokenizer: the model's, if it is already loaded.
    """

    ticket: Ticket
    draft: Draft
    tokenizer: Any = None


def finish(
    backend: Backend, started: Started, project: Path, timeout: float | None, watch: Watch
) -> Result:
    """Wait for a submitted job and write its run; any process can do so.

    Raises:
        FinishedElsewhere: if another process was first. Others as `Backend.collect`; a job that
        failed leaves a failed run behind.
    """
    ticket, draft = started.ticket, started.draft
    finisher = Finisher(draft, project, watch, started.tokenizer)
    try:
        computed = backend.collect(ticket, watch, timeout, lambda: start_collector.start(project))
        for index, outputs in zip(draft.missing, computed, strict=True):
            finisher.add_outputs(index, outputs)
    except (WaitTimeout, BackendUnavailable, StoreError):
        raise  # the job may still finish
    except RemoteMIError as error:
        finisher.write_failure(error, ticket.record)
        raise
    draft.events.append(event_line("collected", record=ticket.record))
    try:
        result = finisher.result(ticket.record)
    except Mismatch as error:
        backend.close(ticket, None, error)
        raise
    except RunFailed as error:  # raised by its analysis; the outputs are cached
        finisher.write_failure(error, ticket.record)
        backend.close(ticket, None, error)
        raise
    saved = result.path is not None or finisher.unsaved is None
    backend.close(ticket, result.run_id if saved else None)
    return result


class Execution:
    """One execution of a job that has no result yet."""

    def __init__(self, job: Job, plan: Plan, watch: Watch) -> None:
        self.job, self.plan, self.watch = job, plan, watch
        self.backend = plan.open(job.project)
        self.events = [event_line("planned", backend=self.backend.name, reason=plan.reason)]
        self.together: list[Any] = []

    def start(self) -> Result | Started:
        """Submit the job, or resume it if it was submitted before; returns the result directly
        if all its parts are cached."""
        ticket = self.backend.resume(self.job.key, self.watch)
        if ticket is not None:
            return Started(ticket, Draft.from_json(ticket.draft))
        model, draft, calls = self._prepare()
        if not draft.missing:
            return Finisher(draft, self.job.project, self.watch, model.tokenizer).result({})
        ticket = self._submit(model, draft, calls)
        draft = Draft.from_json(ticket.draft) if ticket.draft else draft
        return Started(ticket, draft, model.tokenizer)

    def result(self, timeout: float | None) -> Result:
        """Start the job and wait for its result."""
        while True:
            started = self.start()
            if isinstance(started, Result):
                return started
            try:
                return finish(self.backend, started, self.job.project, timeout, self.watch)
            except FinishedElsewhere:
                result = look_up(self.job, [(self.backend.name, self.backend)])
                if result is not None:
                    return result
                # The result is gone again: start afresh.
                self.events = [event_line("planned", backend=self.backend.name, reason="once more")]

    def _prepare(self) -> tuple[LoadedModel, Draft, list[Any]]:
        """The opened model, the draft of the run, and the calls of the recipe to compute."""
        from remote_mi.interventions.model_info import reuses_prefix
        from remote_mi.jobs.inputs import tokenize_prompts

        job = self.job
        model = self.backend.open(job.model, self.watch)
        if job.model.identity() != job.identity:
            changed = f"the files of {job.model.name} have"
            if job.model.is_object:
                changed = f"the model in memory, {job.model.name}, has"
            raise UsageError(
                f"{changed} changed since the job was created",
                "run the same command again",
            )
        check_needs_by_model(job.card.name, job.card.needs, job.model.name, model.lm)
        empty, of_layers = layers_without_site(job.card, job.parameters, job.model.name, model)
        tokenized = tokenize_prompts(job, model)
        calls = job.card.calls(tokenized.prompts)
        if job.card.called_once:
            keys = job.part_keys
            if tokenized.dropped:
                keys = [digest([keys[0], tokenized.kept])]
        else:
            keys = [job.part_keys[i] for i in tokenized.kept]
            if job.card.setup and tokenized.dropped:
                keys = [digest([key, tokenized.kept]) for key in keys]
        record = dict(model.record)
        if not reuses_prefix(model.lm):
            record["sweeps"] = "in full: its attention does not let rows share a prefix"
        environment = self.backend.actual_environment(job.model, record)
        cache = Cache(job.cache)
        count = len(tokenized.prompts)
        missing = [
            index
            for index, key in enumerate(keys)
            if cached_outputs(cache, key, environment, job.card, count) is None
        ]
        for note in keep_artifacts(job):
            self.watch.note(f"warning: {note}")
        self.events.append(event_line("looked up", parts=len(keys), missing=len(missing)))
        draft = self._draft(tokenized, environment, keys, missing, record)
        draft.notes[:0] = [*model.notes, *of_layers]
        draft.empty_layers.extend(empty)
        self.together = tokenized.prompts if job.card.setup else []
        return model, draft, [calls[i] for i in missing]

    def _draft(
        self,
        tokenized: Tokenized,
        environment: Environment,
        keys: list[str],
        missing: list[int],
        record: dict[str, Any],
    ) -> Draft:
        job = self.job
        examples = [job.prompts.examples[kept] for kept in tokenized.kept]
        parts = [_part(tokenized, index, example) for index, example in enumerate(examples)]
        provenance = {
            "key": job.key,
            "code": job.code,
            "backend": self.backend.name,
            "reason": self.plan.reason,
            "environment": environment.to_json(),
            "model": job.identity,
            "parameters": job.shown_parameters,
            **({"artifacts": records_of(job.artifacts)} if job.artifacts else {}),
            "prompts": {"origin": job.prompts.origin, **job.prompts.details, **tokenized.record},
        }
        left_out = [*job.prompts.left_out, *tokenized.dropped.values()]
        notes = [f"left out: {why}" for why in left_out] + tokenized.warnings
        sources = {name: text.decode() for name, text in job.sources().items()}
        return Draft(
            job.card.to_json(),
            job.card.path.name if job.card.path else None,
            job.key,
            id8_of(job.key, environment),
            keys,
            missing,
            job.lock(),
            sources,
            asdict(job.model),
            parts,
            notes,
            provenance,
            environment.to_json(),
            record,
            self.events,
            store=str(job.store or ""),
            about=job.key_description(),
            kept=tokenized.kept,
            made_in=folders_of(job.artifacts),
        )

    def _submit(self, model: LoadedModel, draft: Draft, calls: list[Any]) -> Ticket:
        from remote_mi.jobs.inputs import tokenize_parameters

        job = self.job
        function = job.function
        if function is None:
            function = loading.load_function(job.card, job.project)
        else:
            loading.ship_by_value()
        self.watch.stage(f"running {job.card.name} on {self.backend.name}")
        parameters = tokenize_parameters(job, model)
        work = Work(
            job.card,
            function,
            calls,
            parameters,
            job.key,
            job.project,
            job.model,
            draft.to_json(),
            self.together,
        )
        ticket = self.backend.submit(model, work, self.watch)
        draft.events.append(event_line("submitted", id=ticket.id))
        return ticket


def _part(tokenized: Tokenized, index: int, example: Example) -> dict[str, Any]:
    """What a run stores of a prompt: its tokens, labels and texts, and what has no counterpart."""
    prompt = tokenized.prompts[index]
    clean = getattr(prompt, "clean", prompt)
    alone = sorted(set(range(len(clean.ids))) - set(clean.matched))
    return {
        **({"alone": alone} if alone else {}),
        "tokens": tokenized.tokens[index],
        "template": example.template,
        "labels": dict(tokenized.labels[index]),
        "label": example.label,
        "group": example.group,
        "behaviour": example.behaviour and example.behaviour.to_json(),
        "text": {name: getattr(example, name) for name in (*PROMPT_TEXTS, "template")},
    }
