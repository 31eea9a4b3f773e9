"""This machine: the model is loaded here and each call runs in its own session."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import (
    Backend,
    Outputs,
    Ticket,
    Work,
    check_outputs,
    do_nothing,
    example_count,
    recipe_error,
    recipe_label,
)
from remote_mi.backends.local.passes import PassCounter
from remote_mi.backends.options import Option, Question
from remote_mi.common.authors_code import contained
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Watch
from remote_mi.models.spec import ModelSpec, local_device
from remote_mi.store.environment import Environment, local_environment

if TYPE_CHECKING:
    from remote_mi.backends.local.resources import Resources
    from remote_mi.models.load import LoadedModel


class LocalBackend(Backend):
    """Executes on this machine. `submit` only accepts the work; `collect` does it, call by call.

    What planning and running need is imported there: a hit needs `environment` only.

    Args:
        rows_bytes: memory for the rows of a sweep; None leaves it to the kit.
        machine: this machine's resources; by default measured on first use, once.
    """

    name = "local"

    def __init__(self, rows_bytes: int | None = None, machine: Resources | None = None) -> None:
        self.rows_bytes, self._machine = rows_bytes, machine
        self._waiting: dict[str, tuple[LoadedModel, Work]] = {}

    def environment(self, spec: ModelSpec) -> Environment:
        return local_environment(local_device(spec.device))

    def environments(self, spec: ModelSpec) -> list[Environment]:
        found = [self.environment(spec)]
        if spec.device == "auto":  # a model that did not fit on the GPU may have run on the CPU
            found.append(local_environment("cpu"))
        return list(dict.fromkeys(found))

    def actual_environment(self, spec: ModelSpec, record: Mapping[str, Any]) -> Environment:
        return local_environment(record["device"])

    def consider(self, question: Question) -> Option:
        from remote_mi.backends.local.fitting import consider
        from remote_mi.backends.local.resources import measure
        from remote_mi.models.checkpoint import model_cache

        if self._machine is None:
            self._machine = measure(model_cache())
        return consider(question, self._machine)

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        from remote_mi.models.load import load

        return load(spec, watch)

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        ticket = Ticket(self.name, uuid.uuid4().hex)
        self._waiting[ticket.id] = (model, work)
        return ticket

    def collect(
        self,
        ticket: Ticket,
        watch: Watch,
        timeout: float | None = None,
        on_leave: Callable[[], None] = do_nothing,
    ) -> Iterator[Outputs]:
        from remote_mi.interventions.shared_passes import share_passes
        from remote_mi.models.isolation import exclusive_model_use, settings_to_record

        model, work = self._waiting.pop(ticket.id)
        started = time.perf_counter()
        passes = PassCounter(watch, len(work.calls))
        shared = share_passes(work.calls)
        try:
            if work.card.setup:
                with exclusive_model_use(watch), passes.counting(model.lm):
                    work = replace(work, shared=self._run_setup(model, work))
            passes.begin_calls()
            for call in work.calls:
                with exclusive_model_use(watch), passes.counting(model.lm):
                    returned = self._run_call(model, replace(work, calls=[call]))
                passes.end_call()
                yield check_outputs(
                    recipe_label(work.card), work.card.returned, returned, example_count(call)
                )
        finally:
            if shared is not None:
                shared.close()
        ticket.record.update(
            seconds=round(time.perf_counter() - started, 3),
            forward_passes=passes.count,
            **settings_to_record(),
            **model.record,
        )

    def _run_setup(self, model: LoadedModel, work: Work) -> Any:
        from remote_mi.backends.session import run_setup

        return self._run_guarded(model.lm, work, lambda: run_setup(model.lm, work))

    def _run_call(self, model: LoadedModel, work: Work) -> Any:
        from remote_mi.backends.session import run_session

        return self._run_guarded(model.lm, work, lambda: run_session(model.lm, work)[0])

    def _run_guarded(self, lm: Any, work: Work, compute: Callable[[], Any]) -> Any:
        """Compute within the planned memory; an error names the recipe's own line."""
        from remote_mi.interventions.memory import memory
        from remote_mi.models.load_errors import out_of_memory

        try:
            with memory(self.rows_bytes), contained():
                return compute()
        except RemoteMIError:
            raise
        except Exception as error:  # the recipe is the user's code: anything can be raised
            raise out_of_memory(error) or recipe_error(work, error, lm=lm) from error
