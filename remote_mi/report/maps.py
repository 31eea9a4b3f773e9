"""Heatmaps and token grids as text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.style import Style
from rich.text import Text

from remote_mi.errors import NotFound
from remote_mi.figures import Heatmap, TokenGrid
from remote_mi.report import colors, grid
from remote_mi.report.text import fit, line, visible
from remote_mi.report.words import EXPLAINED, Slice, marked_in_words, marks, value_in_words, where
from remote_mi.results import Result


def heatmap(figure: Heatmap, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """Rows × columns of numbers, coloured, with a mark where the control explains them."""
    full = result[figure.output]
    if full.values.ndim < 2:
        raise NotFound(f"{figure.output!r} has the dimensions {full.dims}, a heatmap needs two")
    keep = (figure.rows or full.dims[-2], figure.columns or full.dims[-1])
    array, taken = slice_.apply(full, keep)
    marked = marks(result, array, slice_, keep)
    if array.dims != keep:
        values, cells = array.values.T, marked.T
    else:
        values, cells = array.values, marked
    measure = grid.scale(values, figure.center)

    def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
        strength, style = measure(values[row, column])
        if cells[row, column]:
            sign, style = EXPLAINED, Style(dim=True)
        else:
            sign = colors.ramp(strength)
        return fit(sign + grid.number(values[row, column], wide - 1), wide), style

    if taken:
        others = ", ".join(f"{d}: {full.shape[full.dims.index(d)]}" for d in full.dims
                           if d not in keep)  # fmt: skip
        yield Text(f" at {taken} (of {others}; `view --at`)", style="dim")
    yield from grid.draw(keep[0], array.coords[keep[0]], array.coords[keep[1]], cell, width)
    yield from _largest(figure, result, array, marked, bool(taken))


def _largest(figure: Heatmap, result: Result, array, marked, sliced: bool) -> Iterator[Text]:
    """One sentence that says where the largest value is, and one what the marks mean."""
    values = array.values
    if not np.isfinite(values).any():
        return
    distance = np.abs(np.where(np.isfinite(values), values - (figure.center or 0.0), 0.0))
    free = np.where(marked, -1.0, distance)  # what a control explains is not the finding
    index = np.unravel_index(int((free if (free > 0).any() else distance).argmax()), values.shape)
    yield Text(
        f" ▸ largest: {where(array, index)} · {value_in_words(result, array, index, sliced)}"
    )
    said = marked_in_words(result, array.name, marked)
    if said:
        yield Text(f"   {said}", style="dim")


def token_grid(figure: TokenGrid, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """The top token of every row and column of one prompt."""
    every = result.each(figure.output)
    if not 0 <= slice_.item < len(every):
        raise NotFound(f"there is no prompt {slice_.item + 1}", f"there are {len(every)}")
    tokens = every[slice_.item]
    shade = result.each(figure.shade)[slice_.item] if figure.shade else None
    dims = tokens.dims
    top = tokens.values[..., 0]
    shades = shade.values[..., 0] if shade is not None else np.ones(top.shape)

    def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
        strength = float(shades[row, column])
        text = visible(result.text(top[row, column]))
        return colors.ramp(strength) + fit(text, wide - 1), colors.sequential(strength)

    if len(every) > 1:
        clean = line(result.prompts[slice_.item]["clean"])
        yield Text(f" prompt {slice_.item + 1} of {len(every)}: {clean}")
    yield from grid.draw(dims[0], tokens.coords[dims[0]], tokens.coords[dims[1]], cell, width, 8)
    final = top[-1, -1], float(shades[-1, -1])
    yield Text(f" ▸ after the last layer, at the last position: {visible(result.text(final[0]))}"
               f" · {figure.shade or 'shade'} {final[1]:.2f}")  # fmt: skip
