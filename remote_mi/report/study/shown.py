"""Tables and figures of a study as data, which every medium shows in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from remote_mi.common.text import line, visible
from remote_mi.recipes.figures import Figure
from remote_mi.report.kinds.cells import Row
from remote_mi.report.wording import format_amount
from remote_mi.store.claims.estimates import Estimate
from remote_mi.store.result import Result


@dataclass(frozen=True)
class ShownTable:
    """A table.

    Attributes:
        heads, rows: as texts, safe to show. numeric: which columns are set to the right.
        data_heads, data: the same for other programs: numbers, an interval in two columns.
    """

    heads: list[str]
    rows: list[list[str]]
    numeric: list[bool]
    data_heads: list[str]
    data: list[Row]


@dataclass(frozen=True)
class ShownComparison:
    """A comparison of a study as a figure, a table, or both, and sentences.

    Attributes:
        figure: with the numbers in `result`; None without a figure.
        notes: what it rests on, and what could not be compared.
    """

    title: str
    figure: Figure | None = None
    result: Result | None = None
    table: ShownTable | None = None
    notes: list[str] = field(default_factory=list)


def make_table(
    heads: Sequence[str], columns: Sequence[Sequence[str | Estimate | float | None]]
) -> ShownTable:
    """A table from its columns: texts, numbers, or values with intervals; None for no value."""
    count = max(map(len, columns), default=0)
    rows = [[_text(column[i]) for column in columns] for i in range(count)]
    numeric = [not all(isinstance(cell, str) for cell in column) for column in columns]
    data_heads: list[str] = []
    parts: list[list[Row]] = []
    for head, column in zip(heads, columns, strict=True):
        if any(isinstance(cell, Estimate) for cell in column):
            data_heads += [head, f"{head} low", f"{head} high", f"{head} n"]
            parts.append([_numbers(cell) for cell in column])
        else:
            data_heads.append(head)
            parts.append([[cell] for cell in column])
    data = [[value for part in parts for value in part[i]] for i in range(count)]
    return ShownTable([line(h) for h in heads], rows, numeric, [line(h) for h in data_heads], data)


def _text(cell: str | Estimate | float | None) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Estimate):
        return estimate_text(cell)
    return line(cell) if isinstance(cell, str) else format_amount(cell)


def _numbers(cell: object) -> Row:
    if not isinstance(cell, Estimate):
        return [None] * 4
    return [cell.value, cell.low, cell.high, cell.n]


def estimate_text(found: Estimate) -> str:
    """A value with its interval, "0.86 [0.80, 0.91]"."""
    if found.value != found.value:
        return "–"
    text = format_amount(found.value)
    if found.has_interval:
        text += f" [{format_amount(found.low)}, {format_amount(found.high)}]"
    return text


def place_of_estimate(found: Estimate) -> str:
    """The place of a single cell, "layer 24 · position 13 ␠to"; "" for a number or a mean."""
    return " · ".join(f"{visible(d)} {visible(str(at))}" for d, at in found.place.items())
