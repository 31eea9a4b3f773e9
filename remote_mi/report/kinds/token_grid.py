"""A grid of tokens: the most probable at each layer and position."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.style import Style
from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import fit, visible
from remote_mi.recipes.figures import TokenGrid
from remote_mi.report import colors
from remote_mi.report.kinds.grid import Grid, draw
from remote_mi.report.kinds.heatmap import Map, prompt_label
from remote_mi.report.wording import Slice, where
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result


def token_map(
    figure: TokenGrid, result: Result, slice_: Slice, palette: colors.Palette = colors.DARK
) -> Map:
    """A token grid laid out: the top token of every row and column of one prompt.

    Raises:
        NotFound: if there is no such prompt.
    """
    index = slice_.item if slice_.pair is None else slice_.pair
    every = result.each(figure.output)
    if not 0 <= index < len(every):
        raise NotFound(f"there is no prompt {index + 1}", f"there are {len(every)}")
    tokens = every[index]
    shade = result.each(figure.shade)[index] if figure.shade else None
    dims = tokens.dims[:2]
    shades = shade.values[..., 0] if shade is not None else np.ones(tokens.shape[:2])
    texts = [[visible(result.text(token)) for token in row] for row in tokens.values[..., 0]]

    def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
        strength = float(shades[row, column]) if np.isfinite(shades[row, column]) else 0.0
        text = colors.ramp(strength) + fit(texts[row][column], wide - 1)
        return text, colors.sequential(strength, palette)

    array = NamedArray(shades, dims, {d: tokens.coords[d] for d in dims}, name=figure.shade)

    def explain(row: int, column: int) -> list[str]:
        ranked = []
        for place, token in enumerate(tokens.values[row, column]):
            share = f" {shade.values[row, column, place]:.2f}" if shade is not None else ""
            ranked.append(f"{visible(result.text(token))}{share}")
        return [where(array, (row, column)), "  ".join(ranked)]

    head = [prompt_label(result, index)] if len(every) > 1 else []
    grid = Grid(dims[0], dims[1], tokens.coords[dims[0]], tokens.coords[dims[1]], cell, 8)
    distance = np.where(np.isfinite(shades), shades, 0.0)
    return Map(
        grid,
        array,
        distance,
        np.zeros(shades.shape, bool),
        head,
        [],
        explain,
        (len(shades) - 1, shades.shape[1] - 1),
        texts,
    )


def token_grid(figure: TokenGrid, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """The top token of every row and column of one prompt."""
    found = token_map(figure, result, slice_)
    for said in found.head:
        yield Text(f" {said}")
    yield from draw(found.grid, width)
    rows, columns = found.distance.shape
    if not rows or not columns:
        return
    index = slice_.item if slice_.pair is None else slice_.pair
    token = visible(result.text(result.each(figure.output)[index].values[-1, -1, 0]))
    yield Text(
        f" ▸ after the last layer, at the last position: {token}"
        f" · {figure.shade or 'shade'} {found.distance[-1, -1]:.2f}"
    )
