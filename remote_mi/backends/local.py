"""This machine: the model is loaded here and each call runs in a session of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
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
        passes = 0
        for index, call in enumerate(work.calls):
            watch.advance(index, len(work.calls), "calls")
            with at_work(watch):
                counted = _count_passes(model.lm)
                try:
                    returned = self._one(model, replace(work, calls=[call]))
                finally:
                    counted.stop()
            passes += counted.seen
            yield checked(labelled(work.card), work.card.returns, returned, examples_in(call))
        watch.advance(len(work.calls), len(work.calls), "calls")
        ticket.record.update(
            seconds=round(time.perf_counter() - started, 3),
            forward_passes=passes,
            **noted_settings(),
            **model.record,
        )

    def _one(self, model: LoadedModel, work: Work) -> Any:
        from remote_mi.backends.session import run_session
        from remote_mi.interventions.sweeps import rows_within

        try:
            with rows_within(self.rows_bytes):
                return run_session(model.lm, work)[0]
        except RemoteMIError:
            raise
        except Exception as error:  # the recipe is the user's code: anything can come
            raise out_of_memory(error) or recipe_error(work, error) from error


class _count_passes:  # noqa: N801 - used like a function
    """Counts forward passes of a model until stopped."""

    def __init__(self, lm: Any) -> None:
        self.seen = 0
        self._handle = lm.backbone._module.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.seen += 1

    def stop(self) -> None:
        self._handle.remove()
