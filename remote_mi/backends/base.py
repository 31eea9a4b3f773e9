"""The protocol between the runner and whatever executes a job; a kind of them is `backends.kind`.

ticket = backend.resume(key, watch)              # the same job, if it is under way already
if ticket is None:
    model = backend.open(spec, watch)            # with weights here, or weightless
    ticket = backend.submit(model, work, watch)  # returns at once where the backend can
for outputs in backend.collect(ticket, watch, timeout):
    ...                                          # one call of the recipe at a time
backend.close(ticket, run)                      # the run is kept; nothing need be remembered
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remote_mi.backends.options import Option, Question
from remote_mi.common.errors import RemoteMIError, RunFailed, line_in
from remote_mi.common.progress import Watch
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import Output
from remote_mi.store.environment import Environment

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel

Outputs = dict[str, np.ndarray]


def do_nothing() -> None:
    """What is done about a job that goes on without a reader, where there is nobody to do it."""


@dataclass(frozen=True)
class Work:
    """What a backend is asked to execute.

    Attributes:
        card: the recipe. function: its function, imported.
        calls: what the function is called with, one call each: a Prompt, a Pair, a list of them,
            or None for nothing.
        parameters: keyword arguments of every call.
        together: what the recipe's setup is called with, where it has one: all prompts or pairs.
        shared: what the setup gave, where it has run already; see `session.run_setup`.
        key: the job's key. project: the user's project folder. spec: the model as asked for.
        draft: the run so far, as JSON, for a process that finishes it later.
    """

    card: Card
    function: Callable[..., Any]
    calls: list[Any]
    parameters: Mapping[str, Any]
    key: str
    project: Path = Path()
    spec: ModelSpec = ModelSpec()  # noqa: RUF009 - immutable
    draft: Mapping[str, Any] = field(default_factory=dict)
    together: Sequence[Any] = ()
    shared: tuple[Any, ...] = ()

    @property
    def setup(self) -> Callable[..., Any] | None:
        """The function that gives what all calls share, beside the recipe's own; None for none."""
        return self.function.__globals__[self.card.setup] if self.card.setup else None

    @property
    def gradients(self) -> bool:
        """Whether the recipe needs autograd."""
        return "gradients" in self.card.needs


@dataclass
class Ticket:
    """A submitted job.

    Attributes:
        backend: name of the backend. id: the backend's own id of the job.
        record: JSON noted on the way, for the provenance.
        draft: the run so far, as JSON, of a ticket that was resumed.
    """

    backend: str
    id: str
    record: dict[str, Any] = field(default_factory=dict)
    draft: dict[str, Any] = field(default_factory=dict)


class FinishedElsewhere(Exception):
    """Another process has collected the job and kept its run meanwhile."""


class Backend(Protocol):
    """Executes work where a model is. `environment`, `open`, `submit` and `collect` must be given.

    Attributes:
        name: as runs record it: the kind's name, or that, a space and which one of the kind.
    """

    name: str

    def environment(self, spec: ModelSpec) -> Environment | None:
        """Where this spec would run, without torch or network; None if it is not yet known."""
        ...

    def environments(self, spec: ModelSpec) -> list[Environment]:
        """Every environment in which it may have run this spec, the first choice first."""
        found = self.environment(spec)
        return [] if found is None else [found]

    def actual_environment(self, spec: ModelSpec, record: Mapping[str, Any]) -> Environment:
        """Where it really runs. `record`: of the model that was opened."""
        found = self.environment(spec)
        return found or Environment(self.name, "unknown", "unknown", "unknown")

    def consider(self, question: Question) -> Option:
        """Whether a job can run here, and why; asked before it is sent."""
        return Option(
            self.name.replace(" ", ":", 1), True, "it takes any job", model=question.model
        )

    def resume(self, key: str, watch: Watch) -> Ticket | None:
        """The ticket of the same job where it is under way already, in whatever process."""
        return None

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        """The model as this backend needs it to describe or execute work."""
        ...

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        """Hand over the work."""
        ...

    def collect(
        self,
        ticket: Ticket,
        watch: Watch,
        timeout: float | None,
        on_leave: Callable[[], None] = do_nothing,
    ) -> Iterator[Outputs]:
        """The outputs of each call, in order, as they come.

        Args:
            timeout: seconds to wait in all; None waits as long as the backend allows.
            on_leave: called when the wait takes seconds, or ends before the job does: somebody
                else has to fetch the result then.

        Raises:
            RunFailed: if the recipe failed. WaitTimeout: if the job still runs after `timeout`.
            FinishedElsewhere: if another process was quicker.
        """
        ...

    def close(self, ticket: Ticket, run: str | None, error: RemoteMIError | None = None) -> None:
        """The run is kept under this name, or could not be kept (None).

        Args:
            error: why no run can be made of the job's outputs, now or ever.
        """


def recipe_label(card: Card) -> str:
    """How an error names a recipe: file, line and name."""
    return (f"{card.path}:{card.line}: " if card.path else "") + f"recipe {card.name!r}"


def line_in_recipe(work: Work, error: BaseException) -> int:
    """The last line of the recipe's own file or cell that an error passed through."""
    own = work.card.path.resolve() if work.card.path else Path(work.function.__code__.co_filename)
    return line_in(error, own, otherwise=work.card.line)


def recipe_error(
    work: Work, error: BaseException, hint: str = "--debug shows the whole traceback"
) -> RunFailed:
    """An error in a recipe's body, with the recipe's own file and line."""
    where = f"recipe {work.card.name!r}"
    if work.card.path:
        where = f"{work.card.path}:{line_in_recipe(work, error)}"
    said = str(error).strip().splitlines()
    message = said[0] if said else "no message"
    return RunFailed(f"{where}: {type(error).__name__}: {message}", hint)


def check_outputs(
    recipe: str, declared: Mapping[str, Output], returned: Any, examples: int | None
) -> Outputs:
    """A call's outputs as arrays, checked against the recipe's declaration.

    Args:
        recipe: how to name the recipe. declared: its outputs. returned: what a call gave.
        examples: how many it was called with at once; None if it was called with one. Then an
            output of each example becomes one array an example, named `output@index`.

    Raises:
        RunFailed: for a missing, undeclared or misshapen output, naming it.
    """
    if not isinstance(returned, Mapping):
        raise RunFailed(f"{recipe} returned {type(returned).__name__}, not a dict of its outputs")
    for name in declared:
        if name not in returned:
            raise RunFailed(
                f"{recipe} did not return {name!r}, which it declares",
                f"it returned: {', '.join(map(str, returned)) or 'nothing'}",
            )
    outputs: Outputs = {}
    for name, value in returned.items():
        if name not in declared:
            raise RunFailed(
                f"{recipe} returned {name!r}, which it does not declare",
                "add it to returns={...} or leave it out",
            )
        output = declared[name]
        if examples is None or output.of == "set":
            outputs[name] = _array(recipe, name, output, value)
            continue
        try:
            each = [] if isinstance(value, (str, Mapping)) else list(value)
        except TypeError:
            each = []
        if len(each) != examples:
            raise RunFailed(
                f"{recipe}: output {name!r} has {len(each)} entries for {examples} examples",
                "return a list with one tensor an example",
            )
        for index, one in enumerate(each):
            outputs[f"{name}@{index}"] = _array(recipe, name, output, one)
    return outputs


def _array(recipe: str, name: str, output: Output, value: Any) -> np.ndarray:
    try:
        return kind_of_output(output).pack(value, output.dims)
    except ValueError as error:
        raise RunFailed(f"{recipe}: output {name!r} {error}") from None


def example_count(call: Any) -> int | None:
    """How many examples a call gives at once; None for a call with one."""
    if call is None:
        return 0
    return len(call) if isinstance(call, list) else None
