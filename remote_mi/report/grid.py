"""Rows × columns of cells in a terminal: the layout that heatmaps and token grids share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi.report import colors
from remote_mi.report.text import fit, visible

#: More rows than this are thinned out, and the reader is told.
MOST_ROWS = 48
_WIDEST_CELL = 8


def number(value: float, room: int = 4) -> str:
    """A number in at most `room` cells (3 or more)."""
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
            continue  # two digits for what is below 1, one for what is above
        if text.startswith("0."):
            text = text[1:]
        text = f"-{text}" if value < 0 else text
        if len(text) <= room:
            return text
    text = f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return text if len(text) <= room else ("-" if value < 0 else "") + "big"[: room - 1]


def scale(values: np.ndarray, center: float | None) -> Callable[[float], tuple[float, Style]]:
    """From a value to its strength (0 … 1, for the ramp) and its style."""
    finite = values[np.isfinite(values)]
    if center is not None:
        reach = float(np.abs(finite - center).max()) if finite.size else 0.0

        def diverging(value: float) -> tuple[float, Style]:
            share = 0.0 if not np.isfinite(value) or reach == 0 else (value - center) / reach
            return abs(share), colors.diverging(share)

        return diverging
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)

    def sequential(value: float) -> tuple[float, Style]:
        share = 0.0 if not np.isfinite(value) or high == low else (value - low) / (high - low)
        return share, colors.sequential(share)

    return sequential


def draw(
    row_name: str,
    rows: Sequence[Any],
    columns: Sequence[Any],
    cell: Callable[[int, int, int], tuple[str, Style]],
    width: int,
    cell_width: int = 4,
) -> Iterator[Text]:
    """The lines of a grid: highest row on top, columns in as many blocks as the width needs.

    Args:
        cell: (row, column, cells wide) → text of that width and its style.
        width: of the screen, in cells. cell_width: at least, without the gap.
    """
    labels = [visible(str(c)) for c in columns]
    left = max(len(row_name), max((len(str(r)) for r in rows), default=1)) + 1
    each = _cell_width(labels, cell_width, width - left - 3)
    per_block = max(1, (width - left - 3 + 1) // (each + 1))
    shown = list(range(len(rows)))
    if len(shown) > MOST_ROWS:
        step = -(-len(shown) // MOST_ROWS)
        shown = sorted({*range(0, len(rows), step), len(rows) - 1})
        yield Text(f"{len(rows)} rows: every {step}th and the last are shown", style="dim")
    for start in range(0, len(columns), per_block):
        block = range(start, min(start + per_block, len(columns)))
        header = f"{row_name:>{left}} │ " + " ".join(fit(labels[c], each) for c in block)
        yield Text(header.rstrip(), style="bold", no_wrap=True)
        for row in reversed(shown):
            text = Text(f"{rows[row]!s:>{left}} │ ", no_wrap=True)
            for column in block:
                content, style = cell(row, column, each)
                text.append(content, style)
                text.append(" " if column != block[-1] else "")
            yield text
        if block.stop < len(columns):
            yield Text()


def _cell_width(labels: Sequence[str], least: int, room: int) -> int:
    """Cells for a column: as wide as the labels if all columns fit, else as narrow as need be."""
    widest = max((cell_len(x) for x in labels), default=1)
    wanted = max(least + 1, min(_WIDEST_CELL, widest))
    fitting = (room + 1) // max(1, len(labels)) - 1
    return max(least, min(wanted, fitting)) if fitting >= least else wanted
