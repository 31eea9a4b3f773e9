"""Lines as data: which values, which of them are drawn, and how far their control reaches."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.text import visible
from remote_mi.recipes.figures import Lines
from remote_mi.report.kinds.grid import rank_cells
from remote_mi.report.kinds.kind import Layout
from remote_mi.report.slices import FigurePart, select_part
from remote_mi.report.wording import Slice, place_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: The lines that are drawn have these names; more cannot be told apart.
LETTERS = "abcdefgh"


@dataclass(frozen=True)
class Curves(Layout):
    """What a figure of lines shows.

    Attributes:
        part: what is shown; [line, point], or [point] of a single line.
        rows: its values, always of two dimensions.
        marked: which of them the control explains; [line, point].
    """

    figure: Lines
    part: FigurePart
    rows: np.ndarray
    marked: np.ndarray

    @property
    def array(self) -> NamedArray:
        return self.part.array

    def index(self, line: int, point: int) -> tuple[int, ...]:
        """The index in `part` of a point of a line."""
        return (line, point) if self.array.values.ndim == 2 else (point,)

    @property
    def reach(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Ends of the band of the control; of values of one sign only the half on their side."""
        if self.band is None:
            return None
        finite = self.rows[np.isfinite(self.rows)]
        below, above = (finite < 0).any(), (finite > 0).any()
        return (
            -self.band if below or not above else 0.0 * self.band,
            self.band if above or not below else 0.0 * self.band,
        )

    def interval(self, line: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper ends along a line; None where there are none."""
        low, high = self.array.low, self.array.high
        if low is None or high is None:
            return None
        return np.atleast_2d(low)[line], np.atleast_2d(high)[line]

    def describe_value(self, line: int, point: int) -> str:
        """A point in words, without where it is."""
        return self.part.describe_value(self.index(line, point))

    def describe_point(self, line: int, point: int) -> str:
        """A point in words, with where it is."""
        return self.part.describe_cell(self.index(line, point))

    def name(self, line: int) -> str:
        """What a line is, by its coordinate; "" of a single line."""
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
        """Places along the lines: the coordinates where they are numbers, else their order."""
        labels: list[Any] = list(self.array.coords[self.x_name])
        if all(isinstance(x, (int, float)) and np.isfinite(x) for x in labels):
            return np.array(labels, float)
        return np.arange(len(labels), dtype=float)

    @functools.cached_property
    def ranked(self) -> list[tuple[int, int]]:
        """(line, point) from the one that stands out most; what a control explains comes last."""
        size = np.abs(np.where(np.isfinite(self.rows), self.rows, 0.0))
        return rank_cells(size, self.marked)

    @property
    def finite(self) -> np.ndarray:
        """All numbers that a drawing has to have room for: values, intervals and control."""
        array = self.array
        ends = (array.values, array.low, array.high, *(self.reach or ()))
        every = np.concatenate([np.ravel(e) for e in ends if e is not None])
        return every[np.isfinite(every)]

    @property
    def shape(self) -> tuple[int, int]:
        """How many lines, and how many points of each."""
        return self.rows.shape[0], self.rows.shape[1]

    def matches(self, asked: str, line: int) -> list[tuple[int, int]]:
        """Points of a line whose coordinate holds a word; then lines that are called so."""
        wanted = visible(asked).casefold()
        points = [(line, i) for i, name in enumerate(self.labels) if wanted in name.casefold()]
        array = self.array
        names = array.coords[array.dims[0]] if array.values.ndim == 2 else []
        return points + [
            (i, 0) for i, name in enumerate(names) if wanted == visible(str(name)).casefold()
        ]

    @functools.cached_property
    def drawn(self) -> list[int]:
        """The lines of a drawing, in order: all, or of many those that stand out most."""
        reach = [line for line, _ in self.ranked]
        return sorted(list(dict.fromkeys([*reach, *range(len(self.rows))]))[: len(LETTERS)])

    def around(self, line: int) -> list[int]:
        """The lines that are drawn with the cursor on one of them: those beside it, in order."""
        first = min(max(0, line - len(LETTERS) // 2), max(0, len(self.rows) - len(LETTERS)))
        return list(range(len(self.rows)))[first : first + len(LETTERS)]

    @functools.cached_property
    def band(self) -> np.ndarray | None:
        """How far the control of the drawn lines reaches on both sides of 0; [point], NaN where it
        is not known. None without one."""
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
        """What is said of the lines that are not drawn; "" where all are."""
        many = len(self.rows)
        return (
            f"the {len(LETTERS)} of {many} lines that stand out most" if many > len(LETTERS) else ""
        )


def curves(figure: Lines, result: Result, slice_: Slice) -> Curves:
    """The values of a figure of lines, at one place in the dimensions that it has no room for.

    Raises:
        NotFound, UsageError: if the output has not what the figure shows, or the slice does not fit.
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
