"""Rows × columns of cells: the common parts of heatmaps and token grids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi.common.text import pad_or_cut, visible
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report import colors
from remote_mi.report.colors import Shades
from remote_mi.report.wording import format_amount
from remote_mi.store.named_array import NamedArray

#: Above this number of rows, some are left out, with a note.
MOST_ROWS = 48
#: Maximum length of `Map.ranked`; a map may have millions of cells.
MOST_RANKED = 1000
_WIDEST_CELL = 8
_WIDEST_ROW_LABEL = 12


@dataclass(frozen=True)
class Grid:
    """A heatmap or token grid as data, from which terminal, `--plain` and viewer draw.

    Attributes:
        row_name, column_name: names of the dimensions.
        rows, columns: their coordinates.
        cell: (row, column, width in cells) → text of that width and its style.
        min_width: minimum width of a column in cells, without the gap.
    """

    row_name: str
    column_name: str
    rows: Sequence[Any]
    columns: Sequence[Any]
    cell: Callable[[int, int, int], tuple[str, Style]]
    min_width: int = 4

    @functools.cached_property
    def row_labels(self) -> list[str]:
        """The name of the dimension and of each row, safe to show, padded to one width."""
        shown = [visible(str(r)) for r in self.rows]
        room = max(len(self.row_name), *(cell_len(s) for s in shown), 1)
        room = min(room, max(len(self.row_name), _WIDEST_ROW_LABEL))
        return [_align_right(s, room) for s in [self.row_name, *shown]]

    @functools.cached_property
    def column_labels(self) -> list[str]:
        """The columns' names, safe to show."""
        return [visible(str(c)) for c in self.columns]

    @property
    def order(self) -> list[int]:
        """Rows from top to bottom: tokens in reading order, everything else increasing upwards."""
        rows = list(range(len(self.rows)))
        return rows if self.row_name in POSITIONS else rows[::-1]

    def cell_width(self, room: int) -> int:
        """Width of a column: as wide as the labels if all columns fit, else narrower."""
        widest = max((cell_len(x) for x in self.column_labels), default=1)
        wanted = max(self.min_width + 1, min(_WIDEST_CELL, widest))
        fitting = (room + 1) // max(1, len(self.columns)) - 1
        return max(self.min_width, min(wanted, fitting)) if fitting >= self.min_width else wanted


@dataclass(frozen=True)
class Map:
    """Cells that a cursor moves over, in a terminal's characters and colours.

    Attributes:
        grid: the grid to draw.
        array: the values, or the shades of a token grid; [row, column].
        distance: distance of each value from the neutral one; [row, column].
        marked: which cells a control explains; [row, column].
        head: lines above: which part is shown. foot: lines below: the meaning of marks.
        explain: (row, column) → explanation of the cell, most important first.
        start: the initial cell.
        texts: texts of the cells of a token grid, safe to show; None for numbers.
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
        """Cells from the most prominent one; those that a control explains come last.

        At most `MOST_RANKED` of them, and none at the neutral value.
        """
        return [at for at in rank_cells(self.distance, self.marked) if self.distance[at] > 0]


def rank_cells(distance: np.ndarray, marked: np.ndarray) -> list[tuple[int, int]]:
    """Cells by decreasing distance, at most `MOST_RANKED`; those explained by a control come last.

    Args:
        distance: finite numbers. marked: which cells a control explains; both [row, column].
    """
    score = np.where(marked, distance - (distance.max(initial=0.0) + 1.0), distance).reshape(-1)
    most = min(MOST_RANKED, score.size)
    best = np.sort(np.argpartition(-score, most - 1)[:most]) if most else np.zeros(0, int)
    order = best[np.argsort(-score[best], kind="stable")]
    return [divmod(int(i), distance.shape[1]) for i in order]


def _align_right(text: str, width: int) -> str:
    text = pad_or_cut(text, width).rstrip()
    return " " * (width - cell_len(text)) + text


def format_number(value: float, room: int = 4) -> str:
    """A number in at most `room` characters (3 or more)."""
    if np.isnan(value):
        return "?"
    if np.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    for digits in (2, 1, 0):
        text = f"{size:.{digits}f}"
        if float(text) == 0:
            return "0"
        if digits == 2 and size >= 0.995:
            continue  # two digits below 1, one above
        if text.startswith("0."):
            text = text[1:]
        text = f"-{text}" if value < 0 else text
        if len(text) <= room:
            return text
    text = f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return text if len(text) <= room else ("-" if value < 0 else "") + "big"[: room - 1]


def color_scale(
    values: np.ndarray, center: float | None, palette: colors.Palette = colors.DARK
) -> Callable[[float], tuple[float, Style]]:
    """A function from a value to its strength (0 … 1, for the ramp) and its style."""
    finite = values[np.isfinite(values)]
    if center is not None:
        reach = float(np.abs(finite - center).max()) if finite.size else 0.0

        def diverging(value: float) -> tuple[float, Style]:
            share = 0.0 if not np.isfinite(value) or reach == 0 else (value - center) / reach
            return abs(share), colors.diverging(share, palette)

        return diverging
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)

    def sequential(value: float) -> tuple[float, Style]:
        share = 0.0 if not np.isfinite(value) or high == low else (value - low) / (high - low)
        return share, colors.sequential(share, palette)

    return sequential


def grid_lines(grid: Grid, width: int) -> Iterator[Text]:
    """The lines of a grid, with columns split into blocks that fit the width (in cells)."""
    if not grid.rows or not grid.columns:
        yield Text(f" no {grid.column_name if grid.rows else grid.row_name} to show", style="dim")
        return
    name, *labels = grid.row_labels
    left = cell_len(name) + 1
    each = grid.cell_width(width - left - 3)
    per_block = max(1, (width - left - 3 + 1) // (each + 1))
    shown = grid.order
    if len(shown) > MOST_ROWS:
        step = -(-len(shown) // MOST_ROWS)
        kept = {*range(0, len(shown), step), len(shown) - 1}
        shown = [row for row in shown if row in kept]
        yield Text(f"{len(grid.rows)} rows: every {step}th and the last are shown", style="dim")
    for start in range(0, len(grid.columns), per_block):
        block = range(start, min(start + per_block, len(grid.columns)))
        header = f" {name} │ " + " ".join(pad_or_cut(grid.column_labels[c], each) for c in block)
        yield Text(header.rstrip(), style="bold", no_wrap=True)
        for row in shown:
            text = Text(f" {labels[row]} │ ", no_wrap=True)
            for column in block:
                content, style = grid.cell(row, column, each)
                text.append(content, style)
                text.append(" " if column != block[-1] else "")
            yield text
        if block.stop < len(grid.columns):
            yield Text()


def page_cells(array: NamedArray, cells: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Rows, columns and cells as the template of grids takes them.

    The highest layer is on top; positions are in order.

    Args:
        cells: [row][column] → `css`, `text` and optionally `title`.
    """
    rows, columns = (visible_labels(array, dim) for dim in array.dims[:2])
    order = range(len(rows)) if array.dims[0] in POSITIONS else range(len(rows))[::-1]
    return {
        "row_name": array.dims[0],
        "column_name": array.dims[1],
        "columns": columns,
        "rows": [{"text": rows[r], "index": r, "cells": cells[r]} for r in order],
        "tall": any(len(c) > 3 for c in columns),
    }


def visible_labels(array: NamedArray, dim: str) -> list[str]:
    """The coordinates of a dimension, safe to show."""
    return [visible(str(label)) for label in array.coords[dim]]


def page_legend(scale: Shades) -> dict[str, Any]:
    """The template's data of a colour scale: its colours and ends."""
    middle = (scale.low + scale.high) / 2
    return {
        "letter": scale.letter,
        "levels": range(0, 33, 4),
        "ends": [format_amount(v) for v in (scale.low, middle, scale.high)],
    }
