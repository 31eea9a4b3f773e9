"""Lines as a scalable drawing for HTML: paths, bands and the points that can be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.recipes.figures import Lines
from remote_mi.report.kinds.lines import LETTERS, Curves, curves
from remote_mi.report.wording import Slice, where
from remote_mi.store.result import Result

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 10, 34


class _Frame:
    """From values to places in the drawing."""

    def __init__(self, x: np.ndarray, low: float, high: float) -> None:
        self.x_ends = float(x.min()), float(x.max())
        self.ticks = ticks(low, high)
        self.y_ends = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def across(self, x: float) -> float:
        low, high = self.x_ends
        share = (x - low) / (high - low) if high > low else 0.5
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def up(self, y: float) -> float:
        low, high = self.y_ends
        return round(_TOP + (high - y) / ((high - low) or 1.0) * (HEIGHT - _TOP - _BOTTOM), 1)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover a range."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** np.floor(np.log10((high - low) / about))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= about)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [round(float(i * step), 12) for i in range(first, last + 1)]


def lines_view(figure: Lines, result: Result, slice_: Slice) -> dict[str, Any]:
    """The view of a figure of lines; see `remote_mi.report.html_figures.view`."""
    found = curves(figure, result, slice_)
    array, x = found.array, found.x
    ends = [
        array.values,
        *(e for e in (array.low, array.high, *(found.reach or ())) if e is not None),
    ]
    finite = np.concatenate([np.ravel(e)[np.isfinite(np.ravel(e))] for e in ends])
    if not finite.size:
        raise NotFound(f"{figure.output!r} has no values to draw")
    frame = _Frame(x, min(0.0, float(finite.min())), max(0.0, float(finite.max())))
    lines = []
    for number, line in enumerate(found.drawn):
        points = [
            {
                "at": j,
                "x": frame.across(x[j]),
                "y": frame.up(float(found.rows[line, j])),
                "marked": bool(found.marked[line, j]),
                "title": f"{where(array, found.index(line, j))}: {found.said(line, j)}",
            }
            for j in range(len(x))
            if np.isfinite(found.rows[line, j])
        ]
        lines.append(
            {
                "letter": LETTERS[number],
                "css": f"l{number}",
                "points": points,
                "name": found.name(line),
                "paths": _paths(points),
                "band": _area(frame, found, line),
            }
        )
    return {
        "kind": "curves",
        "lines": lines,
        "width": WIDTH,
        "height": HEIGHT,
        "taken": found.part.taken,
        "cut": found.part.cut,
        "left": _LEFT,
        "bottom": HEIGHT - _BOTTOM,
        "zero": frame.up(0.0),
        "x_name": found.x_name,
        "y_ticks": [{"y": frame.up(t), "text": f"{t:g}"} for t in frame.ticks],
        "x_ticks": [{"x": frame.across(x[j]), "text": found.labels[j]} for j in _thinned(len(x))],
        "control": _outline(frame, x, *found.reach) if found.reach else "",
        "left_out": found.left_out,
        "marked": bool(found.marked[found.drawn].any()),
    }


def _paths(points: list[dict[str, Any]]) -> list[str]:
    """Lines through the points; where one is missing between two they are not joined."""
    joined: list[list[str]] = []
    for before, point in zip([None, *points], points, strict=False):
        if before is None or point["at"] != before["at"] + 1:
            joined.append([])
        joined[-1].append(f"{point['x']},{point['y']}")
    return [" ".join(places) for places in joined]


def _area(frame: _Frame, found: Curves, line: int) -> str:
    """Outline of the interval along a line; "" where there is none."""
    ends = found.interval(line)
    return "" if ends is None else _outline(frame, found.x, *ends)


def _outline(frame: _Frame, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    known = [j for j in range(len(x)) if np.isfinite(low[j]) and np.isfinite(high[j])]
    top = [f"{frame.across(x[j])},{frame.up(float(high[j]))}" for j in known]
    bottom = [f"{frame.across(x[j])},{frame.up(float(low[j]))}" for j in reversed(known)]
    return " ".join(top + bottom)


def _thinned(count: int, most: int = 10) -> list[int]:
    step = max(1, -(-count // most))
    return list(range(0, count, step))
