"""The protocol between the runner and whatever executes a job.

    model = backend.open(spec, watch)            # with weights here, or weightless
    ticket = backend.submit(model, work, watch)  # returns at once where the backend can
    for index, outputs in backend.collect(ticket, watch, timeout):
        ...                                      # one call of the recipe at a time

A ticket of a remote backend is plain JSON, so that another process can collect it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remote_mi.environment import Environment
from remote_mi.errors import RunFailed
from remote_mi.models.spec import ModelSpec
from remote_mi.progress import Watch
from remote_mi.recipe import Card, Output

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """What a backend is asked to execute.

    Attributes:
        card: the recipe. function: its function, imported.
        calls: what the function is called with, one call each: a Prompt, a Pair, or a list.
        parameters: keyword arguments of every call.
        key: the job's key.
    """

    card: Card
    function: Callable[..., Any]
    calls: list[Any]
    parameters: Mapping[str, Any]
    key: str

    @property
    def gradients(self) -> bool:
        """Whether the recipe needs autograd."""
        return "gradients" in self.card.needs


@dataclass
class Ticket:
    """A submitted job.

    Attributes:
        backend: name of the backend. id: the backend's own id of the job.
        data: JSON needed to collect it. record: JSON noted on the way, for the provenance.
    """

    backend: str
    id: str
    data: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Executes work where a model is."""

    name: str

    def environment(self, spec: ModelSpec) -> Environment | None:
        """Where this spec would run, without torch or network; None if it is not yet known."""
        ...

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        """The model as this backend needs it to describe or execute work."""
        ...

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        """Hand over the work."""
        ...

    def collect(self, ticket: Ticket, watch: Watch, timeout: float | None) -> Iterator[Outputs]:
        """The outputs of each call, in order, as they come.

        Args:
            timeout: seconds to wait in all; None waits as long as the backend allows.

        Raises:
            RunFailed: if the recipe failed. WaitTimeout: if the job still runs after `timeout`.
        """
        ...


def labelled(card: Card) -> str:
    """How an error names a recipe: file, line and name."""
    return (f"{card.path}:{card.line}: " if card.path else "") + f"recipe {card.name!r}"


def checked(recipe: str, declared: Mapping[str, Output], returned: Any) -> Outputs:
    """A call's outputs as arrays, checked against the recipe's declaration.

    Args:
        recipe: how to name the recipe. declared: its outputs. returned: what a call gave.

    Raises:
        RunFailed: for a missing, undeclared or misshapen output, naming it.
    """
    if not isinstance(returned, Mapping):
        raise RunFailed(f"{recipe} returned {type(returned).__name__}, "
                        "not a dict of its outputs")  # fmt: skip
    for name in declared:
        if name not in returned:
            raise RunFailed(f"{recipe} did not return {name!r}, which it declares",
                            f"it returned: {', '.join(map(str, returned)) or 'nothing'}")  # fmt: skip
    outputs: Outputs = {}
    for name, value in returned.items():
        if name not in declared:
            raise RunFailed(f"{recipe} returned {name!r}, which it does not declare",
                            "add it to returns={...} or leave it out")  # fmt: skip
        dims = declared[name].dims
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise RunFailed(f"{recipe}: output {name!r} is not an array of numbers")
        if array.ndim != len(dims):
            raise RunFailed(
                f"{recipe}: output {name!r} is declared as {_shape(dims)} and has shape {array.shape}"
            )
        outputs[name] = array
    return outputs


def _shape(dims: tuple[str, ...]) -> str:
    return f"({', '.join(dims)})" if dims else "a number"
