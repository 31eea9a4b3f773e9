"""Colour maps that colour-blind readers can tell apart, and the ramp that stands beside them.

Colour never carries meaning alone: every cell also shows a ramp character and a number.
"""

from __future__ import annotations

from rich.color import Color
from rich.style import Style

RAMP = "·░▒▓█"
#: A few stops of cividis (Nuñez et al. 2018), dark blue to yellow.
_CIVIDIS = [
    (0, 34, 78),
    (53, 69, 108),
    (102, 105, 112),
    (148, 142, 119),
    (200, 184, 102),
    (254, 232, 56),
]
#: Blue – dark grey – orange, for values around a centre.
_DIVERGING = [(60, 140, 255), (40, 90, 160), (38, 38, 42), (170, 95, 20), (255, 160, 50)]


def ramp(strength: float) -> str:
    """A character for a strength from 0 to 1."""
    return RAMP[min(len(RAMP) - 1, max(0, round(strength * (len(RAMP) - 1))))]


def sequential(position: float) -> Style:
    """Style of a cell at a position from 0 to 1 of a sequential map."""
    return _style(_between(_CIVIDIS, position))


def diverging(position: float) -> Style:
    """Style of a cell at a position from −1 to 1 of a diverging map."""
    return _style(_between(_DIVERGING, (position + 1) / 2))


def _between(stops: list[tuple[int, int, int]], position: float) -> tuple[int, int, int]:
    position = min(1.0, max(0.0, position)) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    share = position - index
    low, high = stops[index], stops[index + 1]
    r, g, b = (round(a + (c - a) * share) for a, c in zip(low, high, strict=True))
    return r, g, b


def _style(rgb: tuple[int, int, int]) -> Style:
    bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 120
    front = Color.from_rgb(0, 0, 0) if bright else Color.from_rgb(235, 235, 235)
    return Style(color=front, bgcolor=Color.from_rgb(*rgb))
