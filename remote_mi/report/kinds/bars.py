"""Bars as text: ranked cells with their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi.common.text import fit
from remote_mi.recipes import figures
from remote_mi.report.slices import Shown, shown
from remote_mi.report.wording import EXPLAINED, Slice, where
from remote_mi.store.result import Result

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
