"""The comparisons of a study, computed from the results of its points."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.valid_json import without_non_finite
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.store.claims.cells import selected_indices
from remote_mi.store.claims.estimates import Estimate, mean_estimate
from remote_mi.store.contrasts.agreement import Agreement, agreement
from remote_mi.store.contrasts.paired import paired_difference
from remote_mi.store.contrasts.pooled import mean_over_models
from remote_mi.store.grid_comparison import SIZE, GridComparison, PlacedPoint
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result
from remote_mi.store.studies import StudyRecord
from remote_mi.store.study_results import StudyResults

#: The name of the axis of lines if there is only one line.
_ONE_LINE = "line"


@dataclass(frozen=True)
class ComparedLines:
    """Values along an axis, a line for each value of another.

    Attributes:
        array: the values with their intervals, [line, x]; NaN where there is none.
        counts: smallest and largest number of prompts behind a value.
    """

    array: NamedArray
    counts: tuple[int, int]


@dataclass(frozen=True)
class ComparedTable:
    """Points × outputs. `rows`: (name of the point, an estimate for each of `outputs`)."""

    outputs: list[str]
    rows: list[tuple[str, list[Estimate | None]]]


@dataclass(frozen=True)
class AgreementMatrix:
    """How far the maps of points agree.

    Attributes:
        names: of the points. cells: [point][point], None on the diagonal and where two maps have
            no cells in common.
    """

    names: list[str]
    cells: list[list[Agreement | None]]


@dataclass(frozen=True)
class PairedRow:
    """A difference of two points on the same prompts: `other` − `one`, within a `group`."""

    group: str
    one: str
    other: str
    difference: Estimate
    p: float


@dataclass(frozen=True)
class ComparedPoints:
    """A comparison of a study with its numbers.

    Attributes:
        shown: the numbers; None if there are none yet.
        missing: names of points without a result.
        problems: what could not be compared, and why.
    """

    comparison: GridComparison
    shown: ComparedLines | ComparedTable | AgreementMatrix | list[PairedRow] | None
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def compared_points(record: StudyRecord) -> list[ComparedPoints]:
    """The comparisons of a study, as far as there are results."""
    results = StudyResults(record)
    return [_Comparing(comparison, results).run() for comparison in record.compare]


class _Comparing:
    """One comparison."""

    def __init__(self, comparison: GridComparison, results: StudyResults) -> None:
        self.comparison, self.results = comparison, results
        self.missing: list[str] = []
        self.problems: list[str] = []

    def run(self) -> ComparedPoints:
        make = {
            "lines": self._lines,
            "table": self._table,
            "agreement": self._agreement,
            "differences": self._differences,
        }[self.comparison.show]
        shown = make()
        problems = list(dict.fromkeys(self.problems))
        return ComparedPoints(self.comparison, shown, self.missing, problems)

    def _points(self) -> Iterator[tuple[PlacedPoint, Result]]:
        """The points that have results; the others are noted."""
        for point in self.comparison.points:
            try:
                result = self.results[point.point]
            except RemoteMIError as error:
                self.problems.append(f"{point.name}: {error.message}")
                continue
            if result is None:
                self.missing.append(_full_name(point))
            else:
                yield point, result

    def _at(self, result: Result, output: str) -> Mapping[str, Any]:
        """The selectors of the dimensions that an output has."""
        dims = result[output].dims
        return {dim: wanted for dim, wanted in self.comparison.at.items() if dim in dims}

    def _indices(self, result: Result, output: str) -> list[list[int]]:
        return selected_indices(result, result[output], self._at(result, output))

    # -- lines -----------------------------------------------------------------------------------

    def _lines(self) -> ComparedLines | None:
        cells: dict[tuple[str, Any], Estimate] = {}
        for point, result in self._points():
            try:
                for line, x, estimate in self._along(point, result):
                    cells.setdefault((line, x), estimate)
            except RemoteMIError as error:
                self.problems.append(f"{point.name}: {error.message}")
        if not cells:
            return None
        names = list(dict.fromkeys(line for line, _ in cells))
        xs = list(dict.fromkeys(x for _, x in cells))
        if all(isinstance(x, (int, float)) for x in xs):
            xs.sort()
        values, low, high = np.full((3, len(names), len(xs)), np.nan)
        for (line, x), found in cells.items():
            place = names.index(line), xs.index(x)
            values[place], low[place], high[place] = found.value, found.low, found.high
        counts = [found.n for found in cells.values()]
        coords = {self.comparison.lines or _ONE_LINE: names, self.comparison.x: xs}
        output = " or ".join(self.comparison.output)
        array = NamedArray(values, tuple(coords), coords, low, high, output)
        return ComparedLines(array, (min(counts), max(counts)))

    def _along(self, point: PlacedPoint, result: Result) -> Iterator[tuple[str, Any, Estimate]]:
        """(line, x, value) of every place of a point on the axes."""
        comparison, array = self.comparison, result[point.output]
        axes = [
            name
            for name, is_dim in (
                (comparison.x, comparison.x_is_dim),
                (comparison.lines, comparison.lines_is_dim),
            )
            if is_dim
        ]
        indices = self._indices(result, point.output)
        along = [indices[array.dims.index(axis)] for axis in axes]
        for chosen in itertools.product(*along):
            one = list(indices)
            for axis, index in zip(axes, chosen, strict=True):
                one[array.dims.index(axis)] = [index]
            at = {a: _label(array, a, i) for a, i in zip(axes, chosen, strict=True)}
            x = at[comparison.x] if comparison.x_is_dim else self._x(point, result)
            line = str(at[comparison.lines]) if comparison.lines_is_dim else point.line
            yield line, x, mean_estimate(result, array, one)

    def _x(self, point: PlacedPoint, result: Result) -> Any:
        """A point's place on an axis of the grid."""
        size = result.made.record.parameters if self.comparison.x == SIZE else None
        return _number_or_text(point.x if size is None else size)

    # -- the others ------------------------------------------------------------------------------

    def _table(self) -> ComparedTable | None:
        outputs, points = self.comparison.output, list(self._points())
        rows = [
            (point.name, [self._estimate(point, result, output) for output in outputs])
            for point, result in points
        ]
        pooled = [self._over_models([result for _, result in points], name) for name in outputs]
        if any(pooled):
            rows.append((f"all {len(points)} models", pooled))
        return ComparedTable(outputs, rows) if rows else None

    def _over_models(self, results: list[Result], output: str) -> Estimate | None:
        """The mean over models, if the points are different models on the same prompts."""
        if any(output not in result.names() for result in results):
            return None
        try:
            at = [self._indices(result, output) for result in results]
            return mean_over_models(results, output, at)
        except RemoteMIError:
            return None  # said of the points themselves

    def _estimate(self, point: PlacedPoint, result: Result, output: str) -> Estimate | None:
        """A point's value of an output; None if it has none."""
        if output not in result.names():
            return None
        try:
            return mean_estimate(result, result[output], self._indices(result, output))
        except RemoteMIError as error:
            self.problems.append(f"{point.name}: {error.message}")
            return None

    def _agreement(self) -> AgreementMatrix | None:
        points = [(point.name, result[point.output]) for point, result in self._points()]
        if len(points) < 2:
            return None
        matrix: list[list[Agreement | None]] = [[None] * len(points) for _ in points]
        for (i, (name, one)), (j, (other_name, other)) in itertools.combinations(
            enumerate(points), 2
        ):
            try:
                found = agreement(one, other, self.comparison.top)
            except RemoteMIError as error:
                self.problems.append(f"{name} and {other_name}: {error.message}")
                continue
            matrix[i][j] = matrix[j][i] = found
        return AgreementMatrix([name for name, _ in points], matrix)

    def _differences(self) -> list[PairedRow] | None:
        groups: dict[str, list[tuple[PlacedPoint, Result]]] = {}
        for point, result in self._points():
            groups.setdefault(point.line, []).append((point, result))
        rows = []
        for group, members in groups.items():
            (first, one), *others = members
            for point, result in others:
                try:
                    rows.append(self._paired(group, (first, one), (point, result)))
                except RemoteMIError as error:
                    place = f"{group}: " if len(groups) > 1 else ""
                    self.problems.append(f"{place}{first.name} and {point.name}: {error.message}")
        return rows or None

    def _paired(
        self, group: str, one: tuple[PlacedPoint, Result], other: tuple[PlacedPoint, Result]
    ) -> PairedRow:
        (first, a), (second, b) = one, other
        cells = self._indices(a, first.output), self._indices(b, second.output)
        found = paired_difference(a, b, first.output, second.output, at=cells)
        estimate, p = found.at()
        return PairedRow(group, first.name, second.name, estimate, p)


def _full_name(point: PlacedPoint) -> str:
    return ", ".join(dict.fromkeys(filter(None, (point.line, point.name))))


def _label(array: NamedArray, dim: str, index: int) -> Any:
    """A coordinate for an axis; a token with its index, since it may occur twice."""
    label = array.coords[dim][index]
    labelled = dim not in POSITIONS or str(label).startswith("[")
    return label if labelled else f"{index} {str(label).strip()}"


def _number_or_text(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number else "–" if value is None else str(value)


def comparison_to_json(found: ComparedPoints) -> dict[str, Any]:
    """A comparison with its numbers as JSON; numbers that do not exist are null."""
    comparison, shown = found.comparison, found.shown
    head = {
        "show": comparison.show,
        "title": comparison.title,
        "output": comparison.output,
        "missing": found.missing,
        "problems": found.problems,
    }
    return without_non_finite({**head, **_numbers(comparison, shown)})


def _numbers(comparison: GridComparison, shown: Any) -> dict[str, Any]:
    if isinstance(shown, ComparedLines):
        array = shown.array
        names, xs = (list(array.coords[dim]) for dim in array.dims)
        ends = {"value": array.values, "low": array.low, "high": array.high}
        return {
            "x": comparison.x,
            "lines": comparison.lines,
            "points": [
                {
                    "line": names[i],
                    "x": xs[j],
                    **{k: float(v[i, j]) for k, v in ends.items() if v is not None},
                }
                for i, j in np.ndindex(*array.shape)
            ],
        }
    if isinstance(shown, ComparedTable):
        return {"rows": [{"point": name, **_row(shown.outputs, some)} for name, some in shown.rows]}
    if isinstance(shown, AgreementMatrix):
        return {
            "points": shown.names,
            "cells": [[cell and vars(cell) for cell in row] for row in shown.cells],
        }
    return {"rows": [{**vars(row), "difference": _plain(row.difference)} for row in shown or ()]}


def _row(outputs: Sequence[str], some: Sequence[Estimate | None]) -> dict[str, Any]:
    return {name: found and _plain(found) for name, found in zip(outputs, some, strict=True)}


def _plain(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
