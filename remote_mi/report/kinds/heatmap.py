"""Heatmaps: laid out as data, and drawn as text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from rich.style import Style
from rich.text import Text

from remote_mi.common.text import fit, line
from remote_mi.recipes.figures import Heatmap
from remote_mi.report import colors
from remote_mi.report.kinds.grid import Grid, draw, number, scale
from remote_mi.report.slices import shown
from remote_mi.report.wording import EXPLAINED, Slice
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: Cells that `Map.ranked` gives at most; a map may have millions.
MOST_RANKED = 1000


@dataclass(frozen=True)
class Map:
    """A heatmap or token grid, laid out.

    Attributes:
        grid: what is drawn.
        array: the values, or of a token grid the shades; [row, column].
        distance: how far each value is from the neutral one; [row, column].
        marked: which cells a control explains; [row, column].
        head: lines above: what part is shown. foot: lines below: what the marks mean.
        explain: (row, column) → what stands there, in words, most important first.
        start: the cell to look at first.
        texts: what the cells of a token grid say, safe to show; None for numbers.
    """

    grid: Grid
    array: NamedArray
    distance: np.ndarray
    marked: np.ndarray
    head: list[str]
    foot: list[str]
    explain: Callable[[int, int], list[str]]
    start: tuple[int, int] = (0, 0)
    texts: list[list[str]] | None = None

    @functools.cached_property
    def ranked(self) -> list[tuple[int, int]]:
        """Cells from the one that stands out most; what a control explains is not the finding.

        At most `MOST_RANKED` of them, and none at the neutral value.
        """
        return [at for at in ranked_cells(self.distance, self.marked) if self.distance[at] > 0]


def ranked_cells(distance: np.ndarray, marked: np.ndarray) -> list[tuple[int, int]]:
    """Cells by their distance, at most `MOST_RANKED`: those that a control explains after all others.

    Args:
        distance: of finite numbers. marked: what a control explains; both [row, column].
    """
    score = np.where(marked, distance, distance + (distance.max(initial=0.0) + 1.0)).reshape(-1)
    most = min(MOST_RANKED, score.size)
    best = np.sort(np.argpartition(-score, most - 1)[:most]) if most else np.zeros(0, int)
    order = best[np.argsort(-score[best], kind="stable")]
    return [divmod(int(i), distance.shape[1]) for i in order]


def heatmap_map(
    figure: Heatmap, result: Result, slice_: Slice, palette: colors.Palette = colors.DARK
) -> Map:
    """A heatmap laid out: numbers with a ramp, or a mark where the control explains them.

    Raises:
        NotFound, UsageError: if the output has no two dimensions, or the slice does not fit.
    """
    found = shown(figure, result, slice_)
    array, marked = found.array, found.marked
    values = array.values
    measure = scale(
        values if slice_.limits is None else np.array(slice_.limits), figure.center, palette
    )

    def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
        strength, style = measure(values[row, column])
        if marked[row, column]:
            sign, style = EXPLAINED, Style(dim=True)
        else:
            sign = colors.ramp(strength)
        return fit(sign + number(values[row, column], wide - 1), wide), style

    def explain(row: int, column: int) -> list[str]:
        mark = f" {EXPLAINED} its control explains it" if marked[row, column] else ""
        return [f"{found.told((row, column))}{mark}"]

    head = []
    if slice_.pair is not None:
        head.append(prompt_label(result, slice_.pair))
    if found.taken:
        sizes = [str(len(found.full.coords[dim])) for dim in found.cut]
        head.append(f"at {found.taken} (of {' × '.join(sizes)})")
    rows, columns = array.dims
    grid = Grid(rows, columns, array.coords[rows], array.coords[columns], cell, _least(values))
    distance = np.abs(np.where(np.isfinite(values), values - (figure.center or 0.0), 0.0))
    made = Map(grid, array, distance, marked, head, [found.marks] if found.marks else [], explain)
    return replace(made, start=made.ranked[0]) if made.ranked else made


def _least(values: np.ndarray) -> int:
    """Cells that a column takes: one more where a minus sign would cost a digit that matters."""
    finite = values[np.isfinite(values)]
    negative = finite[finite < -0.005]
    lost = np.where(negative > -0.995, 0.05, np.where(negative > -9.95, 0.5, 0.0))
    return 5 if (lost > 0.05 * np.abs(finite).max(initial=0.0)).any() else 4


def prompt_label(result: Result, index: int) -> str:
    """Which prompt a part is of, in words."""
    clean = line(result.prompts[index]["clean"])
    return f"prompt {index + 1} of {len(result.prompts)}: {clean}"


def heatmap(figure: Heatmap, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """Rows × columns of numbers, coloured, with a mark where the control explains them."""
    found = heatmap_map(figure, result, slice_)
    for said in found.head:
        hint = "; `view --at`" if said.startswith("at ") else ""
        yield Text(f" {said[:-1]}{hint})" if hint else f" {said}", style="dim")
    yield from draw(found.grid, width)
    if np.isfinite(found.array.values).any():
        best = found.ranked
        yield Text(f" ▸ largest: {found.explain(*(best[0] if best else (0, 0)))[0]}")
        for said in found.foot:
            yield Text(f"   {said}", style="dim")
