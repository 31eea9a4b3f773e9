"""Figures as what the HTML templates set: tables of cells, bars and curves, with their numbers.

Every cell shows its number or token as text; colour only repeats it. What a reader gets on
hover or by keyboard (full value, interval, control) is in `data`, rounded to four digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.common.text import line, visible
from remote_mi.recipes import figures
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.colors import Shades, shades
from remote_mi.report.html_lines import lines_view
from remote_mi.report.kinds.grid import number
from remote_mi.report.slices import Shown, shown
from remote_mi.report.wording import EXPLAINED, Slice, amount, row_name, table_columns, where
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

View = dict[str, Any]


@dataclass(frozen=True)
class Room:
    """How much a figure may carry.

    Attributes:
        numbers: up to so many, one with more dimensions than two carries all its slices.
        titles: up to so many cells, each carries its sentence, as a page without a script needs.
    """

    numbers: int = 0
    titles: int = 3000


def view(figure: Figure, result: Result, slice_: Slice, room: Room = Room()) -> View:
    """A figure as the templates take it; `kind` names the template's block.

    Raises:
        NotFound, UsageError: if the figure does not fit what it is to show.
    """
    makers: dict[type[Figure], Callable[..., View]] = {
        figures.Heatmap: functools.partial(_heatmap, room=room),
        figures.TokenGrid: _token_grid,
        figures.Bars: _bars,
        figures.Table: _table,
        figures.Lines: lines_view,
        figures.Text: _text,
    }
    return {
        "name": line(figure.name),
        "unit": line(figure.unit),
        **makers[type(figure)](figure, result, slice_),
    }


def _heatmap(figure: figures.Heatmap, result: Result, slice_: Slice, room: Room) -> View:
    part = shown(figure, result, slice_)
    full, array, marked = part.full, part.array, part.marked
    whole = bool(part.cut) and full.values.size <= room.numbers and not slice_.at
    scale = shades(full.values if whole else array.values, figure.center)
    numbers = shown(Figure(figure.output), result, slice_) if whole else part
    data = _numbers(numbers, (*part.cut, *array.dims) if whole else array.dims)
    data.update(unit=figure.unit, scale=[scale.low, scale.high, scale.letter])
    cells = [
        [_cell(array.values[r, c], bool(marked[r, c]), scale) for c in range(array.shape[1])]
        for r in range(array.shape[0])
    ]
    if array.values.size <= room.titles:
        for index in np.ndindex(*array.shape):
            title = f"{where(array, index)}: {part.said(index)}"
            cells[index[0]][index[1]]["title"] = title
    return {
        **_grid(array, cells),
        "data": data,
        "scale": _legend(scale),
        "taken": "" if whole else part.taken,
        "marked": bool(marked.any()),
        "choices": _choices(full, part.cut) if whole else [],
        "cut": [] if whole else part.cut,
    }


def _cell(value: float, explained: bool, scale: Shades) -> View:
    level = scale.level(float(value))
    text = number(float(value), 4)
    if explained:
        return {"css": "x", "text": EXPLAINED + text}
    return {"css": "" if level is None else f"{scale.letter}{level}", "text": text}


def _grid(array: NamedArray, cells: list[list[View]]) -> View:
    """Rows, columns and cells of a grid; layers with the highest on top, positions in order."""
    rows, columns = (_labels(array, dim) for dim in array.dims[:2])
    order = range(len(rows)) if array.dims[0] in POSITIONS else range(len(rows))[::-1]
    return {
        "kind": "grid",
        "row_name": array.dims[0],
        "column_name": array.dims[1],
        "columns": [{"text": c, "index": i} for i, c in enumerate(columns)],
        "rows": [{"text": rows[r], "index": r, "cells": cells[r]} for r in order],
        "tall": any(len(c) > 3 for c in columns),
    }


def _labels(array: NamedArray, dim: str) -> list[str]:
    return [visible(str(label)) for label in array.coords[dim]]


def _choices(full: NamedArray, chosen: Sequence[str]) -> list[View]:
    return [{"dim": dim, "labels": _labels(full, dim)} for dim in chosen]


def _legend(scale: Shades) -> View:
    middle = (scale.low + scale.high) / 2
    return {
        "letter": scale.letter,
        "levels": range(0, 33, 4),
        "ends": [amount(v) for v in (scale.low, middle, scale.high)],
    }


def _numbers(part: Shown, order: Sequence[str]) -> View:
    """Values, intervals, control and marks, flat, in an order of dimensions."""
    axes = [part.array.dims.index(dim) for dim in order]

    def flat(values: np.ndarray | None) -> list[float | None] | None:
        return None if values is None else [_short(v) for v in values.transpose(axes).reshape(-1)]

    array = part.array
    data: View = {
        "output": array.name,
        "n": part.count or None,
        "v": flat(array.values),
        "lo": flat(array.low),
        "hi": flat(array.high),
        "band": flat(part.control),
    }
    if part.control is not None:
        data["mark"] = "".join("01"[int(m)] for m in part.marked.transpose(axes).reshape(-1))
    return {name: value for name, value in data.items() if value is not None}


def _short(value: float) -> float | None:
    """Four digits are more than a reader can use; None for what JSON has no number for."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _token_grid(figure: figures.TokenGrid, result: Result, slice_: Slice) -> View:
    tokens, prompt = example(figure.output, result, slice_)
    shade = result.each(figure.shade)[slice_.item].values if figure.shade else None
    scale = Shades(0.0, 1.0)
    said: dict[int, str] = {}

    def text(token: int) -> str:
        return said.setdefault(token, visible(result.text(token)))

    cells = []
    for r in range(tokens.shape[0]):
        cells.append([])
        for c in range(tokens.shape[1]):
            ids = [int(t) for t in tokens.values[r, c] if t >= 0]
            level = scale.level(float(shade[r, c, 0])) if shade is not None else None
            strengths = (
                [""] * len(ids)
                if shade is None
                else [f" {amount(float(p))}" for p in shade[r, c, : len(ids)]]
            )
            tops = ", ".join(text(t) + p for t, p in zip(ids, strengths, strict=True))
            cells[-1].append(
                {
                    "css": "" if level is None else f"s{level}",
                    "text": text(ids[0]) if ids else "∅",
                    "title": f"{where(tokens, (r, c, 0)).rpartition(' · ')[0]}: {tops}",
                }
            )
    view = {
        **_grid(tokens, cells),
        "prompt": prompt,
        "tokens": True,
        "data": None,
        "marked": False,
        "choices": [],
        "taken": "",
    }
    return {**view, "scale": _legend(scale) if figure.shade else None, "shade": figure.shade}


def example(name: str, result: Result, slice_: Slice) -> tuple[NamedArray, str]:
    """An output of the prompt that is shown, and of several a line that says which."""
    every = result.each(name)
    if not 0 <= slice_.item < len(every):
        raise NotFound(f"there is no prompt {slice_.item + 1}", f"there are {len(every)}")
    if len(every) == 1:
        return every[0], ""
    clean = line(result.prompts[slice_.item]["clean"])
    return every[slice_.item], f"Prompt {slice_.item + 1} of {len(every)}: {clean}"


def _bars(figure: figures.Bars, result: Result, slice_: Slice) -> View:
    part = shown(figure, result, slice_)
    array, at = part.array, part.largest(figure.most)
    if not at:  # a report of other figures need not do without this one
        said = [{"label": line(figure.output), "text": "no values to rank"}]
        return {"kind": "text", "rows": said, "prompt": ""}
    ends = [a[i] for i in at for a in (array.values, array.low, array.high) if a is not None]
    low, high = min(0.0, *(float(e) for e in ends)), max(0.0, *(float(e) for e in ends))
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (float(value) - low) / span, 2)

    rows = []
    for index in at:
        value, zero, marked = float(array.values[index]), place(0.0), bool(part.marked[index])
        row = {
            "label": where(array, index) or line(figure.output),
            "value": amount(value),
            "x": min(zero, place(value)),
            "width": round(abs(place(value) - zero), 2),
            "css": "x" if marked else "up" if value > 0 else "down",
            "mark": EXPLAINED if marked else "",
            "title": part.said(index),
        }
        if array.low is not None and array.high is not None:
            ends = float(array.low[index]), float(array.high[index])
            row.update(
                low=place(ends[0]),
                high=place(ends[1]),
                interval=f"[{amount(ends[0])}, {amount(ends[1])}]",
            )
        rows.append(row)
    return {
        "kind": "bars",
        "rows": rows,
        "zero": place(0.0),
        "output": line(figure.output),
        "intervals": array.low is not None,
        "marked": any(bool(part.marked[index]) for index in at),
    }


def _table(figure: figures.Table, result: Result, slice_: Slice) -> View:
    names = (figure.output, *figure.columns)
    columns = table_columns(figure, result)
    numeric = [False, *(result.outputs[name].kind != "token" for name in names)]
    rows = [
        [row_name(result, i), *(table_cell(result, column[i]) for column in columns)]
        for i in range(len(columns[0]))
    ]
    return {"kind": "table", "heads": ["prompt", *names], "rows": rows, "numeric": numeric}


def table_cell(result: Result, array: NamedArray) -> str:
    """A number, or the tokens of a row, as a table shows it."""
    if result.outputs[array.name].kind == "token":
        return " ".join(visible(result.text(t)) for t in np.reshape(array.values, -1) if t >= 0)
    if array.values.ndim:
        raise NotFound(f"{array.name!r} is not a single number", "a table shows single numbers")
    whole = array.values.dtype.kind in "iub"
    return str(int(array.values)) if whole else f"{float(array.values):.3f}"


def _text(figure: figures.Text, result: Result, slice_: Slice) -> View:
    tokens, prompt = example(figure.output, result, slice_)
    lead = NamedArray(tokens.values[..., 0], tokens.dims[:-1], tokens.coords)
    rows = []
    for index in np.ndindex(*tokens.shape[:-1]):
        said = result.passage(tokens.values[index])
        rows.append({"label": where(lead, index), "text": line(said) or "∅"})
    return {"kind": "text", "rows": rows, "prompt": prompt}
