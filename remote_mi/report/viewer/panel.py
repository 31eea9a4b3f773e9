"""A figure of a run with what the viewer may change of it: the slice, the metric, the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.text import Text

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import line, visible
from remote_mi.recipes import figures
from remote_mi.recipes.figures import Figure
from remote_mi.report import colors
from remote_mi.report.kinds import bars, heatmap, table, token_grid
from remote_mi.report.kinds.heatmap import Map
from remote_mi.report.kinds.lines import Curves, curves
from remote_mi.report.slices import cuts
from remote_mi.report.terminal import figure_lines
from remote_mi.report.viewer import lines
from remote_mi.report.viewer.listing import Item, Listing, of_lines, wrapped
from remote_mi.report.wording import Slice, of_prompt
from remote_mi.store.result import Result

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
        at: (line, point) of the cursor in a figure of lines; None where most is to be seen.
        also: further texts that are shown below; what was said before is read beside what is
            said after.
    """

    figure: Figure
    result: Result
    slice_: Slice = field(default_factory=Slice)
    shown: str = ""
    window: tuple[int, int] | None = None
    at: tuple[int, int] | None = None
    also: Sequence[Figure] = ()

    def __post_init__(self) -> None:
        self.shown = self.shown or self.figure.output

    @property
    def title(self) -> str:
        return "text" if self.also else self.figure.name

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
        return cuts(self.current, self.result)

    def dim_of(self, key: str) -> str | None:
        """The dimension that a key steps through: layer, component or another one."""
        dims = self.dims()
        named = {"layer": LAYER, "component": COMPONENT}.get(key)
        for dim in dims:
            if (dim in named) if named else (dim not in (*LAYER, *COMPONENT)):
                return dim
        return None

    def step(self, dim: str, by: int) -> str:
        """Take the next coordinate of a dimension; returns why nothing changed, or ""."""
        labels, at = self._labels(dim), self.slice_.at.get(dim)
        index = next((i for i, label in enumerate(labels) if str(label) == str(at)), at)
        index = ((index if isinstance(index, int) else 0) + by) % len(labels)
        # A token that occurs twice is told apart by its index.
        label = index if labels.count(labels[index]) > 1 else labels[index]
        self.slice_ = replace(self.slice_, at={**self.slice_.at, dim: label})
        return "" if len(labels) > 1 else f"there is one {dim} only"

    def step_pair(self, by: int) -> str:
        """Show the next prompt by itself, or all again; returns why nothing changed, or ""."""
        count = len(self.result.prompts)
        if count < 2:
            return "there is one prompt only"
        if isinstance(self.figure, figures.Table):
            return "every prompt is shown"
        single = isinstance(self.figure, (figures.TokenGrid, figures.Text))
        if single:
            count = len(self.result.each(self.figure.output))
            if count < 2:  # of a recipe that is called once with all prompts
                return "this was made once, not for every prompt"
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
        self.window = None  # another prompt may have fewer rows
        at = {
            dim: label
            for dim, label in self.slice_.at.items()
            if dim not in self.dims() or str(label) in map(str, self._labels(dim))
        }
        self.slice_ = replace(self.slice_, at=at)
        return ""

    def _labels(self, dim: str) -> list[Any]:
        """The coordinates of a dimension of what is shown: of one prompt they are its own."""
        return list(self.slice_.of(self.result, self.shown).coords[dim])

    def next_variant(self, by: int) -> str:
        """Show the next output of the same dimensions; returns why nothing changed, or ""."""
        names = self.variants()
        if len(names) < 2:
            return "there is no other output of these dimensions"
        self.shown = names[(names.index(self.shown) + by) % len(names)]
        return ""

    # The cursor in a figure of lines; maps and lists have one of their own.

    @property
    def curves(self) -> Curves | None:
        """The lines; None for a figure of another kind.

        Raises:
            RemoteMIError: if the result has not what the figure shows.
        """
        if not isinstance(self.figure, figures.Lines):  # before `current`, which may look far
            return None
        figure = self.current
        assert isinstance(figure, figures.Lines)
        return curves(figure, self.result, self.slice_)

    def move(self, found: Curves, down: int, right: int) -> None:
        """Move the cursor to another line or another point of it."""
        line, point = lines.place(found, self.at)
        self.at = lines.place(found, (line + down, point + right))

    # What is shown.

    def map(self, palette: colors.Palette) -> Map | None:
        """The heatmap or token grid; None for a figure of another kind.

        Raises:
            RemoteMIError: if the result has not what the figure shows.
        """
        figure = self.current
        if isinstance(figure, figures.Heatmap):
            return heatmap.heatmap_map(figure, self.result, self.slice_, palette)
        if isinstance(figure, figures.TokenGrid):
            return token_grid.token_map(figure, self.result, self.slice_, palette)
        return None

    def listing(self, width: int, height: int) -> Listing:
        """The figure as lines with a cursor.

        Raises:
            RemoteMIError: if the result has not what the figure shows.
        """
        figure = self.current
        if isinstance(figure, figures.Bars):
            return self._bars(figure, width)
        if isinstance(figure, figures.Table):
            return self._table(figure, width)
        if isinstance(figure, figures.Lines):
            return lines.listing(figure, self.result, self.slice_, self.at, width, height)
        found: list[tuple[Text, Item]] = []
        for part in (figure, *self.also):
            if self.also:
                gap = [(Text(), Item())] if found else []
                found += [*gap, (Text(f" {line(part.name)}", "bold", no_wrap=True), Item())]
            for text in figure_lines(part, self.result, width, self.slice_):
                found += _paragraph(text, width)
        return of_lines(found)

    def _bars(self, figure: figures.Bars, width: int) -> Listing:
        size = int(self.slice_.of(self.result, figure.output).values.size)
        figure = replace(figure, most=min(size, _MOST_BARS))
        ranked = bars.ranked(figure, self.result, self.slice_)
        drawn = list(bars.bars(figure, self.result, width, self.slice_))
        # What the marks mean stands below the last bar, which may be far down.
        foot = tuple(text.plain.strip() for text in drawn[len(ranked) :])
        items = [Item((bar.said, *foot), known=bar.name) for bar in ranked] or [Item()]
        return of_lines(list(zip(drawn, items, strict=False)))

    def _table(self, figure: figures.Table, width: int) -> Listing:
        head, *drawn = table.table(figure, self.result, width, self.slice_)
        names = (figure.output, *figure.columns)
        found = []
        for index, text in enumerate(drawn):
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

        everything = replace(self.slice_, pair=None)
        return [
            said
            for part in (self.current, *self.also)
            for said in summary(part, self.result, everything)
        ]

    def state(self) -> str:
        """The slice and metric, for beside the title; "" where nothing was changed."""
        parts = []
        if self.shown != self.figure.output:
            names = self.variants()
            parts.append(f"shows {self.shown} ({names.index(self.shown) + 1} of {len(names)})")
        if not isinstance(self.figure, (figures.Heatmap, figures.TokenGrid)):
            for dim in self.dims():  # of those, the map itself says it
                label = self.slice_.at.get(dim, self._labels(dim)[0])
                parts.append(f"at {dim} {visible(str(label))}")
            if self.slice_.pair is not None and not isinstance(self.figure, figures.Text):
                parts.append(f"prompt {self.slice_.pair + 1} of {len(self.result.prompts)}")
        return " · ".join(parts)


def _paragraph(text: Text, width: int) -> list[tuple[Text, Item]]:
    """A line of text in as many lines as it needs."""
    item = Item((text.plain.strip(),))
    pieces = [text] if text.no_wrap else wrapped(text.plain, width, style=str(text.style))
    return [(piece, item) for piece in pieces]
