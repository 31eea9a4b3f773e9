"""The protocol between the runner and whatever executes a job; for its kind, see `backends.kind`.

ticket = backend.resume(key, watch)              # the same job, if it is already under way
if ticket is None:
    model = backend.open(spec, watch)            # with weights here, or weightless
    ticket = backend.submit(model, work, watch)  # returns at once where the backend can
for outputs in backend.collect(ticket, watch, timeout):
    ...                                          # one call of the recipe at a time
backend.close(ticket, run)                      # the run is saved; the job can be forgotten
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remote_mi.backends.options import Option, Question
from remote_mi.backends.recipe_mistakes import explain
from remote_mi.common.authors_code import describe_error
from remote_mi.common.errors import RemoteMIError, RunFailed, line_number_in
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
    """The default `on_leave`: nobody else is asked to fetch the result."""


@dataclass(frozen=True)
class Work:
    """What a backend is asked to execute.

    Attributes:
        card: the recipe. function: its imported function.
        calls: the argument of each call: a Prompt, a Pair, a list of them, or None for no
            argument.
        parameters: keyword arguments of every call.
        together: all prompts or pairs, the argument of the recipe's setup if it has one.
        shared: what the setup returned, if it has already run; see `session.run_setup`.
        key: the job's key. project: the user's project folder. spec: the requested model.
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
        """The function, next to the recipe's own, that computes what all calls share; or None."""
        return self.function.__globals__[self.card.setup] if self.card.setup else None

    @property
    def sent_functions(self) -> list[Callable[..., Any]]:
        """The recipe's function, and those of the project's own metrics among the parameters."""
        own = [value for value in self.parameters.values() if hasattr(value, "function")]
        return [self.function, *(metric.function for metric in own)]

    @property
    def gradients(self) -> bool:
        """Whether the recipe needs autograd."""
        return "gradients" in self.card.needs


@dataclass
class Ticket:
    """A submitted job.

    Attributes:
        backend: name of the backend. id: the backend's own id for the job.
        record: JSON collected along the way, for the provenance.
        draft: the run so far, as JSON, of a ticket that was resumed.
    """

    backend: str
    id: str
    record: dict[str, Any] = field(default_factory=dict)
    draft: dict[str, Any] = field(default_factory=dict)


class FinishedElsewhere(Exception):
    """Meanwhile, another process has collected the job and saved its run."""


class Backend(Protocol):
    """Executes work where the model is. Required: `environment`, `open`, `submit` and `collect`.

    Attributes:
        name: as runs record it: `KIND`, or `KIND WHERE`.
    """

    name: str

    def environment(self, spec: ModelSpec) -> Environment | None:
        """Where this spec would run, without torch or network; None if not yet known."""
        ...

    def environments(self, spec: ModelSpec) -> list[Environment]:
        """Every environment in which this spec may have run, the preferred one first."""
        found = self.environment(spec)
        return [] if found is None else [found]

    def actual_environment(self, spec: ModelSpec, record: Mapping[str, Any]) -> Environment:
        """Where it really ran. `record`: that of the opened model."""
        found = self.environment(spec)
        return found or Environment(self.name, "unknown", "unknown", "unknown")

    def consider(self, question: Question) -> Option:
        """Whether a job can run here, and why; called before it is sent."""
        return Option(
            self.name.replace(" ", ":", 1), True, "it accepts any job", model=question.model
        )

    def resume(self, key: str, watch: Watch) -> Ticket | None:
        """The ticket of the same job if any process has already submitted it."""
        return None

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        """The model, loaded as far as this backend needs to describe or execute work."""
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
        """The outputs of each call, in order, as they arrive.

        Args:
            timeout: total seconds to wait; None waits as long as the backend allows.
            on_leave: called when the wait takes more than seconds, or ends before the job does:
                somebody else then has to fetch the result.

        Raises:
            RunFailed: if the recipe failed. WaitTimeout: if the job still runs after `timeout`.
            FinishedElsewhere: if another process collected it first.
        """
        ...

    def close(self, ticket: Ticket, run: str | None, error: RemoteMIError | None = None) -> None:
        """The run was saved under this name, or could not be saved (None).

        Args:
            error: why no run can ever be made of the job's outputs.
        """


def recipe_label(card: Card) -> str:
    """A recipe as errors name it: file, line and name."""
    return (f"{card.path}:{card.line}: " if card.path else "") + f"recipe {card.name!r}"


def line_in_recipe(work: Work, error: BaseException) -> int:
    """The last line of the recipe's own file or cell that an error passed through."""
    own = work.card.path.resolve() if work.card.path else Path(work.function.__code__.co_filename)
    return line_number_in(error, own, otherwise=work.card.line)


def recipe_error(
    work: Work,
    error: BaseException,
    hint: str = "--debug shows the whole traceback",
    lm: Any = None,
) -> RunFailed:
    """An error in a recipe's body, with the recipe's own file and line; `lm`: the model."""
    where = f"recipe {work.card.name!r}"
    if work.card.path:
        where = f"{work.card.path}:{line_in_recipe(work, error)}"
    return RunFailed(f"{where}: {explain(describe_error(error), lm)}", hint)


def check_outputs(
    recipe: str, declared: Mapping[str, Output], returned: Any, examples: int | None
) -> Outputs:
    """A call's outputs as arrays, checked against the recipe's declaration.

    Args:
        recipe: how to name the recipe. declared: its outputs. returned: what the call returned.
        examples: how many the call took at once; None if it took a single one. With several, a
            per-example output becomes one array per example, named `output@index`.

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
                "return a list with one tensor per example",
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
    """How many examples a call takes at once; None for a call with a single one."""
    if call is None:
        return 0
    return len(call) if isinstance(call, list) else None
