"""Bars, tables and generated text as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import fit, line
from remote_mi.recipes import figures
from remote_mi.report.slices import Shown, shown
from remote_mi.report.wording import EXPLAINED, Slice, row_name, table_columns, where
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

_NUMBER_WIDTH = 12
_NARROWEST = 7
_PROMPT_WIDTH = 20
_BAR, _LONGEST_BAR = 16, 48


@dataclass(frozen=True)
class Bar:
    """One ranked cell.

    Attributes:
        name: where it stands. value, low, high: the number and its interval, None where there is none.
        marked: whether its control explains it. said: all of that in words.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    marked: bool
    said: str


def ranked(figure: figures.Bars, result: Result, slice_: Slice) -> list[Bar]:
    """The cells of largest absolute value, largest first."""
    return _ranked(figure, shown(figure, result, slice_))


def _ranked(figure: figures.Bars, part: Shown) -> list[Bar]:
    array, found = part.array, []
    for at in part.largest(figure.most):
        low, high = (None if e is None else float(e[at]) for e in (array.low, array.high))
        found.append(
            Bar(
                where(array, at) or figure.output,
                float(array.values[at]),
                low,
                high,
                bool(part.marked[at]),
                part.told(at),
            )
        )
    return found


def bars(figure: figures.Bars, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """The largest cells with their intervals; what its control explains is marked."""
    part = shown(figure, result, slice_)
    found = _ranked(figure, part)
    if not found:
        yield Text(" no values to rank", style="dim")
        return
    reach = max(abs(x) for x in slice_.limits or [bar.value for bar in found]) or 1.0
    left = min(max(cell_len(bar.name) for bar in found), width // 2)
    ends = any(bar.low is not None for bar in found)
    long = max(_BAR, min(_LONGEST_BAR, width - left - 11 - (18 if ends else 0)))
    for bar in found:
        sign = EXPLAINED if bar.marked else " "
        text = Text(f"{sign}{fit(bar.name, left)} {bar.value:+7.2f} ")
        text.append(
            fit("█" * min(long, round(abs(bar.value) / reach * long)), long),
            _bar_style(bar.value, bar.marked),
        )
        if bar.low is not None and bar.high is not None:
            text.append(f" [{bar.low:+.2f}, {bar.high:+.2f}]", "dim")
        yield text
    if part.marks:
        yield Text(f"   {part.marks}", style="dim")


def _bar_style(value: float, explained: bool) -> Style:
    if explained:
        return Style(dim=True)
    return Style(color="orange1" if value > 0 else "dodger_blue1")


def table(figure: figures.Table, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """One row an example: its text, numbers and tokens."""
    names = (figure.output, *figure.columns)
    columns = table_columns(figure, result)
    wide = max(_NARROWEST, min(_NUMBER_WIDTH, (width - _PROMPT_WIDTH) // len(names) - 1))
    left = max(_PROMPT_WIDTH, width - (wide + 1) * len(names))
    heads = "".join(
        f" {fit(name, wide)}"
        if result.outputs[name].kind == "token"
        else f" {fit(name, wide).rstrip():>{wide}}"
        for name in names
    )
    yield Text(fit(" prompt", left) + heads, "bold", no_wrap=True)
    for index in range(len(columns[0])):
        text = f" {row_name(result, index)}"
        cells = "".join(f" {_cell(result, column[index], wide)}" for column in columns)
        yield Text(fit(text, left) + cells, no_wrap=True)


def _cell(result: Result, array: NamedArray, wide: int) -> str:
    if result.outputs[array.name].kind == "token":
        return fit(" ".join(line(t) for t in _texts(result, array.values)), wide)
    if array.values.ndim:
        raise NotFound(f"{array.name!r} is not a single number", "a table shows single numbers")
    value = float(array)
    whole = array.values.dtype.kind in "iub"
    return f"{int(value):{wide}d}" if whole else f"{value:{wide}.3f}"


def _texts(result: Result, tokens: Any) -> list[str]:
    return [result.text(token) for token in np.reshape(tokens, -1) if token >= 0]


def text(figure: figures.Text, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """Generated tokens as text, a line for each index of the leading dimensions, one example."""
    every = result.each(figure.output)
    index = slice_.item if slice_.pair is None else slice_.pair
    if not 0 <= index < len(every):
        raise NotFound(f"there is no prompt {index + 1}", f"there are {len(every)}")
    tokens = every[index]
    if len(every) > 1:
        clean = line(result.prompts[index]["clean"])
        yield Text(f" prompt {index + 1} of {len(every)}: {clean}")
    lead = tokens.shape[:-1]
    for index in np.ndindex(*lead):
        name = where(NamedArray(tokens.values[..., 0], tokens.dims[:-1], tokens.coords), index)
        shown = line(result.passage(tokens.values[index])) or "∅"
        yield Text(f" {name + ': ' if name else ''}{shown}")
