"""The comparisons of a study as figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure, Heatmap, Lines
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.study.shown import ShownComparison, ShownTable, make_table
from remote_mi.store.claims.cells import selects_one
from remote_mi.store.contrasts.contrast import LEVEL
from remote_mi.store.contrasts.paired import smallest_p
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result
from remote_mi.store.studies import StudyRecord
from remote_mi.store.study_comparisons import (
    AgreementMatrix,
    ComparedLines,
    ComparedPoints,
    ComparedTable,
    PairedRow,
    compared_points,
)

_CORRELATION = "rank correlation"
_MOST_NAMED = 5


def shown_comparisons(record: StudyRecord) -> list[ShownComparison]:
    """The comparisons of a study, as far as there are results."""
    return [shown_comparison(found) for found in compared_points(record)]


def shown_comparison(found: ComparedPoints) -> ShownComparison:
    """A comparison as a figure, a table, or both."""
    title, notes, shown = line(found.comparison.title), list(_notes(found)), found.shown
    if isinstance(shown, ComparedLines):
        figure, result = _lines(shown, found.comparison.title)
        return ShownComparison(title, figure, result, None, notes)
    if isinstance(shown, ComparedTable):
        return ShownComparison(title, table=_points_table(shown), notes=notes)
    if isinstance(shown, AgreementMatrix):
        figure, result = _matrix(shown)
        return ShownComparison(title, figure, result, _agreement_table(shown), notes)
    if isinstance(shown, list):
        return ShownComparison(title, table=_differences_table(shown), notes=notes)
    return ShownComparison(title, notes=notes)


def _notes(found: ComparedPoints) -> Iterator[str]:
    comparison, shown = found.comparison, found.shown
    if comparison.at:
        places = ", ".join(f"{line(d)} {line(_selector(w))}" for d, w in comparison.at.items())
        one = all(map(selects_one, comparison.at.values()))
        yield f"At {places}{'' if one else '; the mean of these cells'}."
    if isinstance(shown, ComparedLines):
        low, high = shown.counts
        count = f"n = {low}" if low == high else f"n from {low} to {high}"
        if high:
            yield f"Bands are 95% intervals over prompts, {count}."
    if isinstance(shown, AgreementMatrix):
        yield (
            "Spearman's rank correlation over the cells that two maps share, and the overlap of "
            f"the {comparison.top} cells of largest size in each. Cells of a map depend on each "
            "other, so neither has an interval."
        )
    if isinstance(shown, list):
        yield (
            "Differences are paired by prompt, second − first, with 95% intervals; p is of each row "
            "by itself, from a permutation test that exchanges the two within prompts."
        )
        least = min(row.difference.n for row in shown)
        if smallest_p(least) > LEVEL:
            yield f"With {least} prompts p is never below {smallest_p(least):.2g}."
    if found.missing:
        more = f" and {len(found.missing) - _MOST_NAMED} more" * (len(found.missing) > _MOST_NAMED)
        names = "; ".join(line(name) for name in found.missing[:_MOST_NAMED])
        yield f"No result yet: {names}{more}."
    for problem in found.problems:
        yield f"Not compared: {line(problem)}."
    if shown is None and not found.problems and not found.missing:
        yield "There is nothing to compare."


def _selector(wanted: Any) -> str:
    return ", ".join(map(str, wanted)) if isinstance(wanted, (list, tuple)) else str(wanted)


def _lines(shown: ComparedLines, title: str) -> tuple[Figure, Result]:
    array = shown.array
    lines = array.dims[0]
    if len(array.coords[lines]) == 1 and array.coords[lines][0] in ("", "–"):
        array = array.isel(lines, 0)
    array = _renamed(array)
    figure = Lines(array.name, title=title, x=array.dims[-1])
    return figure, result_of_array(array, figure)


def _renamed(array: NamedArray) -> NamedArray:
    """The same with other names for dimensions of tokens: their labels have the index already."""
    names = {dim: f"{dim} and token" if dim in POSITIONS else dim for dim in array.dims}
    coords = {names[dim]: list(labels) for dim, labels in array.coords.items() if dim in names}
    return NamedArray(
        array.values, tuple(names.values()), coords, array.low, array.high, array.name
    )


def _matrix(shown: AgreementMatrix) -> tuple[Figure, Result]:
    values = np.array(
        [[np.nan if c is None else c.correlation for c in row] for row in shown.cells]
    )
    dims = ("point", "other")
    array = NamedArray(values, dims, dict.fromkeys(dims, shown.names), name=_CORRELATION)
    figure = Heatmap(_CORRELATION, center=0.0)
    return figure, result_of_array(array, figure)


def result_of_array(array: NamedArray, figure: Figure) -> Result:
    """A result that consists of one array, so that every medium can show a figure of it."""
    recipe: Mapping[str, Any] = {
        "name": array.name,
        "over": "none",
        "returns": {array.name: {"dims": list(array.dims), "kind": "number", "of": "set"}},
        "summaries": {},
        "figures": [figure.to_json()],
    }
    document = {
        "parts": [],
        "axes": {array.name: {dim: list(array.coords[dim]) for dim in array.dims}},
        "notes": [],
        "vocabulary": {},
    }
    ends = {"": array.values, ":low": array.low, ":high": array.high}
    arrays = {f"{array.name}{end}": v for end, v in ends.items() if v is not None}
    return Result(recipe, document, {**arrays, f"{array.name}@0": array.values})


def _points_table(shown: ComparedTable) -> ShownTable:
    columns = [[row[i] for _, row in shown.rows] for i in range(len(shown.outputs))]
    counts = [max((e.n for e in row if e is not None), default=0) for _, row in shown.rows]
    names = [name for name, _ in shown.rows]
    texts: list[str] = [str(count) if count else "–" for count in counts]
    return make_table(["point", *shown.outputs, "n"], [names, *columns, texts])


def _agreement_table(shown: AgreementMatrix) -> ShownTable:
    pairs = [
        (shown.names[i], shown.names[j], cell)
        for i, row in enumerate(shown.cells)
        for j, cell in enumerate(row)
        if j > i and cell is not None
    ]
    heads = ["one", "other", _CORRELATION, "overlap of the largest", "by chance", "cells"]
    return make_table(
        heads,
        [
            [one for one, _, _ in pairs],
            [other for _, other, _ in pairs],
            [cell.correlation for _, _, cell in pairs],
            [cell.overlap for _, _, cell in pairs],
            [cell.chance for _, _, cell in pairs],
            [str(cell.cells) for _, _, cell in pairs],
        ],
    )


def _differences_table(rows: list[PairedRow]) -> ShownTable:
    groups = [row.group for row in rows]
    columns: list[tuple[str, list[Any]]] = [
        ("of", groups),
        ("first", [row.one for row in rows]),
        ("second", [row.other for row in rows]),
        ("difference", [row.difference for row in rows]),
        ("n", [str(row.difference.n) for row in rows]),
        ("p", [row.p for row in rows]),
    ]
    kept = [(head, column) for head, column in columns if head != "of" or len(set(groups)) > 1]
    return make_table([head for head, _ in kept], [column for _, column in kept])
