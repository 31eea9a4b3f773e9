"""Values and places as text, and the slice that figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.common.text import prose, visible
from remote_mi.recipes.outputs import DRAW, POSITIONS, Output
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: Replaces the ramp character of a value that a control explains.
EXPLAINED = "~"


@dataclass(frozen=True)
class Slice:
    """Which part of a result is shown.

    Attributes:
        item: index of the prompt that a figure of one prompt shows.
        at: dimension → coordinate, for dimensions that a figure cannot display.
        limits: range of colours, bars and lines, so that figures can be compared; None for the
            range of the values shown.
        pair: index of the prompt or pair whose own values are shown; None for values over all.
    """

    item: int = 0
    at: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[float, float] | None = None
    pair: int | None = None

    @property
    def prompt_index(self) -> int:
        """Index of the prompt that a figure of one prompt shows."""
        return self.item if self.pair is None else self.pair

    def select(self, result: Result, name: str) -> NamedArray:
        """An output or summary over all prompts, or for the one prompt selected by `pair`.

        Raises:
            NotFound: if it has no values of single prompts, or there is no such prompt.
        """
        return result[name] if self.pair is None else prompt_values(result, name, self.pair)

    def apply(self, array: NamedArray, keep: Sequence[str]) -> tuple[NamedArray, str]:
        """The array with only the dimensions in `keep`, and the place of the cut as text.

        Raises:
            NotFound: if a dimension has no such coordinate, or is cut and has none at all.
        """
        taken = []
        for dim in [d for d in array.dims if d not in keep]:
            coordinates = list(array.coords[dim])
            if not coordinates:
                raise NotFound(f"{array.name!r} has no values: its dimension {dim!r} is empty")
            if dim not in self.at:
                taken.append(f"{visible(dim)} {visible(str(coordinates[0]))}")
                array = array.isel(dim, 0)
                continue
            label = self.at[dim]
            if isinstance(label, str) and label not in coordinates:
                label = next((c for c in coordinates if str(c) == label), label)
                label = int(label) if isinstance(label, str) and label.isdigit() else label
            array = array.sel(**{dim: label})
            taken.append(f"{visible(dim)} {visible(str(label))}")
        return array, ", ".join(taken)


def prompt_values(result: Result, name: str, index: int) -> NamedArray:
    """An output for one prompt, averaged over draws; for a ratio, the prompt's effect over its gap.

    Raises:
        NotFound: if the recipe computes it only over all prompts, or there is no such prompt.
    """
    ratio = result.card.summaries.get(name)
    if isinstance(ratio, Output):
        raise NotFound(f"{name!r} exists over all prompts only")
    each = result.each(ratio.effect if ratio else name)
    if not 0 <= index < len(each):
        raise NotFound(f"there is no prompt {index + 1}", f"there are {len(each)}")
    found = each[index]
    values = found.values
    if ratio:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = values / np.mean(result.each(ratio.gap)[index].values)
    dims = found.dims
    if DRAW in dims:
        values, dims = values.mean(dims.index(DRAW)), tuple(d for d in dims if d != DRAW)
    return NamedArray(values, dims, {d: found.coords[d] for d in dims}, name=name)


def verdict_text(result: Result) -> str:
    """Whether the model does what is studied, in words that are safe to show; "" without one."""
    verdict = result.verdict
    return prose(verdict.says) if verdict else ""


def place_text(array: NamedArray, index: Sequence[Any]) -> str:
    """The place of a cell as text: its dimensions and coordinates."""
    parts = []
    for dim, at in zip(array.dims, index, strict=True):
        label, every = array.coords[dim][at], list(array.coords[dim])
        named = all(str(c).startswith("[") for c in every) and every.count(label) == 1
        if dim in POSITIONS and named:
            parts.append(
                f"{visible(dim)} {visible(str(label))}"
            )  # aligned by label: no index of its own
        elif dim in POSITIONS and label != at:
            parts.append(f"{visible(dim)} {at} {visible(str(label))}")
        else:
            parts.append(f"{visible(dim)} {visible(str(label))}")
    return " · ".join(parts)


def format_amount(number: Any) -> str:
    """A number for a sentence: two decimals, or two significant digits if it is small."""
    value = float(number)
    size = abs(value)
    return f"{value:.2f}" if size >= 0.095 or not size > 0 else f"{value:.2g}"
