"""Curves: where they stand out, where they are largest, where they rise, and whether they stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from remote_mi.common.statistics.ordering import may_be_largest
from remote_mi.common.text import visible
from remote_mi.report.readings.places import runs_text
from remote_mi.report.readings.told import Told


def course_reading(told: Told, line: int, name: str) -> Iterator[str]:
    """One line of a figure of lines, [line, point] or [point].

    Args:
        line: its index. name: what it is called; "" for a single line.
    """
    array = told.array
    cells, values = np.atleast_2d(told.cells)[line], np.atleast_2d(array.values)[line]
    dim = array.dims[-1]
    labels = array.coords[dim]
    if not cells.any():
        return
    head = f"{name}: " if name else ""
    pieces = []
    for sign in (1, -1):
        points = np.flatnonzero(cells & (np.sign(values) == sign)).tolist()
        if points:
            span = told.span([float(values[point]) for point in points])
            pieces.append(f"{runs_text(dim, points, labels)} ({span})")
    if told.claims:
        where = " and ".join(pieces)
        yield f"{head}{told.name} {told.verb} {where}, each {told.reason}."
    peak = int(np.where(cells, np.abs(values), -1.0).argmax())
    rivals = _rivals(told, line, peak)
    yield f"{head}Largest at {runs_text(dim, [peak], labels)}: {_value(told, line, peak)}{rivals}."
    yield from _rise(told, line, peak, head)


def _value(told: Told, line: int, point: int) -> str:
    return told.part.describe_value((line, point) if told.array.values.ndim == 2 else (point,))


def _rivals(told: Told, line: int, peak: int) -> str:
    """Which other points may be the largest instead; "" where that is not known, or all may."""
    values = np.atleast_2d(told.array.values)[line]
    if told.samples is None or not np.isfinite(values).all():
        return ""
    samples = told.samples if told.array.values.ndim == 2 else told.samples[:, None]
    size = np.sign(values[peak]) * samples[:, line]  # [example, point]
    if not np.isfinite(size).all() or int(size.mean(0).argmax()) != peak:
        return ""
    dim = told.array.dims[-1]
    others = [int(i) for i in np.flatnonzero(may_be_largest(size)) if i != peak]
    if len(others) == len(values) - 1:
        return ""
    if not others:
        return f"; every other {visible(dim)} is told to be smaller (95% confidence)"
    text = runs_text(dim, others, told.array.coords[dim])
    return f"; only {text} cannot be told from it (95% confidence)"


def _rise(told: Told, line: int, peak: int, head: str) -> Iterator[str]:
    """Between which points the line passes half of its largest value, by its intervals."""
    array = told.array
    dim = array.dims[-1]
    labels = array.coords[dim]
    if array.low is None or array.high is None or len(labels) < 2 or not _increasing(labels):
        return
    value = float(np.atleast_2d(array.values)[line, peak])
    ends = np.stack([np.atleast_2d(array.low)[line], np.atleast_2d(array.high)[line]])
    # With a negative value, sizes are compared: the ends change places.
    ends, half = np.sort(np.sign(value) * ends, 0), abs(value) / 2
    above, below = ends[0] > half, ends[1] < half
    if not above[peak]:
        return
    first, last = peak - _run(above[:peak][::-1]), peak + _run(above[peak + 1 :])
    before, after = _run(below[:first]), _run(below[last + 1 :][::-1])
    parts = []
    if first == 0:
        parts.append(f"is beyond half of that from {dim} {labels[0]} on")
    elif before:
        parts.append(
            f"passes half of that between {dim} {labels[before - 1]} and {dim} {labels[first]}"
        )
    if peak < last == len(labels) - 1:
        parts.append(f"stays beyond half of it to {dim} {labels[-1]}")
    elif after:
        parts.append(
            f"falls back below half of it between {dim} {labels[last]} and {dim} "
            f"{labels[len(labels) - after]}"
        )
    if parts:
        yield f"{head}By its 95% intervals it {' and '.join(parts)}."


def _run(flags: np.ndarray) -> int:
    """How many of the first flags are set, one after the other."""
    return int(np.argmin(flags)) if not flags.all() else flags.size


def _increasing(labels: Sequence[Any]) -> bool:
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in labels)
    return numbers and all(a < b for a, b in pairwise(labels))
