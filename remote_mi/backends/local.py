"""This machine: the model is loaded here and each call runs in a session of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from remote_mi.backends.base import (
    Outputs,
    Ticket,
    Work,
    checked,
    examples_in,
    labelled,
    nobody_left,
    recipe_error,
)
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Watch
from remote_mi.models.load import LoadedModel, load, out_of_memory
from remote_mi.models.spec import ModelSpec, local_device
from remote_mi.models.surroundings import at_work, noted_settings
from remote_mi.store.environment import Environment, local_environment


class LocalBackend:
    """Executes on this machine. `submit` only takes the work; `collect` does it, call by call.

    Args:
        rows_bytes: what the rows of a sweep may take, in bytes; None leaves it to the kit.
    """

    name = "local"
    detaches = False

    def __init__(self, rows_bytes: int | None = None) -> None:
        self.rows_bytes = rows_bytes
        self._waiting: dict[str, tuple[LoadedModel, Work]] = {}

    def environment(self, spec: ModelSpec) -> Environment:
        return local_environment(local_device(spec.device))

    def resume(self, key: str, watch: Watch) -> Ticket | None:
        return None  # what a process does here ends with it

    def settle(self, ticket: Ticket, run: str | None, error: RemoteMIError | None = None) -> None:
        pass

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
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
        on_leave: Callable[[], None] = nobody_left,
    ) -> Iterator[Outputs]:
        model, work = self._waiting.pop(ticket.id)
        started = time.perf_counter()
        counted = _Passes()
        if work.card.setup:
            with at_work(watch), counted.of(model.lm):
                work = replace(work, shared=self._setup(model, work))
        for index, call in enumerate(work.calls):
            watch.advance(index, len(work.calls), "calls")
            with at_work(watch), counted.of(model.lm):
                returned = self._one(model, replace(work, calls=[call]))
            yield checked(labelled(work.card), work.card.returns, returned, examples_in(call))
        watch.advance(len(work.calls), len(work.calls), "calls")
        ticket.record.update(
            seconds=round(time.perf_counter() - started, 3),
            forward_passes=counted.seen,
            **noted_settings(),
            **model.record,
        )

    def _setup(self, model: LoadedModel, work: Work) -> Any:
        from remote_mi.backends.session import run_setup

        return self._guarded(work, lambda: run_setup(model.lm, work))

    def _one(self, model: LoadedModel, work: Work) -> Any:
        from remote_mi.backends.session import run_session

        return self._guarded(work, lambda: run_session(model.lm, work)[0])

    def _guarded(self, work: Work, compute: Callable[[], Any]) -> Any:
        """Compute within the memory that was planned; an error names the recipe's own line."""
        from remote_mi.interventions.memory import memory

        try:
            with memory(self.rows_bytes):
                return compute()
        except RemoteMIError:
            raise
        except Exception as error:  # the recipe is the user's code: anything can come
            raise out_of_memory(error) or recipe_error(work, error) from error


class _Passes:
    """Counts forward passes of a model."""

    def __init__(self) -> None:
        self.seen = 0

    @contextmanager
    def of(self, lm: Any) -> Iterator[None]:
        """Count those of a model in between."""
        handle = lm.backbone._module.register_forward_pre_hook(self._count)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, *_: Any) -> None:
        self.seen += 1
