"""The part of an output that a figure shows, with its control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """The part of an output that a figure shows; arrays have one shape, in the figure's order.

    Attributes:
        full: the whole output. array: the part.
        cut_text: where it was cut, as text; "" if it is the whole output.
        control: how large the control alone makes each value; None without a control.
        marked: which values are not distinguishable from their control, or from 0.
        sized: which values have a size: the others are 0 up to rounding, and no cells of the map.
        untested: why nothing can be told from the control; "" if it can. All values are marked then.
        count: number of prompts behind a value; 0 if unknown.
        control_name: name of the control; "" without one.
        unit: unit of the values, as given by the figure.
    """

    full: NamedArray
    array: NamedArray
    cut_text: str
    control: np.ndarray | None
    marked: np.ndarray
    count: int
    control_name: str
    unit: str
    sized: np.ndarray
    untested: str = ""

    @property
    def grey(self) -> np.ndarray:
        """Which values are shown without their colour: the marked ones, if others were told."""
        return np.zeros_like(self.marked) if self.untested else self.marked

    @property
    def cut_dims(self) -> list[str]:
        """The dimensions of which only one coordinate is shown."""
        return [dim for dim in self.full.dims if dim not in self.array.dims]

    def value_with_place(self, index: Any) -> str:
        """A value with its unit, place, interval and control, for an enumeration."""
        index = tuple(index)
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{format_amount(self.array.values[index])}{unit} at {place_text(self.array, index)}"
            + (self._interval_and_control(index, ""))
        )

    def describe_value(self, index: Any) -> str:
        """A value with its name, interval, number of prompts, and control."""
        index = tuple(index)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.array.name} {format_amount(self.array.values[index])}{unit}" + (
            self._interval_and_control(index, f", n={self.count}" if self.count else "")
        )

    def describe_cell(self, index: Any) -> str:
        """The place of a value, followed by `describe_value`."""
        place, value = place_text(self.array, tuple(index)), self.describe_value(index)
        return f"{place} · {value}" if place else value

    def _interval_and_control(self, index: tuple[Any, ...], count: str) -> str:
        low, high, text = self.array.low, self.array.high, ""
        if low is not None and high is not None:
            text = f", 95% CI [{format_amount(low[index])}, {format_amount(high[index])}]"
        text += count
        if self.control is not None:
            text += f", control up to {format_amount(self.control[index])}"
        return text

    def largest(self, most: int) -> list[tuple[int, ...]]:
        """Indices of the finite values of largest magnitude, largest first; none without size."""
        flat = self.array.values.reshape(-1)
        size = np.where(np.isfinite(flat) & self.sized.reshape(-1), np.abs(flat), -1.0)
        order = np.argsort(-size, kind="stable")[: min(most, int((size >= 0).sum()))]
        return [tuple(map(int, np.unravel_index(int(i), self.array.shape))) for i in order]

    @property
    def mark_legend(self) -> str:
        """The meaning of the mark, for a legend beside it."""
        if self.untested:
            return f"nothing is claimed: {self.untested}"
        return "not distinguishable from its control, or from 0"

    @property
    def mark_note(self) -> str:
        """The meaning of the mark, to show below a figure; "" without a control."""
        if self.control is None:
            return ""
        if self.untested:
            return f"{EXPLAINED} nothing is claimed: {self.untested}"
        return (
            f"{EXPLAINED} {int(self.marked.sum())} of {int(self.sized.sum())}: not "
            f"distinguishable from {self.control_name}, or from 0"
        )


def select_part(figure: Figure, result: Result, slice_: Slice) -> FigurePart:
    """The part of an output that a figure of numbers shows, in the order of `Figure.shows`.

    Raises:
        NotFound: if the output lacks what the figure shows, or the slice.
    """
    full = slice_.select(result, figure.output)
    if full.values.dtype.kind == "O":
        values = kind_of_output(result.outputs.get(figure.output)).plural
        raise NotFound(
            f"{figure.output!r} holds {values}",
            f"a {figure.kind} shows numbers; Text shows {values}",
        )
    if full.values.ndim < figure.least:
        raise NotFound(
            f"{figure.output!r} {_dims(full.dims)}",
            f"a {figure.kind} needs at least {figure.least} dimensions",
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
    array = _widened(array.transpose(*keep))
    if slice_.pair is not None:  # interval and control are over all prompts
        none, every = np.zeros(array.shape, bool), np.ones(array.shape, bool)
        return FigurePart(full, array, taken, None, none, 0, "", figure.unit, every)

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
        ~aligned(result.without_size(array.name)) | (not array.dims),  # a single value is shown
        "" if control is None else _why_untested(result, array.name),
    )


def _why_untested(result: Result, name: str) -> str:
    """Why nothing of an output can be told from its control, "" if something can."""
    test = result.control_test(name)
    if test is not None:
        return test.why_not
    return "this run does not say how to test it; run the job again"


@dataclass(frozen=True)
class ShownExample:
    """An output for the one prompt that a figure shows.

    Attributes:
        array: its values. index: index of the prompt. count: number of prompts with own values.
        clean: the prompt, safe to show.
    """

    array: NamedArray
    index: int
    count: int
    clean: str

    @property
    def label(self) -> str:
        """Which of several prompts it is; "" if there is only one."""
        if self.count == 1:
            return ""
        return f"prompt {self.index + 1} of {self.count}: {self.clean}"

    @property
    def title(self) -> str:
        """`label` with a capital, for the beginning of a line."""
        return self.label[:1].upper() + self.label[1:]


def select_example(name: str, result: Result, slice_: Slice) -> ShownExample:
    """An output for the prompt that a slice selects.

    Raises:
        NotFound: if there is no such prompt.
    """
    every, index = result.each(name), slice_.prompt_index
    if not 0 <= index < len(every):
        raise NotFound(f"there is no prompt {index + 1}", f"there are {len(every)}")
    prompts = result.prompts
    clean = line(prompts[index]["clean"]) if index < len(prompts) else ""
    return ShownExample(_widened(every[index]), index, len(every), clean)


def _widened(array: NamedArray) -> NamedArray:
    """An array to compute with: float64, or int64 for whole numbers and for booleans.

    So numbers have a sign, and no difference of two, or from a figure's centre, overflows.
    """
    if array.values.dtype.kind not in "fiub":
        return array
    values, low, high = (
        None if a is None else a.astype(np.result_type(a.dtype, np.int64))
        for a in (array.values, array.low, array.high)
    )
    assert values is not None
    return replace(array, values=values, low=low, high=high)


def cut_dims(figure: Figure, result: Result) -> list[str]:
    """The dimensions that a figure cannot display: it shows one coordinate of each."""
    if figure.output not in result.arrays:
        return []
    every = result[figure.output].dims
    if len(every) < figure.least:
        return []
    return [dim for dim in every if dim not in figure.shows(every)]


def check_cut(figures: Sequence[Figure], result: Result, slice_: Slice) -> None:
    """Check that at least one of the figures is cut in each dimension of a slice.

    Raises:
        UsageError: if none is, with the possible dimensions.
    """
    possible = list(dict.fromkeys(dim for figure in figures for dim in cut_dims(figure, result)))
    for dim in slice_.at:
        if dim not in possible:
            what = repr(figures[0].name) if len(figures) == 1 else "no figure of this run"
            can = "cannot be" if len(figures) == 1 else "is"
            raise UsageError(
                f"{what} {can} cut at {dim!r}",
                f"choose from: {', '.join(possible)}"
                if possible
                else "leave out --at: everything is shown already",
            )


def _dims(dims: Sequence[str]) -> str:
    return f"has the dimensions {', '.join(dims)}" if dims else "is a single number"
