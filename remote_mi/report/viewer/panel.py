"""A figure of a run with what the viewer may change of it: the slice, the metric, the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.text import Text

from remote_mi import figures
from remote_mi.errors import RemoteMIError
from remote_mi.figures import Figure
from remote_mi.report import colors, maps, rows
from remote_mi.report.maps import Map
from remote_mi.report.terminal import figure_lines
from remote_mi.report.text import line, visible
from remote_mi.report.viewer.listing import Item, Listing, of_lines, wrapped
from remote_mi.report.words import Slice, of_prompt
from remote_mi.results import Result

#: Dimensions that the keys `l` and `c` step through; `s` takes any other.
LAYER = ("layer",)
COMPONENT = ("component", "head", "site", "neuron", "feature")
#: Bars that a list ranks.
_MOST_BARS = 500


@dataclass
class FigurePanel:
    """One figure of a result, and the state of looking at it.

    Attributes:
        figure: as the recipe declares it. result: what it shows.
        slice_: which part is shown.
        shown: the output that is shown, among those of the same dimensions.
        window: first and last row that are shown; None for all.
        limited: coordinates of the rows that a window is given in.
    """

    figure: Figure
    result: Result
    slice_: Slice = field(default_factory=Slice)
    shown: str = ""
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.shown = self.shown or self.figure.output

    @property
    def title(self) -> str:
        return self.figure.name

    @property
    def current(self) -> Figure:
        """The figure with the output that is shown."""
        if self.shown == self.figure.output:
            return self.figure
        for other in self.result.figures:
            if other.output == self.shown and type(other) is type(self.figure):
                return other
        changed = replace(self.figure, output=self.shown, title="", unit="")
        if isinstance(changed, figures.Heatmap):
            values = self.result[self.shown].values
            signed = bool((np.nan_to_num(values) < 0).any())
            changed = replace(changed, center=0.0 if signed else None)
        return changed

    # What can be changed.

    def variants(self) -> list[str]:
        """Outputs and summaries of the same dimensions, the declared one first."""
        kinds = (figures.Heatmap, figures.Bars, figures.Lines)
        if not isinstance(self.figure, kinds) or self.figure.output not in self.result.arrays:
            return [self.figure.output]
        dims = self.result[self.figure.output].dims
        found = [self.figure.output]
        for name in self.result.names():
            output = self.result.outputs.get(name)
            if (
                name in found
                or name not in self.result.arrays
                or (output and output.kind == "token")
            ):
                continue
            if self.result[name].dims == dims:
                found.append(name)
        return found

    def dims(self) -> list[str]:
        """Dimensions that the figure has no room for, in which one coordinate is chosen."""
        figure = self.current
        if not isinstance(figure, (figures.Heatmap, figures.Lines)):
            return []
        if figure.output not in self.result.arrays:
            return []
        every = self.result[figure.output].dims
        keep: Sequence[str] = every[-2:]
        if isinstance(figure, figures.Heatmap):
            keep = (figure.rows or every[-2], figure.columns or every[-1])
        return [dim for dim in every if dim not in keep]

    def dim_of(self, key: str) -> str | None:
        """The dimension that a key steps through: layer, component or another one."""
        dims = self.dims()
        named = {"layer": LAYER, "component": COMPONENT}.get(key)
        for dim in dims:
            if (dim in named) if named else (dim not in (*LAYER, *COMPONENT)):
                return dim
        return None

    def step(self, dim: str, by: int) -> str:
        """Take the next coordinate of a dimension; returns where it is now, in words."""
        labels = list(self.result[self.shown].coords[dim])
        at = self.slice_.at.get(dim, labels[0])
        index = next((i for i, label in enumerate(labels) if str(label) == str(at)), 0)
        label = labels[(index + by) % len(labels)]
        self.slice_ = replace(self.slice_, at={**self.slice_.at, dim: label})
        return f"{dim} {visible(str(label))} of {len(labels)}"

    def step_pair(self, by: int) -> str:
        """Show the next prompt by itself, or all again; returns which, in words."""
        count = len(self.result.prompts)
        if count < 2:
            return "there is one prompt only"
        single = isinstance(self.figure, (figures.TokenGrid, figures.Text))
        if isinstance(self.figure, figures.Table):
            return "every prompt is shown"
        before = self.slice_.pair
        if single:
            pair = ((0 if before is None else before) + by) % count
        else:
            places = [None, *range(count)]
            pair = places[(places.index(before) + by) % len(places)]
            if pair is not None:
                try:
                    of_prompt(self.result, self.shown, pair)
                except RemoteMIError as error:
                    return error.message
        self.slice_ = replace(self.slice_, pair=pair, item=pair or 0)
        return "all prompts" if pair is None else f"prompt {pair + 1} of {count}"

    def next_variant(self, by: int) -> str:
        """Show the next output of the same dimensions; returns its name, in words."""
        names = self.variants()
        if len(names) < 2:
            return "there is no other output of these dimensions"
        self.shown = names[(names.index(self.shown) + by) % len(names)]
        return f"{self.shown} ({names.index(self.shown) + 1} of {len(names)})"

    # What is shown.

    def map(self, palette: colors.Palette) -> Map | None:
        """The heatmap or token grid; None for a figure of another kind.

        Raises:
            RemoteMIError: if the result has not what the figure shows.
        """
        figure = self.current
        if isinstance(figure, figures.Heatmap):
            return maps.heatmap_map(figure, self.result, self.slice_, palette)
        if isinstance(figure, figures.TokenGrid):
            return maps.token_map(figure, self.result, self.slice_, palette)
        return None

    def listing(self, width: int) -> Listing:
        """The figure as lines with a cursor.

        Raises:
            RemoteMIError: if the result has not what the figure shows.
        """
        figure = self.current
        if isinstance(figure, figures.Bars):
            return self._bars(figure, width)
        if isinstance(figure, figures.Table):
            return self._table(figure, width)
        if isinstance(figure, figures.Lines):  # the legend first: a low screen shows it, too
            lines = [*rows.legend(figure, self.result, self.slice_), Text(),
                     *rows.plot(figure, self.result, width, self.slice_)]  # fmt: skip
        else:
            lines = list(figure_lines(figure, self.result, width, self.slice_))
        found: list[tuple[Text, Item]] = []
        for text in lines:
            item = Item((text.plain.strip(),))
            pieces = [text] if text.no_wrap else wrapped(text.plain, width, style=str(text.style))
            found += [(piece, item) for piece in pieces]
        return of_lines(found)

    def _bars(self, figure: figures.Bars, width: int) -> Listing:
        size = int(self.slice_.of(self.result, figure.output).values.size)
        figure = replace(figure, most=min(size, _MOST_BARS))
        bars = rows.ranked(figure, self.result, self.slice_)
        lines = list(rows.bars(figure, self.result, width, self.slice_))
        items = [Item((bar.said,), known=bar.name) for bar in bars]
        found = [(text, items[i] if i < len(items) else Item()) for i, text in enumerate(lines)]
        return of_lines(found)

    def _table(self, figure: figures.Table, width: int) -> Listing:
        head, *lines = rows.table(figure, self.result, width, self.slice_)
        names = (figure.output, *figure.columns)
        found = []
        for index, text in enumerate(lines):
            prompt = self.result.prompts[index]
            texts = [line(str(prompt["clean"]))]
            if prompt.get("corrupt"):
                texts.append(line(str(prompt["corrupt"])))
            values = ", ".join(f"{n} {self._value(n, index)}" for n in names)
            found.append((text, Item((f"prompt {index + 1}: {values}", *texts))))
        return of_lines(found, [head])

    def _value(self, name: str, index: int) -> str:
        array: Any = self.result.each(name)[index]
        if self.result.outputs[name].kind == "token":
            return " ".join(
                visible(self.result.text(t)) for t in np.reshape(array.values, -1) if t >= 0
            )
        return f"{float(array):.4g}"

    def in_words(self) -> list[str]:
        """What the figure shows, as sentences."""
        from remote_mi.report.summary import summary

        return summary(self.current, self.result, replace(self.slice_, pair=None))

    def state(self) -> str:
        """The slice and metric, for beside the title; "" where nothing was changed."""
        parts = []
        if self.shown != self.figure.output:
            parts.append(self.shown)
        if self.window is not None:
            parts.append(f"rows {self.window[0]}–{self.window[1]}")
        if not isinstance(self.figure, (figures.Heatmap, figures.TokenGrid)):
            for dim in self.dims():  # of those, the map itself says it
                label = self.slice_.at.get(dim, self.result[self.shown].coords[dim][0])
                parts.append(f"at {dim} {visible(str(label))}")
            if self.slice_.pair is not None and not isinstance(self.figure, figures.Text):
                parts.append(f"prompt {self.slice_.pair + 1} of {len(self.result.prompts)}")
        return " · ".join(parts)
