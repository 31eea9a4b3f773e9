"""What is expected of an output: which cells, and how they compare with a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remote_mi.common.errors import UsageError, nearest
from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import Output
from remote_mi.store.claims.bounds import FORMS, Bound, parse_bound
from remote_mi.store.claims.cells import check_selector, selects_one
from remote_mi.store.claims.estimates import number_dims

#: How the selected cells are meant: all of them, at least one, their mean, the only one.
QUANTIFIERS = ("every", "any", "mean", "value")


class WrongExpectation(UsageError):
    """A mistake in an expectation.

    Attributes:
        inside: the keys that lead to it.
    """

    def __init__(self, message: str, hint: str | None, *inside: str) -> None:
        super().__init__(message, hint)
        self.inside = inside


@dataclass(frozen=True)
class Expectation:
    """An expectation of the numbers of one result.

    Attributes:
        output: name of an output or summary. at: dimension → selector of coordinates.
        quantifier: one of `QUANTIFIERS`. bound: the range that the cells are expected in.
    """

    output: str
    quantifier: str
    bound: Bound
    at: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As a phrase, e.g. "every recovery at layer >=24, position end > 0.8"."""
        places = ", ".join(
            f"{dim} {', '.join(map(str, w)) if isinstance(w, (list, tuple)) else w}"
            for dim, w in self.at.items()
        )
        start = "" if self.quantifier == "value" else f"{self.quantifier} "
        if self.quantifier == "mean":
            start = "mean of "
        return f"{start}{self.output}{f' at {places}' if places else ''} {self.bound.text}"


def parse_expectation(given: Mapping[str, Any]) -> Expectation:
    """An expectation from `output`, `at`, and one of `QUANTIFIERS`.

    Raises:
        WrongExpectation: saying what to write.
    """
    output, at = given.get("output"), given.get("at")
    if not output or not isinstance(output, str):
        raise WrongExpectation("the output is missing", "output: NAME")
    named = [name for name in QUANTIFIERS if given.get(name) is not None]
    if len(named) != 1:
        both = " and ".join(named)
        raise WrongExpectation(
            f"it says both {both}" if named else "it says nothing of the values",
            f"give one of {', '.join(QUANTIFIERS)}, " + FORMS.replace("write ", ""),
            *named[1:2],
        )
    at = {} if at is None else at
    if not isinstance(at, Mapping):
        raise WrongExpectation(f"at: {at!r:.60} is not a mapping", "at: {layer: 3}", "at")
    for dim, wanted in at.items():
        try:
            check_selector(wanted)
        except UsageError as error:
            raise WrongExpectation(error.message, error.hint, "at", str(dim)) from None
    try:
        bound = parse_bound(given[named[0]])
    except UsageError as error:
        raise WrongExpectation(error.message, error.hint, named[0]) from None
    return Expectation(output, named[0], bound, dict(at))


def check_output(card: Card, output: str, at: Mapping[str, Any]) -> tuple[str, ...]:
    """Check that a recipe has an output of numbers with these dimensions.

    Returns:
        The dimensions of its values over all prompts.

    Raises:
        WrongExpectation: naming what there is.
    """
    names = [*card.summaries, *card.returns]
    if output not in names:
        close = nearest(output, names)
        raise WrongExpectation(
            f"recipe {card.name!r} has no output {output!r}",
            f"did you mean {close!r}?" if close else f"it has: {', '.join(names)}",
            "output",
        )
    found = card.summaries.get(output) or card.returns.get(output)
    kind = kind_of_output(found if isinstance(found, Output) else None)
    if not kind.averaged:
        raise WrongExpectation(
            f"output {output!r} holds {'token ids' if kind.name == 'token' else kind.plural}",
            "name an output of numbers",
            "output",
        )
    dims = number_dims(card.dims(output))
    for dim in at:
        if dim not in dims:
            close = nearest(dim, dims)
            has = f"it has: {', '.join(dims)}" if dims else "it is a single number"
            raise WrongExpectation(
                f"output {output!r} has no dimension {dim!r}",
                f"did you mean {close!r}?" if close else has,
                *("at", dim),
            )
    return dims


def check_expectation(card: Card, expectation: Expectation) -> tuple[str, ...]:
    """As `check_output`; and an expectation of a single value must name one cell."""
    dims = check_output(card, expectation.output, expectation.at)
    if expectation.quantifier != "value":
        return dims
    open_dims = [d for d in dims if d not in expectation.at]
    if open_dims:
        raise WrongExpectation(
            f"'value' is of one cell, and {expectation.output!r} has the dimensions "
            f"{', '.join(dims)}",
            f"at: {{{', '.join(f'{d}: …' for d in dims)}}}, or every, any or mean",
            "value",
        )
    for dim, wanted in expectation.at.items():
        if not selects_one(wanted):
            raise WrongExpectation(
                f"'value' is of one cell, and {dim} {wanted!r} may be several",
                "name one, or say every, any or mean",
                *("at", dim),
            )
    return dims
