"""The part of an output that a figure shows, with what its control says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.report.wording import EXPLAINED, Slice, format_amount, place_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result


@dataclass(frozen=True)
class FigurePart:
    """What a figure shows of an output; arrays are of one shape and in the figure's order.

    Attributes:
        full: the whole output. array: the part. taken: in words where it was cut; "" if it is all.
        control: how large each value would be by its control alone; None without one.
        marked: which values their control explains.
        count: how many prompts a value rests on; 0 where that is not said.
        control_name: name of the control; "" without one.
        unit: of the values, as the figure gives it.
    """

    full: NamedArray
    array: NamedArray
    cut_text: str
    control: np.ndarray | None
    marked: np.ndarray
    count: int
    control_name: str
    unit: str

    @property
    def cut_dims(self) -> list[str]:
        """The dimensions of which one coordinate is shown."""
        return [dim for dim in self.full.dims if dim not in self.array.dims]

    def value_with_place(self, index: Any) -> str:
        """A value with its unit, where it is, its interval and its control: for a list of some."""
        index = tuple(index)
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{format_amount(self.array.values[index])}{unit} at {place_text(self.array, index)}"
            + (self._beside(index, ""))
        )

    def describe_value(self, index: Any) -> str:
        """A value by name, with its interval, how many prompts it rests on, and its control."""
        index = tuple(index)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.array.name} {format_amount(self.array.values[index])}{unit}" + (
            self._beside(index, f", n={self.count}" if self.count else "")
        )

    def describe_cell(self, index: Any) -> str:
        """Where a value is, and as `describe_value`."""
        place, said = place_text(self.array, tuple(index)), self.describe_value(index)
        return f"{place} · {said}" if place else said

    def _beside(self, index: tuple[Any, ...], count: str) -> str:
        low, high, text = self.array.low, self.array.high, ""
        if low is not None and high is not None:
            text = f", 95% CI [{format_amount(low[index])}, {format_amount(high[index])}]"
        text += count
        if self.control is not None:
            text += f", control up to {format_amount(self.control[index])}"
        return text

    def largest(self, most: int) -> list[tuple[int, ...]]:
        """Indices of the values of largest size that are numbers, the largest first."""
        flat = self.array.values.reshape(-1)
        size = np.where(np.isfinite(flat), np.abs(flat), -1.0)
        order = np.argsort(-size, kind="stable")[: min(most, int((size >= 0).sum()))]
        return [tuple(map(int, np.unravel_index(int(i), self.array.shape))) for i in order]

    @property
    def mark_note(self) -> str:
        """What the mark says, for below a figure; "" where nothing has a control."""
        if self.control is None:
            return ""
        return (
            f"{EXPLAINED} {int(self.marked.sum())} of {self.marked.size}: no larger than "
            f"{self.control_name}, or not told from 0"
        )


def select_part(figure: Figure, result: Result, slice_: Slice) -> FigurePart:
    """What a figure of numbers shows, in the order of `Figure.shows`.

    Raises:
        NotFound: if the output has not what the figure shows, or not the slice.
    """
    full = slice_.select(result, figure.output)
    if full.values.dtype.kind == "O":
        said = kind_of_output(result.outputs.get(figure.output)).said
        raise NotFound(
            f"{figure.output!r} is of {said}", f"a {figure.kind} shows numbers; Text shows {said}"
        )
    if full.values.ndim < figure.least:
        raise NotFound(
            f"{figure.output!r} {_dims(full.dims)}",
            f"{figure.kind}: {figure.least} or more dimensions are needed",
        )
    keep = figure.shows(full.dims)
    if len(set(keep)) < len(keep):
        raise NotFound(
            f"rows and columns of {figure.name!r} are both {keep[0]!r}",
            f"{figure.output!r} {_dims(full.dims)}",
        )
    missing = [dim for dim in keep if dim not in full.dims]
    if missing:
        raise NotFound(
            f"{figure.output!r} has no dimension {missing[0]!r}", f"it {_dims(full.dims)}"
        )
    array, taken = slice_.apply(full, keep)
    array = array.transpose(*keep)
    if slice_.pair is not None:  # interval and control are of all prompts
        return FigurePart(full, array, taken, None, np.zeros(array.shape, bool), 0, "", figure.unit)

    def aligned(values: np.ndarray) -> np.ndarray:
        named = NamedArray(values, full.dims, full.coords)
        return slice_.apply(named, keep)[0].transpose(*keep).values

    control, explained = result.control_band(array.name), result.explained(array.name)
    marked = np.zeros(array.shape, bool) if explained is None else aligned(explained)
    return FigurePart(
        full,
        array,
        taken,
        None if control is None else aligned(control),
        marked,
        len(result.prompts),
        result.controls.get(array.name, ""),
        figure.unit,
    )


@dataclass(frozen=True)
class ShownExample:
    """An output of the one prompt that a figure shows.

    Attributes:
        array: its values. index: of the prompt. count: how many prompts have values of their own.
        clean: the prompt, safe to show.
    """

    array: NamedArray
    index: int
    count: int
    clean: str

    @property
    def label(self) -> str:
        """Which of several prompts it is; "" of the only one."""
        if self.count == 1:
            return ""
        return f"prompt {self.index + 1} of {self.count}: {self.clean}"

    @property
    def title(self) -> str:
        """As `label`, where it begins a line of its own."""
        return self.label[:1].upper() + self.label[1:]


def select_example(name: str, result: Result, slice_: Slice) -> ShownExample:
    """An output of the prompt that a slice names.

    Raises:
        NotFound: if there is no such prompt.
    """
    every, index = result.each(name), slice_.prompt_index
    if not 0 <= index < len(every):
        raise NotFound(f"there is no prompt {index + 1}", f"there are {len(every)}")
    prompts = result.prompts
    clean = line(prompts[index]["clean"]) if index < len(prompts) else ""
    return ShownExample(every[index], index, len(every), clean)


def cuts(figure: Figure, result: Result) -> list[str]:
    """The dimensions that a figure has no room for: it shows one coordinate of each."""
    if figure.output not in result.arrays:
        return []
    every = result[figure.output].dims
    if len(every) < figure.least:
        return []
    return [dim for dim in every if dim not in figure.shows(every)]


def check_cut(figures: Sequence[Figure], result: Result, slice_: Slice) -> None:
    """Refuse a slice in a dimension in which none of the figures is cut.

    Raises:
        UsageError: naming those there are.
    """
    possible = list(dict.fromkeys(dim for figure in figures for dim in cuts(figure, result)))
    for dim in slice_.at:
        if dim not in possible:
            what = repr(figures[0].name) if len(figures) == 1 else "no figure of this run"
            can = "cannot be" if len(figures) == 1 else "is"
            raise UsageError(
                f"{what} {can} cut at {dim!r}",
                f"choose from: {', '.join(possible)}"
                if possible
                else "leave --at out: all is shown",
            )


def _dims(dims: Sequence[str]) -> str:
    return f"has the dimensions {', '.join(dims)}" if dims else "is a single number"
