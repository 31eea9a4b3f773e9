"""The cells of an output as rows: coordinates, value, interval, control; for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound, sanitize
from remote_mi.common.text import visible
from remote_mi.recipes.output_kinds import OutputKind, json_text, kind_of_output
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

Row = list[Any]


def cell_rows(
    result: Result, output: str, each: Sequence[int] | None
) -> tuple[list[str], list[Row]]:
    """Heads and rows of every cell of an output or summary.

    Args:
        each: indices of prompts whose own values to take; None takes the values over all prompts
            (token ids and texts, which have no mean, are always per prompt).

    Raises:
        NotFound: if there is no such output, or no values of single prompts.
    """
    kind = kind_of_output(result.outputs.get(output))
    if not kind.averaged and each is None:
        each = range(len(result.each(output)))
    if each is None:
        return _cells(result, result[output])
    every = result.each(output)
    heads: list[str] = []
    rows: list[Row] = []
    for index in existing_prompts(each, len(every)):
        heads, some = _plain_cells(result, every[index], kind)
        rows += [[index + 1, *row] for row in some]
    return ["prompt", *heads], rows


def existing_prompts(wanted: Iterable[int], count: int) -> Iterator[int]:
    """The requested prompts, each after a check that it exists."""
    for index in wanted:
        if not 0 <= index < count:
            raise NotFound(f"there is no prompt {index + 1}", f"there are {count}")
        yield index


def _axes(array: NamedArray) -> tuple[list[str], Iterator[tuple[tuple[int, ...], Row]]]:
    """Heads of the coordinates, and every index with its coordinates.

    A token may occur twice, so positions also have their index.
    """
    heads = []
    for dim in array.dims:
        heads += [dim, f"{dim}_index"] if dim in POSITIONS else [dim]

    def walk() -> Iterator[tuple[tuple[int, ...], Row]]:
        for index in np.ndindex(*array.shape):
            row: Row = []
            for dim, at in zip(array.dims, index, strict=True):
                label = array.coords[dim][at]
                row.append(visible(label) if isinstance(label, str) else label)
                if dim in POSITIONS:
                    row.append(at)
            yield index, row

    return heads, walk()


def _cells(result: Result, array: NamedArray) -> tuple[list[str], list[Row]]:
    """Every cell of an array over all prompts."""
    heads, cells = _axes(array)
    band, explained = result.control_band(array.name), result.explained(array.name)
    more = {
        "value": array.values,
        "low": array.low,
        "high": array.high,
        "control": band,
        "explained": explained,
    }
    shown = {name: values for name, values in more.items() if values is not None}
    rows = [
        [*row, *(plain_number(values[index]) for values in shown.values())] for index, row in cells
    ]
    return [*heads, *shown], rows


def _plain_cells(
    result: Result, array: NamedArray, kind: OutputKind
) -> tuple[list[str], list[Row]]:
    """Every cell of one prompt's array; token ids with their text."""
    heads, cells = _axes(array)
    if kind.averaged:
        return [*heads, "value"], [
            [*row, plain_number(array.values[index])] for index, row in cells
        ]
    if kind.name != "token":
        return [*heads, kind.name], [
            [*row, plain_text(kind, array.values[index])] for index, row in cells
        ]
    return [*heads, "token_id", "token"], [
        [*row, int(array.values[index]), visible(result.text(int(array.values[index])))]
        for index, row in cells
        if array.values[index] >= 0
    ]


def plain_text(kind: OutputKind, value: Any) -> str:
    """A text, or a JSON value as JSON, without control characters."""
    return sanitize(value if kind.name == "text" else json_text(value))


def plain_number(value: Any) -> Any:
    """A numpy number as a Python number, with only the digits of its type."""
    kind = np.asarray(value).dtype
    if kind.kind == "b":
        return bool(value)
    if kind.kind in "iu":
        return int(value)
    return float(str(np.float32(value))) if kind == np.float32 else float(value)
