"""Sentences used by several kinds of figures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from remote_mi.common.text import visible
from remote_mi.report.readings.columns import is_over_layers
from remote_mi.report.readings.reading import map_reading, nothing_told
from remote_mi.report.readings.told import Told
from remote_mi.report.slices import FigurePart
from remote_mi.report.wording import EXPLAINED, format_amount
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: Maximum number of cells, lines or texts that sentences mention.
MOST = 3
_LONGEST_TEXT = 120


def map_sentences(told: Told, center: float) -> Iterator[str]:
    """What a map says; or that nothing is told, or its largest values; then the range of all."""
    part, array = told.part, told.array
    values = array.values
    finite = np.isfinite(values)
    if not finite.any():
        yield f"{array.name} has no values."
        return
    if not values.ndim:
        if part.untested:
            yield f"Nothing is claimed of {told.name}: {part.untested}."
        marked = part.marked & (not part.untested)
        mark = ", not distinguishable from its control, or from 0" if marked else ""
        yield f"{part.describe_value(())}{mark}."
        return
    nothing = nothing_told(told)
    said = list(map_reading(told)) or ([nothing] if nothing else list(_largest(told, center)))
    yield from said
    if told.cells.any() and told.claims and is_over_layers(told):
        best = np.where(told.cells, np.abs(values), -1.0).argmax()
        at = np.unravel_index(int(best), values.shape)
        yield f"Largest {told.name}: {part.value_with_place(at)}."
    if not (np.abs(values[finite] - center) > 0).any():
        return
    low, high = float(values[finite].min()), float(values[finite].max())
    missing = values.size - int(finite.sum())
    known = f"The other {finite.sum()}" if missing else f"All {values.size}"
    yield (
        (f"{missing} of {values.size} cells have no value. " if missing else "")
        + f"{known} cells lie between {format_amount(low)} and {format_amount(high)}."
    )
    yield from control_sentence(part)


def _largest(told: Told, center: float) -> Iterator[str]:
    """The largest values of a map of which no more is said; those with an interval without 0."""
    part, array = told.part, told.array
    known = told.cells if told.cells.any() else told.sized
    named = known if center == 0 else np.isfinite(array.values)
    distance = np.where(named, np.abs(array.values - center), -1.0)
    order = np.argsort(-distance.reshape(-1), kind="stable")
    best = [np.unravel_index(int(i), array.shape) for i in order[:MOST]]
    best = [at for at in best if distance[at] > 0]
    if not best:
        yield f"Every {array.name} is {format_amount(center)}."
        return
    count = f" (n={part.count})" if part.count else ""
    parts = [part.value_with_place(at) for at in best]
    yield f"Largest {array.name}{count}: {'; '.join(parts)}."


def control_sentence(part: FigurePart) -> Iterator[str]:
    """How many cells are explained by their control; nothing without a control."""
    if part.control is not None and not part.untested:
        many = int(part.marked.sum())
        yield (
            f"Control: {many} of {int(part.sized.sum())} (marked {EXPLAINED}) "
            f"{'is' if many == 1 else 'are'} not distinguishable from {part.control_name}, or from 0."
        )


def coords_only(array: NamedArray, dims: tuple[str, ...]) -> NamedArray:
    """An array without values, of only the given dimensions, to name their coordinates."""
    return NamedArray(np.zeros(()), dims, array.coords, name=array.name)


def quote_token(result: Result, token: int) -> str:
    """A token in quotes, or "nothing"."""
    return f"“{visible(result.text(token))}”" if token >= 0 else "nothing"


def shorten(text: str) -> str:
    """A text, cut if it is too long for a sentence."""
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
