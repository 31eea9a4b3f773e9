"""Lines as data: their values, which of them are drawn, and the band of their control."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.text import visible
from remote_mi.recipes.figures import Lines
from remote_mi.report.kinds.grid import rank_cells
from remote_mi.report.kinds.kind import Layout
from remote_mi.report.readings.told import Told
from remote_mi.report.slices import FigurePart, select_part
from remote_mi.report.wording import Slice, place_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: Letters of the drawn lines; more would be indistinguishable.
LETTERS = "abcdefgh"


@dataclass(frozen=True)
class Curves(Layout):
    """What a figure of lines shows.

    Attributes:
        part: what is shown; [line, point], or [point] for a single line.
        rows: its values; always [line, point].
        marked: which of them the control explains; [line, point].
    """

    figure: Lines
    part: FigurePart
    rows: np.ndarray
    marked: np.ndarray

    @property
    def array(self) -> NamedArray:
        return self.part.array

    @functools.cached_property
    def told(self) -> Told:
        """What may be said of them."""
        return Told(self.part, self.result, self.slice_)

    @property
    def cells(self) -> np.ndarray:
        """Which points may be named; [line, point]."""
        return np.atleast_2d(self.told.cells)

    def index(self, line: int, point: int) -> tuple[int, ...]:
        """The index in `part` of a point on a line."""
        return (line, point) if self.array.values.ndim == 2 else (point,)

    @property
    def reach(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper ends of the control's band; only one half if all values have one sign."""
        if self.band is None:
            return None
        finite = self.rows[np.isfinite(self.rows)]
        below, above = (finite < 0).any(), (finite > 0).any()
        return (
            -self.band if below or not above else 0.0 * self.band,
            self.band if above or not below else 0.0 * self.band,
        )

    def interval(self, line: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper ends of the intervals along a line; None if there are none."""
        low, high = self.array.low, self.array.high
        if low is None or high is None:
            return None
        return np.atleast_2d(low)[line], np.atleast_2d(high)[line]

    def describe_value(self, line: int, point: int) -> str:
        """The value of a point as text, without its place."""
        return self.part.describe_value(self.index(line, point))

    def describe_point(self, line: int, point: int) -> str:
        """A point as text: its place and value."""
        return self.part.describe_cell(self.index(line, point))

    def name(self, line: int) -> str:
        """The name of a line, from its coordinate; "" for a single line."""
        dims = self.array.dims[:-1]
        return place_text(NamedArray(np.zeros(()), dims, self.array.coords), [line] * len(dims))

    @property
    def x_name(self) -> str:
        return self.array.dims[-1]

    @functools.cached_property
    def labels(self) -> list[str]:
        """The coordinates along the lines, safe to show."""
        return [visible(str(x)) for x in self.array.coords[self.x_name]]

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Positions along the lines: the coordinates if they are numbers, else their order."""
        labels: list[Any] = list(self.array.coords[self.x_name])
        if all(isinstance(x, (int, float)) and np.isfinite(x) for x in labels):
            return np.array(labels, float)
        return np.arange(len(labels), dtype=float)

    @functools.cached_property
    def ranked(self) -> list[tuple[int, int]]:
        """(line, point) from the most prominent one; those that a control explains come last."""
        size = np.abs(np.where(np.isfinite(self.rows), self.rows, 0.0))
        return rank_cells(size, self.marked)

    @property
    def finite(self) -> np.ndarray:
        """All numbers that a drawing must cover: values, intervals and control."""
        array = self.array
        ends = (array.values, array.low, array.high, *(self.reach or ()))
        every = np.concatenate([np.ravel(e) for e in ends if e is not None])
        return every[np.isfinite(every)]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of lines, and of points on each."""
        return self.rows.shape[0], self.rows.shape[1]

    def matches(self, query: str, line: int) -> list[tuple[int, int]]:
        """Points of a line whose coordinate contains the query; then lines with that name."""
        wanted = visible(query).casefold()
        points = [(line, i) for i, name in enumerate(self.labels) if wanted in name.casefold()]
        array = self.array
        names = array.coords[array.dims[0]] if array.values.ndim == 2 else []
        return points + [
            (i, 0) for i, name in enumerate(names) if wanted == visible(str(name)).casefold()
        ]

    @functools.cached_property
    def drawn(self) -> list[int]:
        """Indices of the drawn lines, in order: all, or the most prominent if there are many."""
        reach = [line for line, _ in self.ranked]
        return sorted(list(dict.fromkeys([*reach, *range(len(self.rows))]))[: len(LETTERS)])

    def around(self, line: int) -> list[int]:
        """The lines drawn when the cursor is on one of them: it and its neighbours, in order."""
        first = min(max(0, line - len(LETTERS) // 2), max(0, len(self.rows) - len(LETTERS)))
        return list(range(len(self.rows)))[first : first + len(LETTERS)]

    @functools.cached_property
    def band(self) -> np.ndarray | None:
        """Half-width around 0 of the band of the drawn lines' control; [point], NaN where unknown.
        None without a control."""
        if self.part.control is None:
            return None
        control = np.atleast_2d(self.part.control)[self.drawn]
        known = np.isfinite(control)
        if not known.any():
            return None
        reach = np.where(known, control, -np.inf).max(0)
        return np.where(known.any(0), reach, np.nan)

    @property
    def left_out(self) -> str:
        """A note that only some lines are drawn; "" if all are."""
        many = len(self.rows)
        return (
            f"the {len(LETTERS)} of {many} lines that stand out most" if many > len(LETTERS) else ""
        )


def curves(figure: Lines, result: Result, slice_: Slice) -> Curves:
    """The values of a figure of lines, at one coordinate of each dimension it cannot display.

    Raises:
        NotFound, UsageError: if the output lacks what the figure shows, or the slice does not fit.
    """
    found = select_part(figure, result, slice_)
    return Curves(
        figure,
        result,
        slice_,
        found,
        np.atleast_2d(found.array.values),
        np.atleast_2d(found.marked),
    )
