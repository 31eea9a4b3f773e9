"""Bars, tables, lines and generated text as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi import figures
from remote_mi.errors import NotFound
from remote_mi.report.text import fit, line
from remote_mi.report.words import (
    EXPLAINED,
    Slice,
    marked_in_words,
    marks,
    value_in_words,
    where,
)
from remote_mi.results import NamedArray, Result

_LINE_MARKS = "abcdefgh"
_PLOT_HEIGHT = 14
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
    array = slice_.of(result, figure.output)
    flat = np.where(np.isfinite(array.values), array.values, 0.0).reshape(-1)
    explained = result.explained(figure.output) if slice_.pair is None else None
    marked = np.zeros(flat.shape, bool) if explained is None else explained.reshape(-1)
    found = []
    for index in np.argsort(-np.abs(flat), kind="stable")[: figure.most]:
        at = np.unravel_index(int(index), array.shape)
        low, high = (None if e is None else float(e[at]) for e in (array.low, array.high))
        place = where(array, at)
        said = value_in_words(result, array, at, slice_.pair is not None, figure.unit)
        found.append(Bar(place or figure.output, float(flat[index]), low, high,
                         bool(marked[index]), f"{place} · {said}" if place else said))  # fmt: skip
    return found


def bars(figure: figures.Bars, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """The largest cells with their intervals; what its control explains is marked."""
    array = slice_.of(result, figure.output)
    if not np.isfinite(array.values).any():
        yield Text(" no values to rank", style="dim")
        return
    found = ranked(figure, result, slice_)
    reach = max(abs(x) for x in slice_.limits or [bar.value for bar in found]) or 1.0
    left = min(max(cell_len(bar.name) for bar in found), width // 2)
    ends = any(bar.low is not None for bar in found)
    long = max(_BAR, min(_LONGEST_BAR, width - left - 11 - (18 if ends else 0)))
    for bar in found:
        sign = EXPLAINED if bar.marked else " "
        text = Text(f"{sign}{fit(bar.name, left)} {bar.value:+7.2f} ")
        text.append(fit("█" * min(long, round(abs(bar.value) / reach * long)), long),
                    _bar_style(bar.value, bar.marked))  # fmt: skip
        if bar.low is not None and bar.high is not None:
            text.append(f" [{bar.low:+.2f}, {bar.high:+.2f}]", "dim")
        yield text
    explained = result.explained(figure.output)
    if explained is not None and slice_.pair is None:
        said = marked_in_words(result, figure.output, explained)
        if said:
            yield Text(f"   {said}", style="dim")


def _bar_style(value: float, explained: bool) -> Style:
    if explained:
        return Style(dim=True)
    return Style(color="orange1" if value > 0 else "dodger_blue1")


def table(figure: figures.Table, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """One row an example: its text, numbers and tokens."""
    names = (figure.output, *figure.columns)
    columns = {name: result.each(name) for name in names}
    wide = max(_NARROWEST, min(_NUMBER_WIDTH, (width - _PROMPT_WIDTH) // len(names) - 1))
    left = max(_PROMPT_WIDTH, width - (wide + 1) * len(names))
    heads = "".join(f" {fit(name, wide)}" for name in names)
    yield Text(fit(" prompt", left) + heads, "bold", no_wrap=True)
    for index in range(len(columns[figure.output])):
        text = f" {line(result.prompts[index]['clean'])}"
        cells = "".join(f" {_cell(result, columns[name][index], wide)}" for name in names)
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


def lines(figure: figures.Lines, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """A plot over the last dimension, one line for each index of the one before it."""
    taken = _of_lines(figure, result, slice_)[1]
    if taken:
        yield Text(f" at {taken} (`view --at`)", style="dim")
    yield from plot(figure, result, width, slice_)
    yield from legend(figure, result, slice_)


def _of_lines(figure: figures.Lines, result: Result, slice_: Slice) -> tuple[NamedArray, str]:
    """The values of the lines, and in words where they were taken."""
    full = slice_.of(result, figure.output)
    if full.values.ndim < 1:
        raise NotFound(f"{figure.output!r} is a single number", "lines need a dimension")
    return slice_.apply(full, full.dims[-2:])


def legend(figure: figures.Lines, result: Result, slice_: Slice) -> Iterator[Text]:
    """What each line of a plot is, and where it is largest."""
    array, taken = _of_lines(figure, result, slice_)
    rows = np.atleast_2d(array.values)
    marked = marks(result, array, slice_, array.dims)
    for index, row in enumerate(rows[: len(_LINE_MARKS)]):
        if not np.isfinite(row).any():
            continue
        best = int(np.nanargmax(np.abs(row)))
        at = (index, best) if array.values.ndim == 2 else (best,)
        sign = EXPLAINED if marked[at] else " "
        said = value_in_words(result, array, at, bool(taken))
        yield Text(f" {_LINE_MARKS[index]}{sign} largest: {where(array, at)} · {said}")
    said = marked_in_words(result, figure.output, marked) if slice_.pair is None else ""
    if said:
        yield Text(f"   {said}", style="dim")


def plot(figure: figures.Lines, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """The lines themselves, with the reach of their control."""
    import plotille

    array, taken = _of_lines(figure, result, slice_)
    rows = np.atleast_2d(array.values)
    if rows.shape[1] < 2:
        yield Text(" one point is no line:", style="dim")
        return
    labels = list(array.coords[array.dims[-1]])
    numeric = all(isinstance(label, (int, float)) for label in labels)
    x = [float(label) for label in labels] if numeric else [float(i) for i in range(len(labels))]
    drawn = plotille.Figure()
    drawn.with_colors = False
    drawn.width, drawn.height = max(20, width - 22), _PLOT_HEIGHT
    drawn.set_x_limits(min_=min(x), max_=max(x))
    drawn.x_label, drawn.y_label = array.dims[-1], ""
    low, high = _limits(rows if slice_.limits is None else np.array(slice_.limits))
    drawn.set_y_limits(min_=low, max_=high)
    drawn.y_ticks_fkt = lambda low, high: f"{low:9.3g}"
    drawn.x_ticks_fkt = lambda low, high: f"{low:.4g}"
    for index, row in enumerate(rows[: len(_LINE_MARKS)]):
        kept = [(a, float(b)) for a, b in zip(x, row, strict=True) if np.isfinite(b)]
        if kept:
            drawn.plot([a for a, _ in kept], [b for _, b in kept], marker=_LINE_MARKS[index])
    alone = bool(taken) or slice_.pair is not None
    band = None if alone else result.control_band(figure.output)
    if band is not None:
        top = np.atleast_2d(band).max(0)
        drawn.plot(x, [float(v) for v in top])
    shown = drawn.show().splitlines()[1:]  # the first is the name of the axis, which is not given
    for text in shown:
        yield Text(text.rstrip(), no_wrap=True)
    if band is not None:
        yield Text("   the line without letters is the control's reach", style="dim")
    if len(rows) > len(_LINE_MARKS):
        yield Text(f" {len(_LINE_MARKS)} of {len(rows)} lines are shown", style="dim")


def _limits(rows: np.ndarray) -> tuple[float, float]:
    """Round limits of the y axis, so that round numbers stand at their ticks."""
    finite = rows[np.isfinite(rows)]
    if not finite.size:
        return 0.0, 1.0
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    step = 10.0 ** np.floor(np.log10((high - low) / _PLOT_HEIGHT)) if high > low else 1.0
    for factor in (1, 2, 5, 10):
        size = step * factor
        bottom = np.floor(low / size) * size
        if bottom + size * (_PLOT_HEIGHT - 1) >= high:
            return float(bottom), float(bottom + size * _PLOT_HEIGHT)
    return low, high


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
        part = NamedArray(tokens.values[index], (), {}, name=tokens.name)
        name = where(NamedArray(tokens.values[..., 0], tokens.dims[:-1], tokens.coords), index)
        shown = line("".join(_texts(result, part.values))) or "∅"
        yield Text(f" {name + ': ' if name else ''}{shown}")
