"""Lines as a scalable drawing for HTML: paths, bands and the points that can be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from remote_mi.errors import NotFound
from remote_mi.figures import Lines
from remote_mi.report.words import Slice, amount, marks, value_in_words, where
from remote_mi.results import NamedArray, Result

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 10, 34
MOST = 8
LETTERS = "abcdefgh"


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


def axis(array: NamedArray) -> tuple[np.ndarray, list[Any]]:
    """Places along the last dimension: its coordinates where they are numbers, and the labels."""
    labels = list(array.coords[array.dims[-1]])
    if all(isinstance(label, (int, float)) for label in labels):
        return np.array(labels, float), labels
    return np.arange(len(labels), dtype=float), labels


def rows(figure: Lines, result: Result, slice_: Slice) -> tuple[NamedArray, str, np.ndarray, Any]:
    """What is drawn: (array of one or two dimensions, where it was taken, marks, control band)."""
    full = slice_.of(result, figure.output)
    if full.values.ndim < 1:
        raise NotFound(f"{figure.output!r} is a single number", "lines need a dimension")
    keep = full.dims[-2:]
    array, taken = slice_.apply(full, keep)
    band = None if taken else result.control_band(figure.output)
    return array, taken, marks(result, array, slice_, keep), band


def curves(figure: Lines, result: Result, slice_: Slice) -> dict[str, Any]:
    """The view of a figure of lines; see `remote_mi.report.html_figures.view`."""
    array, taken, marked, band = rows(figure, result, slice_)
    x, labels = axis(array)
    ends = [a for a in (array.values, array.low, array.high, band) if a is not None]
    finite = np.concatenate([np.ravel(e)[np.isfinite(np.ravel(e))] for e in ends])
    if not finite.size:
        raise NotFound(f"{figure.output!r} has no values to draw")
    frame = _Frame(x, min(0.0, float(finite.min())), max(0.0, float(finite.max())))
    lead = [()] if array.values.ndim == 1 else [(i,) for i in range(array.shape[0])]
    names = NamedArray(np.zeros(()), array.dims[:-1], array.coords)
    lines = []
    for index, at in enumerate(lead[:MOST]):
        points = [
            {"x": frame.across(x[j]), "y": frame.up(float(array.values[*at, j])),
             "marked": bool(marked[*at, j]),
             "title": f"{where(array, (*at, j))}: "
                      f"{value_in_words(result, array, (*at, j), bool(taken), figure.unit)}"}
            for j in range(len(x)) if np.isfinite(array.values[*at, j])
        ]  # fmt: skip
        lines.append({"letter": LETTERS[index], "css": f"l{index}", "points": points,
                      "name": where(names, at), "path": _path(points),
                      "band": _area(frame, x, array, at)})  # fmt: skip
    shown = _thinned(len(labels))
    return {
        "kind": "curves", "lines": lines, "width": WIDTH, "height": HEIGHT,
        "taken": taken, "cut": [*slice_.of(result, figure.output).dims[:-2]],
        "left": _LEFT, "bottom": HEIGHT - _BOTTOM, "zero": frame.up(0.0), "x_name": array.dims[-1],
        "y_ticks": [{"y": frame.up(t), "text": f"{t:g}"} for t in frame.ticks],
        "x_ticks": [{"x": frame.across(x[j]), "text": str(labels[j])} for j in shown],
        "control": _control(frame, x, band), "more": max(0, len(lead) - MOST),
        "marked": bool(marked[: MOST].any()) if marked.ndim > 1 else bool(marked.any()),
        "ends": [amount(v) for v in frame.y_ends],
    }  # fmt: skip


def _path(points: list[dict[str, Any]]) -> str:
    return " ".join(f"{p['x']},{p['y']}" for p in points)


def _area(frame: _Frame, x: np.ndarray, array: NamedArray, at: tuple[int, ...]) -> str:
    """Outline of the interval along a line; "" where there is none."""
    if array.low is None or array.high is None:
        return ""
    return _outline(frame, x, array.low[at], array.high[at])


def _outline(frame: _Frame, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    known = [j for j in range(len(x)) if np.isfinite(low[j]) and np.isfinite(high[j])]
    top = [f"{frame.across(x[j])},{frame.up(float(high[j]))}" for j in known]
    bottom = [f"{frame.across(x[j])},{frame.up(float(low[j]))}" for j in reversed(known)]
    return " ".join(top + bottom)


def _control(frame: _Frame, x: np.ndarray, band: Any) -> str:
    """Outline of what the control reaches, to both sides of 0."""
    if band is None:
        return ""
    reach = np.atleast_2d(band).max(0)
    low = np.maximum(-reach, frame.y_ends[0])
    return _outline(frame, x, low, np.minimum(reach, frame.y_ends[1]))


def _thinned(count: int, most: int = 10) -> list[int]:
    step = max(1, -(-count // most))
    return list(range(0, count, step))
