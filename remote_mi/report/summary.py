"""Figures described in sentences, for reports, screen readers and quick reading."""

from __future__ import annotations

import numpy as np

from remote_mi.common.errors import RemoteMIError
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.report.kinds.registry import lay_out
from remote_mi.report.readings.reading import best_of
from remote_mi.report.readings.told import Told
from remote_mi.report.slices import select_part
from remote_mi.report.wording import Slice
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


def readings(figure: Figure, result: Result, slice_: Slice = ALL) -> list[str]:
    """What the numbers of a figure say, in sentences; [] where nothing is told.

    Raises:
        NotFound, UsageError: if the result lacks what the figure shows, or the slice.
    """
    kind, layout = lay_out(figure, result, slice_)
    return list(kind.readings(layout))


def all_readings(result: Result) -> dict[str, list[str]]:
    """The readings of every figure of a result that has one, by its name, each sentence once."""
    found: dict[str, list[str]] = {}
    said: set[str] = set()
    for figure in result.figures:
        try:
            new = [text for text in readings(figure, result) if text not in said]
        except RemoteMIError:  # what cannot be shown says nothing
            continue
        said.update(new)
        if new:
            found.setdefault(figure.name, []).extend(new)
    return found


def headline(result: Result) -> str:
    """The largest value that is told of the first figure with numbers; "" if there is none."""
    for figure in result.figures:
        if figure.output not in result.arrays:
            continue
        array = result[figure.output]
        numbers = kind_of_output(result.outputs.get(figure.output)).averaged
        if not numbers or not np.isfinite(array.values).any():
            continue
        part = select_part(Figure(figure.output, unit=figure.unit), result, ALL)
        return best_of(Told(part, result, ALL, getattr(figure, "center", None) == 0))
    return ""
