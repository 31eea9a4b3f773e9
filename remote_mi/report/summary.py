"""Figures described in sentences, for reports, screen readers and quick reading."""

from __future__ import annotations

import numpy as np

from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.report.kinds.registry import lay_out
from remote_mi.report.wording import Slice, format_amount, place_text
from remote_mi.store.result import Result

ALL = Slice()


def summary(figure: Figure, result: Result, slice_: Slice = ALL) -> list[str]:
    """A figure described in plain sentences; text from the model is made harmless.

    Args:
        slice_: which part of the arrays is shown.

    Raises:
        NotFound, UsageError: if the result lacks what the figure shows, or the slice.
    """
    kind, layout = lay_out(figure, result, slice_)
    return list(kind.sentences(layout))


def headline(result: Result) -> str:
    """The largest value of the first figure with numbers, as a short text; "" if there is none."""
    for figure in result.figures:
        if figure.output not in result.arrays:
            continue
        array = result[figure.output]
        numbers = kind_of_output(result.outputs.get(figure.output)).averaged
        if not numbers or not np.isfinite(array.values).any():
            continue
        center = getattr(figure, "center", None) or 0.0
        size = np.where(np.isfinite(array.values), np.abs(array.values - center), -1.0)
        explained = result.explained(array.name)
        free = size if explained is None else np.where(explained, -1.0, size)
        best = (free if (free > 0).any() else size).argmax()
        at = np.unravel_index(int(best), array.shape)
        place = place_text(array, at)
        return f"{figure.output} {format_amount(array.values[at])}{' at ' + place if place else ''}"
    return ""
