"""Heatmaps: numbers over rows × columns, marked where a control explains them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from rich.style import Style
from rich.text import Text

from remote_mi.common.text import line, pad_or_cut
from remote_mi.recipes.figures import Figure, Heatmap
from remote_mi.report import colors
from remote_mi.report.drawing import CellAxes, cell_grid_size, color_map, note_marks, value_label
from remote_mi.report.kinds.grid import (
    Grid,
    Map,
    color_scale,
    format_number,
    grid_lines,
    page_cells,
    page_legend,
    visible_labels,
)
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.sentences import map_sentences
from remote_mi.report.markup import PagePlace, read_asset, render_figure
from remote_mi.report.readings.reading import map_reading
from remote_mi.report.readings.told import Told
from remote_mi.report.slices import FigurePart, cut_dims, select_part
from remote_mi.report.wording import EXPLAINED, Slice, format_amount, place_text
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from remote_mi.report.text_fitting import Pen


@dataclass(frozen=True)
class HeatmapLayout(Layout):
    """The values of a heatmap.

    Attributes:
        part: what is shown; [row, column].
    """

    figure: Heatmap
    part: FigurePart

    @property
    def center(self) -> float:
        """The neutral value."""
        return self.figure.center or 0.0

    @property
    def told(self) -> Told:
        """What may be said of it."""
        return Told(self.part, self.result, self.slice_, self.figure.center == 0)

    @property
    def values(self) -> np.ndarray:
        return self.part.array.values

    @functools.cached_property
    def head(self) -> list[str]:
        """Which part is shown, as text."""
        found = []
        if self.slice_.pair is not None:
            clean = line(self.result.prompts[self.slice_.pair]["clean"])
            found.append(f"prompt {self.slice_.pair + 1} of {len(self.result.prompts)}: {clean}")
        if self.part.cut_text:
            sizes = [str(len(self.part.full.coords[dim])) for dim in self.part.cut_dims]
            found.append(f"at {self.part.cut_text} (of {' × '.join(sizes)})")
        return found

    @property
    def foot(self) -> list[str]:
        """The meaning of the marks."""
        return [self.part.mark_note] if self.part.mark_note else []

    def describe_cell(self, row: int, column: int) -> str:
        """A cell as text: its place, value, and whether its control explains it."""
        mark = f" {EXPLAINED} as its control" if self.part.grey[row, column] else ""
        return f"{self.part.describe_cell((row, column))}{mark}"

    def embeds_all_slices(self, place: PagePlace) -> bool:
        """Whether a page embeds the numbers of all slices, so that its reader can choose."""
        return bool(
            self.part.cut_dims
            and self.part.full.values.size <= place.numbers
            and not self.slice_.at
        )


class HeatmapKind(Kind[Heatmap, HeatmapLayout]):
    """Rows × columns of numbers."""

    numeric = True
    sliced = True

    def layout(self, figure: Heatmap, result: Result, slice_: Slice) -> HeatmapLayout:
        return HeatmapLayout(figure, result, slice_, select_part(figure, result, slice_))

    def text(self, layout: HeatmapLayout, width: int) -> Iterator[Text]:
        cells = self.cell_map(layout, colors.DARK)
        for text in cells.head:
            hint = "; `view --at`" if text.startswith("at ") else ""
            yield Text(f" {text[:-1]}{hint})" if hint else f" {text}", style="dim")
        yield from grid_lines(cells.grid, width)
        if np.isfinite(layout.values).any():
            yield Text(f" ▸ largest: {layout.describe_cell(*cells.start)}")
            for text in cells.foot:
                yield Text(f"   {text}", style="dim")

    def sentences(self, layout: HeatmapLayout) -> Iterator[str]:
        part, full = layout.part, layout.part.full
        if part.cut_text and np.isfinite(full.values).any():
            at = np.unravel_index(
                int(np.nanargmax(np.abs(full.values - layout.center))), full.shape
            )
            yield (
                f"Shown at {part.cut_text}; the largest value overall is at "
                f"{place_text(full, at)}: {format_amount(full.values[at])}."
            )
        yield from map_sentences(layout.told, layout.center)

    def readings(self, layout: HeatmapLayout) -> Iterator[str]:
        return map_reading(layout.told)

    def cell_map(self, layout: HeatmapLayout, palette: colors.Palette) -> Map:
        array, marked, values = layout.part.array, layout.part.marked, layout.values
        grey, limits = layout.part.grey, layout.slice_.limits
        measure = color_scale(
            values if limits is None else np.array(limits), layout.figure.center, palette
        )

        def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
            strength, style = measure(values[row, column])
            sign = EXPLAINED if marked[row, column] else colors.ramp_character(strength)
            style = Style(dim=True) if grey[row, column] else style
            return pad_or_cut(sign + format_number(values[row, column], wide - 1), wide), style

        rows, columns = array.dims
        grid = Grid(
            rows, columns, array.coords[rows], array.coords[columns], cell, _min_cell_width(values)
        )
        distance = np.abs(np.where(np.isfinite(values), values - layout.center, 0.0))
        made = Map(
            grid,
            array,
            distance,
            marked,
            layout.head,
            layout.foot,
            lambda row, column: [layout.describe_cell(row, column)],
        )
        return replace(made, start=made.ranked[0]) if made.ranked else made

    def html(self, layout: HeatmapLayout, place: PagePlace) -> Markup:
        part, figure = layout.part, layout.figure
        full, array = part.full, part.array
        whole = layout.embeds_all_slices(place)
        shades = colors.shades(full.values if whole else array.values, figure.center)
        numbers = part
        if whole:
            numbers = select_part(Figure(figure.output), layout.result, layout.slice_)
        data = _numbers(numbers, (*part.cut_dims, *array.dims) if whole else array.dims)
        data.update(unit=figure.unit, scale=[shades.low, shades.high, shades.letter])
        cells = [
            [
                _cell(array.values[r, c], (part.marked[r, c], part.grey[r, c]), shades)
                for c in range(array.shape[1])
            ]
            for r in range(array.shape[0])
        ]
        if array.values.size <= place.titles:
            for index in np.ndindex(*array.shape):
                title = f"{place_text(array, index)}: {part.describe_value(index)}"
                cells[index[0]][index[1]]["title"] = title
        choices = [{"dim": dim, "labels": visible_labels(full, dim)} for dim in part.cut_dims]
        return render_figure(
            "grid.html.j2",
            figure,
            place,
            **page_cells(array, cells),
            data=data,
            scale=page_legend(shades),
            cut_text="" if whole else part.cut_text,
            marked=bool(part.marked.any()),
            mark_legend=part.mark_legend,
            choices=choices if whole else [],
        )

    def style(self) -> str:
        return read_asset("grid.css")

    def fixed_dims(self, layout: HeatmapLayout, place: PagePlace) -> list[str]:
        return [] if layout.embeds_all_slices(place) else cut_dims(layout.figure, layout.result)

    def size(self, layout: HeatmapLayout) -> tuple[float, float]:
        return cell_grid_size(layout.values.shape)

    def draw(self, layout: HeatmapLayout, axes: Axes, pen: Pen) -> None:
        part, values = layout.part, layout.values
        shades = colors.shades(values, layout.figure.center)
        grid = CellAxes(axes, part.array, values.shape, pen, self.size(layout))
        ends, label = (shades.low, shades.high), value_label(layout.figure, pen)
        grid.paint(values, part.grey, color_map(shades.letter), ends, label)
        grid.mark(part.marked)
        if part.cut_text:
            axes.set_title(pen.fit(f"at {part.cut_text}", grid.points[0], 8))
        if part.marked.any():
            note_marks(axes, EXPLAINED, part)

    def with_output(self, figure: Heatmap, result: Result, output: str) -> Heatmap:
        signed = bool((np.nan_to_num(result[output].values) < 0).any())
        changed = super().with_output(figure, result, output)
        return replace(changed, center=0.0 if signed else None)

    def for_difference(self, figure: Heatmap) -> Heatmap:
        return replace(figure, center=0.0)


def _min_cell_width(values: np.ndarray) -> int:
    """Width of a column: one more if a minus sign would displace a significant digit."""
    finite = values[np.isfinite(values)]
    negative = finite[finite < -0.005]
    lost = np.where(negative > -0.995, 0.05, np.where(negative > -9.95, 0.5, 0.0))
    return 5 if (lost > 0.05 * np.abs(finite).max(initial=0.0)).any() else 4


def _cell(value: float, mark: tuple[bool, bool], shades: colors.Shades) -> dict[str, Any]:
    """A cell of a page. mark: whether it is marked, and whether it is grey."""
    level = shades.level(float(value))
    text = (EXPLAINED if mark[0] else "") + format_number(float(value), 4)
    if mark[1]:
        return {"css": "x", "text": text}
    return {"css": "" if level is None else f"{shades.letter}{level}", "text": text}


def _numbers(part: FigurePart, order: Sequence[str]) -> dict[str, Any]:
    """Values, intervals, control and marks, flattened in the given order of dimensions."""
    axes = [part.array.dims.index(dim) for dim in order]

    def flat(values: np.ndarray | None) -> list[float | None] | None:
        return (
            None
            if values is None
            else [_json_number(v) for v in values.transpose(axes).reshape(-1)]
        )

    array = part.array
    data: dict[str, Any] = {
        "output": array.name,
        "n": part.count or None,
        "v": flat(array.values),
        "lo": flat(array.low),
        "hi": flat(array.high),
        "band": flat(part.control),
    }
    if part.control is not None:
        data["mark"] = "".join("01"[int(m)] for m in part.marked.transpose(axes).reshape(-1))
    return {name: value for name, value in data.items() if value is not None}


def _json_number(value: float) -> float | None:
    """A number with four digits, which is enough for a reader; None for NaN and infinities."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
