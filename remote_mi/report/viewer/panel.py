"""A figure of a run with the state that the viewer can change: slice, output, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.text import Text

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import line, visible
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.report import colors
from remote_mi.report.kinds.grid import Map
from remote_mi.report.kinds.kind import Kind, Layout, Points
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.listing import Item, Listing, make_listing
from remote_mi.report.slices import cut_dims
from remote_mi.report.viewer.callbacks import Callbacks
from remote_mi.report.wording import Slice, prompt_values
from remote_mi.store.result import Result

#: Dimensions that the keys `l` and `c` step through; `s` steps through any other.
LAYER = ("layer",)
COMPONENT = ("component", "head", "site", "neuron", "feature")


@dataclass
class FigurePanel:
    """One figure of a result, and the state of its view.

    Attributes:
        figure: as the recipe declares it. result: the result it shows.
        slice_: which part is shown.
        output: the output that is shown, among those of the same dimensions.
        window: first and last row that are shown; None for all.
        at: (line, point) of the cursor in a list whose lines have points; None for the most
            prominent point.
        joined_figures: further figures shown below in the same panel, e.g. the text after an
            intervention below the text before.
    """

    figure: Figure
    result: Result
    slice_: Slice = field(default_factory=Slice)
    output: str = ""
    window: tuple[int, int] | None = None
    at: tuple[int, int] | None = None
    joined_figures: Sequence[Figure] = ()

    def __post_init__(self) -> None:
        self.output = self.output or self.figure.output

    @property
    def title(self) -> str:
        return self.figure.kind if self.joined_figures else self.figure.name

    @property
    def kind(self) -> Kind[Any, Any]:
        return kind_of(self.figure)

    @property
    def callbacks(self) -> Callbacks:
        """What the kind gives to call, guarded."""
        return Callbacks(self.kind, self.figure.kind)

    @property
    def current(self) -> Figure:
        """The figure for the output that is shown."""
        if self.output == self.figure.output:
            return self.figure
        for other in self.result.figures:
            if other.output == self.output and type(other) is type(self.figure):
                return other
        return self.kind.with_output(self.figure, self.result, self.output)

    @property
    def layout(self) -> Layout:
        """The layout of what is shown.

        Raises:
            RemoteMIError: if the result lacks what the figure shows.
        """
        return self.kind.layout(self.current, self.result, self.slice_)

    # What can be changed.

    def variants(self) -> list[str]:
        """Outputs and summaries of the same dimensions, the declared one first."""
        if not self.kind.numeric or self.figure.output not in self.result.arrays:
            return [self.figure.output]
        dims = self.result[self.figure.output].dims
        names = [self.figure.output]
        for name in self.result.names():
            kind = kind_of_output(self.result.outputs.get(name))
            if name in names or name not in self.result.arrays or not kind.averaged:
                continue
            if self.result[name].dims == dims:
                names.append(name)
        return names

    def dims(self) -> list[str]:
        """The dimensions that the figure cannot display; one coordinate of each is selected."""
        return cut_dims(self.current, self.result)

    def dim_for_key(self, key: str) -> str | None:
        """The dimension that a key steps through: layer, component or other; None if none."""
        dims = self.dims()
        named = {"layer": LAYER, "component": COMPONENT}.get(key)
        for dim in dims:
            if (dim in named) if named else (dim not in (*LAYER, *COMPONENT)):
                return dim
        return None

    def step_dim(self, dim: str, by: int) -> str:
        """Select the next coordinate of a dimension; returns why nothing changed, or ""."""
        labels, at = self._labels(dim), self.slice_.at.get(dim)
        index = next((i for i, label in enumerate(labels) if str(label) == str(at)), at)
        index = ((index if isinstance(index, int) else 0) + by) % len(labels)
        # A token that occurs twice is identified by its index.
        label = index if labels.count(labels[index]) > 1 else labels[index]
        self.slice_ = replace(self.slice_, at={**self.slice_.at, dim: label})
        return "" if len(labels) > 1 else f"there is only one {dim}"

    def step_pair(self, by: int) -> str:
        """Show only the next prompt, or all again; returns why nothing changed, or ""."""
        count = len(self.result.prompts)
        if count < 2:
            return "there is only one prompt"
        if self.kind.prompts_shown == "each":
            return "every prompt is shown already"
        single = self.kind.prompts_shown == "one"
        if single:
            count = len(self.result.each(self.figure.output))
            if count < 2:  # the recipe is called once with all prompts
                return "this was computed once, not for every prompt"
        before = self.slice_.pair
        if single:
            pair = ((0 if before is None else before) + by) % count
        else:
            places = [None, *range(count)]
            pair = places[(places.index(before) + by) % len(places)]
            if pair is not None:
                try:
                    prompt_values(self.result, self.output, pair)
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
        """The coordinates of a dimension of the current slice; a single prompt has its own."""
        return list(self.slice_.select(self.result, self.output).coords[dim])

    def next_variant(self, by: int) -> str:
        """Show the next output of the same dimensions; returns why nothing changed, or ""."""
        names = self.variants()
        if len(names) < 2:
            return "there is no other output with these dimensions"
        self.output = names[(names.index(self.output) + by) % len(names)]
        return ""

    # The cursor in a list whose lines have points; cell maps and other lists have their own.

    @property
    def points(self) -> Points | None:
        """The points; None for a figure without points.

        Raises:
            RemoteMIError: if the result lacks what the figure shows.
        """
        return self.kind.points(self.layout) if self.has_points else None

    @property
    def has_points(self) -> bool:
        """Whether it is a list whose lines have points."""
        return type(self.kind).points is not Kind.points

    def move(self, points: Points, down: int, right: int) -> None:
        """Move the cursor by so many lines and points."""
        line, point = self._cursor(points)
        self.at = line + down, point + right
        self.at = self._cursor(points)

    def _cursor(self, points: Points) -> tuple[int, int]:
        """(line, point) of the cursor, clipped; initially the most prominent point."""
        if self.at is None:
            return points.ranked[0] if points.ranked else (0, 0)
        lines, per_line = points.shape
        return min(max(0, self.at[0]), lines - 1), min(max(0, self.at[1]), per_line - 1)

    # What is shown.

    def cell_map(self, palette: colors.Palette) -> Map | None:
        """The cells that the cursor moves over; None for a figure that is a list.

        Raises:
            RemoteMIError: if the result lacks what the figure shows.
        """
        found = self.kind.cell_map(self.layout, palette) if self.has_cell_map else None
        return None if found is None else self.callbacks.map(found)

    @property
    def has_cell_map(self) -> bool:
        """Whether the cursor moves over cells in two directions."""
        return type(self.kind).cell_map is not Kind.cell_map

    def listing(self, width: int, height: int) -> Listing:
        """The figure as lines with a cursor.

        Raises:
            RemoteMIError: if the result lacks what the figure shows.
        """
        if not self.joined_figures:
            layout = self.layout
            points = self.kind.points(layout)
            at = None if points is None else self._cursor(points)
            return self.callbacks.listing(self.kind.listing(layout, width, height, at))
        lines: list[tuple[Text, Item]] = []
        for part in (self.current, *self.joined_figures):
            kind = kind_of(part)
            made = kind.listing(kind.layout(part, self.result, self.slice_), width, height)
            made = Callbacks(kind, part.kind).listing(made)
            gap = [(Text(), Item())] if lines else []
            lines += [*gap, (Text(f" {line(part.name)}", "bold", no_wrap=True), Item())]
            lines += [(text, Item()) for text in made.head]
            lines += [(made.line(i), made.item(i)) for i in range(made.count)]
        return make_listing(lines)

    def sentences(self) -> list[str]:
        """A description of the figure in sentences."""
        from remote_mi.report.summary import summary

        everything = replace(self.slice_, pair=None)
        return [
            sentence
            for part in (self.current, *self.joined_figures)
            for sentence in summary(part, self.result, everything)
        ]

    def state_text(self) -> str:
        """The selected output and slice, to follow the title; "" if nothing was changed."""
        parts = []
        if self.output != self.figure.output:
            names = self.variants()
            parts.append(f"shows {self.output} ({names.index(self.output) + 1} of {len(names)})")
        if not self.has_cell_map:  # a cell map states its slice itself
            for dim in self.dims():
                label = self.slice_.at.get(dim, self._labels(dim)[0])
                parts.append(f"at {dim} {visible(str(label))}")
            if self.slice_.pair is not None and self.kind.prompts_shown == "all":
                parts.append(f"prompt {self.slice_.pair + 1} of {len(self.result.prompts)}")
        return " · ".join(parts)
