"""Lines as a plot of characters, with axes and the band of their control."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi.common.text import pad_or_cut, visible
from remote_mi.report.kinds.curves import LETTERS, Curves

_EMPTY, _ZERO, _BAND, _HERE = " ", "╌", "░", "│"
HEIGHT = 14


_LEFT = 13


def plot(
    layout: Curves,
    width: int,
    height: int = HEIGHT,
    here: tuple[int, int] | None = None,
) -> Iterator[Text]:
    """The plot of at most eight lines, with the band of their control and the axes.

    Args:
        height: lines of text for the values, without the axes.
        here: (line, point) of the cursor; the eight lines around it are drawn.
    """
    if layout.rows.shape[1] < 2:
        yield Text(" a single point, not a line:", style="dim")
        return
    shown, note = layout.drawn, layout.left_out
    if here is not None and note:
        shown = layout.around(here[0])
        note = f"lines {shown[0] + 1} to {shown[-1] + 1} of {len(layout.rows)}"
    drawn = _Drawing(layout, max(20, width - _LEFT - 1), height)
    yield from drawn.values(shown, here)
    yield from drawn.axis()
    if layout.band is not None:
        yield Text(f"   {_BAND} range of the control", style="dim")
    if note:
        yield Text(f"   {note}", style="dim")


class _Drawing:
    """A field of characters, and the position of values in it."""

    def __init__(self, layout: Curves, width: int, height: int) -> None:
        self.layout, self.width = layout, width
        self.x = layout.x
        # A little beyond the last value, so that it is drawn in the last column.
        self.x_low = float(self.x.min())
        span = (float(self.x.max()) - self.x_low) or 1.0
        self.x_high = self.x_low + span * width / (width - 0.999)
        limits = layout.slice_.limits
        ends = layout.rows if limits is None else np.array(limits)
        self.low, self.step, self.height = _scale(ends, height)

    def column(self, x: float) -> int:
        """Column of the dot of an x value: a character has 2 × 4 dots."""
        at = round((x - self.x_low) / (self.x_high - self.x_low) * self.width * 2) // 2
        return min(self.width - 1, max(0, at))

    def row(self, y: float) -> int:
        """Line of the dot of a y value, from the top."""
        at = round((y - self.low) / self.step * 4) // 4
        return self.height - 1 - min(self.height - 1, max(0, at))

    def values(self, lines: Sequence[int], here: tuple[int, int] | None) -> Iterator[Text]:
        """The lines of the field, each labelled with the value at its middle."""
        ends = (self.x_low, self.x_high, self.low, self.low + self.step * self.height)
        shown = self.layout.rows[list(lines)]
        field = _dots(
            self.width,
            self.height,
            ends,
            self.x.tobytes(),
            tuple(row.astype(float).tobytes() for row in shown),
        )
        reach = self._reach()
        cursor = None if here is None else self.column(self.x[here[1]])
        value = np.nan if here is None else float(self.layout.rows[here])
        at = self.row(value) if np.isfinite(value) else None
        for number, drawn in enumerate(field):
            middle = self.low + self.step * (self.height - 0.5 - number)
            label = 0.0 if abs(middle) < self.step / 1e6 else middle
            characters = self._fill_background(drawn, number, reach)
            if cursor is not None and characters[cursor] in (_EMPTY, _ZERO, _BAND):
                characters[cursor] = _HERE
            text = Text(f"{label:10.4g} │ {''.join(characters).rstrip()}", no_wrap=True)
            text.highlight_regex(f"[{_ZERO}{_BAND}]+", "dim")
            if cursor is not None:
                style = Style(bold=True, reverse=number == at)
                text.stylize(style, _LEFT + cursor, _LEFT + cursor + 1)
            yield text

    def _reach(self) -> np.ndarray:
        """Half-width of the control's band, in every column."""
        if self.layout.band is None:
            return np.zeros(self.width)
        places = np.linspace(self.x_low, self.x_high, self.width, endpoint=False)
        order = np.argsort(self.x)
        return np.interp(places, self.x[order], self.layout.band[order])

    def _fill_background(self, drawn: str, number: int, reach: np.ndarray) -> list[str]:
        """The characters of a line, with the band and the zero line where nothing is drawn."""
        bottom = self.low + self.step * (self.height - 1 - number)
        shared = np.minimum(reach, bottom + self.step) - np.maximum(-reach, bottom)
        inside = (shared > self.step / 2).tolist()
        empty = _ZERO if number == self.row(0.0) else _EMPTY
        return [
            (_BAND if inside[at] else empty) if character == _EMPTY else character
            for at, character in enumerate(drawn)
        ]

    def axis(self) -> Iterator[Text]:
        """The x axis, with as many tick labels as fit."""
        rule, names = ["─"] * self.width, ""
        for column, start, label in self._ticks():
            names += " " * (start - cell_len(names)) + label
            rule[column] = "┴"
        yield Text(f"{'':10} └─" + "".join(rule), no_wrap=True)
        name = pad_or_cut(visible(self.layout.x_name), _LEFT - 1).rstrip()
        yield Text(f"{' ' * (_LEFT - 1 - cell_len(name))}{name} {names}", no_wrap=True)

    def _ticks(self) -> list[tuple[int, int, str]]:
        """(column, start of the label, label) of every tick, every second, …, as many as fit."""
        labels, count = self._labels(), len(self.x)
        for step in (1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 200, 500, 1000, count):
            ticks, end = [], 0
            for x, label in list(zip(self.x, labels, strict=True))[::step]:
                column, wide = self.column(float(x)), cell_len(label)
                start = min(max(0, column - (wide - 1) // 2), self.width - wide)
                if start < end:
                    break
                ticks.append((column, start, label))
                end = start + wide + 1
            else:
                return ticks
        return ticks[:1]

    def _labels(self) -> Sequence[str]:
        return [
            pad_or_cut(label, 8).rstrip() if cell_len(label) > 8 else label
            for label in self.layout.labels
        ]


@functools.lru_cache(8)  # moving the cursor does not change the lines
def _dots(
    width: int, height: int, ends: tuple[float, ...], places: bytes, rows: tuple[bytes, ...]
) -> list[str]:
    """Lines drawn in a field of characters, from the top; each point shows its line's letter.

    Args:
        ends: lowest and highest x, lowest and highest y.
        places: the x of every point, as bytes of float64. rows: the y of every line, likewise.
    """
    import plotille

    figure = plotille.Figure()
    figure.with_colors = figure.origin = False
    figure.width, figure.height = width, height
    figure.set_x_limits(min_=ends[0], max_=ends[1])
    figure.set_y_limits(min_=ends[2], max_=ends[3])
    figure.x_label = figure.y_label = ""
    figure.y_ticks_fkt = lambda low, high: f"{low:9.3g}"  # as wide as `_LEFT` expects
    drawn = False
    for letter, row in zip(LETTERS, rows, strict=False):
        kept = [
            (a, b)
            for a, b in zip(
                np.frombuffer(places).tolist(), np.frombuffer(row).tolist(), strict=True
            )
            if np.isfinite(b)
        ]
        if kept:
            figure.plot([a for a, _ in kept], [b for _, b in kept], marker=letter)
            drawn = True
    made = figure.show().splitlines()[2 : 2 + height] if drawn else []
    made += [""] * (height - len(made))
    return [text[_LEFT:].replace("\u2800", _EMPTY).ljust(width)[:width] for text in made]


def _scale(values: np.ndarray, height: int) -> tuple[float, float, int]:
    """Lower end of the lowest line of text, the step per line, and the number of lines needed.

    The middle of each line is a round number, and 0 is one of them.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low, high = min(0.0, low), max(0.0, high)
    size = 10.0 ** np.floor(np.log10((high - low) / height)) if high > low else 1.0
    for factor in (1, 2, 5, 10, 20):
        step = size * factor
        below, above = round(-low / step), round(high / step)
        if below + above < height:
            break
    return float(-(below + 0.5) * step), float(step), max(2, below + above + 1)
