"""Token grids: the most probable token at each layer and position."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from rich.style import Style
from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import pad_or_cut, visible
from remote_mi.recipes.figures import TokenGrid
from remote_mi.report import colors
from remote_mi.report.colors import Shades
from remote_mi.report.drawing import CellAxes, cell_grid_size, color_map
from remote_mi.report.kinds.grid import Grid, Map, grid_lines, page_cells, page_legend
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.sentences import coords_only, quote_token, shorten
from remote_mi.report.markup import PagePlace, render_figure
from remote_mi.report.slices import ShownExample, select_example
from remote_mi.report.wording import Slice, format_amount, place_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from remote_mi.report.text_fitting import Pen

#: Width and height of a cell in a drawing, in inches, and the size of its text, in points.
_CELL, _FONT = (0.5, 0.15), 5.5


@dataclass(frozen=True)
class TokenGridLayout(Layout):
    """The tokens of one prompt.

    Attributes:
        shown: token ids; [row, column, rank]. shade: strength of each, of the same shape; None
            if the figure names no output for it.
    """

    figure: TokenGrid
    shown: ShownExample
    shade: np.ndarray | None

    @property
    def tokens(self) -> NamedArray:
        return self.shown.array

    @property
    def top(self) -> np.ndarray:
        """The id of the first token of each cell; [row, column]."""
        values = self.tokens.values
        return values[..., 0] if values.shape[2] else np.full(values.shape[:2], -1)

    @functools.cached_property
    def strength(self) -> np.ndarray:
        """Strength of the first token of each cell; 1 if the figure has no shade."""
        shade = self.shade if self.tokens.shape[2] else None
        return np.ones(self.top.shape) if shade is None else shade[..., 0]

    @functools.cached_property
    def _texts(self) -> dict[int, str]:
        ids = {-1, *np.unique(self.tokens.values).tolist()}
        return {token: visible(self.result.text(token)) for token in ids}

    def text(self, token: int) -> str:
        """A token of the grid, safe to show."""
        return self._texts[int(token)]

    def ranked(self, row: int, column: int) -> list[tuple[str, float | None]]:
        """The tokens of a cell by rank, each with its strength."""
        shades = [None] * self.tokens.shape[2] if self.shade is None else self.shade[row, column]
        ids = self.tokens.values[row, column]
        return [
            (self.text(token), None if strength is None else float(strength))
            for token, strength in zip(ids, shades, strict=True)
            if token >= 0
        ]

    def place(self, row: int, column: int) -> str:
        """The place of a cell as text."""
        return place_text(coords_only(self.tokens, self.tokens.dims[:2]), (row, column))


class TokenGridKind(Kind[TokenGrid, TokenGridLayout]):
    """Tokens over rows × columns, coloured by strength."""

    prompts_shown = "one"

    def layout(self, figure: TokenGrid, result: Result, slice_: Slice) -> TokenGridLayout:
        found = select_example(figure.output, result, slice_)
        tokens = found.array
        if result.outputs[figure.output].kind != "token" or len(tokens.dims) != 3:
            raise NotFound(
                f"{figure.output!r} is not of tokens by row, column and rank",
                "a token_grid shows Tokens(…) of three dimensions",
            )
        shade = _shade(figure, result, found) if figure.shade else None
        return TokenGridLayout(figure, result, slice_, found, shade)

    def text(self, layout: TokenGridLayout, width: int) -> Iterator[Text]:
        cells = self.cell_map(layout, colors.DARK)
        for text in cells.head:
            yield Text(f" {text}")
        yield from grid_lines(cells.grid, width)
        if layout.top.size:
            yield Text(
                f" ▸ after the last layer, at the last position: {layout.text(layout.top[-1, -1])}"
                f" · {layout.figure.shade or 'shade'} {cells.distance[-1, -1]:.2f}"
            )

    def sentences(self, layout: TokenGridLayout) -> Iterator[str]:
        tokens, top, result = layout.tokens, layout.top, layout.result
        if layout.shown.count > 1:
            clean = shorten(layout.shown.clean)
            yield f"Prompt {layout.shown.index + 1} of {layout.shown.count}: “{clean}”."
        rows = tokens.dims[0]
        if not top.size:
            yield f"{tokens.name} has no tokens."
            return
        final = top[-1, -1]
        if final < 0:
            yield (
                f"The last {rows} gives no token at the last position: its scores are not finite."
            )
            return
        others = np.flatnonzero(top[:, -1] != final)
        since = int(others[-1]) + 1 if others.size else 0
        named = layout.figure.shade
        strength = f" ({named} {format_amount(layout.strength[-1, -1])})" if named else ""
        place = place_text(coords_only(tokens, tokens.dims[1:2]), (top.shape[1] - 1,))
        yield (
            f"At the last position ({place}) the last {rows} gives "
            f"{quote_token(result, final)}{strength}."
        )
        names = tokens.coords[rows]
        if since == 0:
            yield f"It is the top token from the first {rows} on."
            return
        before = quote_token(result, top[since - 1, -1])
        begins = f" ({named} {format_amount(layout.strength[since, -1])} there)" if named else ""
        yield (
            f"It is the top token from {rows} {names[since]} on{begins}; at {rows} "
            f"{names[since - 1]} the top token is {before}."
        )

    def cell_map(self, layout: TokenGridLayout, palette: colors.Palette) -> Map:
        tokens, shades = layout.tokens, layout.strength
        rows, columns = tokens.dims[:2]
        texts = [[layout.text(token) for token in row] for row in layout.top]
        distance = np.where(np.isfinite(shades), shades, 0.0)

        def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
            strength = float(distance[row, column])
            text = colors.ramp_character(strength) + pad_or_cut(texts[row][column], wide - 1)
            return text, colors.sequential(strength, palette)

        def explain(row: int, column: int) -> list[str]:
            ids = tokens.values[row, column]
            ranked = [
                f"{layout.text(token)}"
                + ("" if layout.shade is None else f" {layout.shade[row, column, rank]:.2f}")
                for rank, token in enumerate(ids)
            ]
            return [layout.place(row, column), "  ".join(ranked)]

        coords = {dim: tokens.coords[dim] for dim in (rows, columns)}
        return Map(
            Grid(rows, columns, coords[rows], coords[columns], cell, 8),
            NamedArray(shades, (rows, columns), coords, name=layout.figure.shade),
            distance,
            np.zeros(shades.shape, bool),
            [layout.shown.label] if layout.shown.label else [],
            [],
            explain,
            (max(0, shades.shape[0] - 1), max(0, shades.shape[1] - 1)),
            texts,
        )

    def html(self, layout: TokenGridLayout, place: PagePlace) -> Markup:
        scale, shaded = Shades(0.0, 1.0), layout.shade is not None
        cells = []
        for r in range(layout.top.shape[0]):
            cells.append([])
            for c in range(layout.top.shape[1]):
                level = scale.level(float(layout.strength[r, c])) if shaded else None
                ranked = layout.ranked(r, c)
                texts = [text + ("" if p is None else f" {format_amount(p)}") for text, p in ranked]
                cells[-1].append(
                    {
                        "css": "" if level is None else f"s{level}",
                        "text": ranked[0][0] if ranked else "∅",
                        "title": f"{layout.place(r, c)}: {', '.join(texts)}",
                    }
                )
        return render_figure(
            "grid.html.j2",
            layout.figure,
            place,
            **page_cells(layout.tokens, cells),
            prompt=layout.shown.title,
            tokens=True,
            scale=page_legend(scale) if shaded else None,
            shade=layout.figure.shade,
        )

    def size(self, layout: TokenGridLayout) -> tuple[float, float]:
        return cell_grid_size(layout.top.shape, _CELL)

    def draw(self, layout: TokenGridLayout, axes: Axes, pen: Pen) -> None:
        top, shaded = layout.top, layout.shade is not None
        values = layout.strength if shaded else np.zeros(top.shape)
        colours = color_map("s")
        grid = CellAxes(axes, layout.tokens, top.shape, pen, self.size(layout))
        label = pen.label(layout.figure.shade, 200, 8) if shaded else ""
        grid.paint(values, np.zeros(top.shape, bool), colours, (0.0, 1.0), label)
        room = 0.85 * grid.points[0] / max(1, top.shape[1])
        for row, column in np.ndindex(*top.shape):
            red, green, blue, _ = colours(float(values[row, column]))
            front = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.47 else "white"
            token = int(top[row, column])
            grid.write(
                column + 0.06,
                row + 0.5,
                pen.label(layout.result.text(token), room, _FONT),
                size=_FONT,
                color=front,
                gid=f"token:{row}:{column}:{token}",
            )
        if layout.shown.title:
            axes.set_title(pen.fit(layout.shown.title, grid.points[0], 8))


def _shade(figure: TokenGrid, result: Result, shown: ShownExample) -> np.ndarray:
    """The strengths that colour the tokens of a prompt.

    Raises:
        NotFound: if they are not one number for each token.
    """
    every = result.each(figure.shade)
    values = every[shown.index].values if shown.index < len(every) else np.zeros(0)
    if values.shape != shown.array.shape or values.dtype.kind not in "fiub":
        raise NotFound(
            f"{figure.shade!r} has the shape {values.shape}, {figure.output!r} "
            f"{shown.array.shape}: it cannot colour its tokens",
            "shade names an output of one number for each token",
        )
    return values
