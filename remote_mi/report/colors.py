"""Colour maps that colour-blind readers can tell apart, and the ramp that stands beside them.

Colour never carries meaning alone: every cell also shows a ramp character and a number.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from rich.color import Color
from rich.style import Style

RAMP = "·░▒▓█"
#: Steps of a map: more cannot be told apart, and styles that are shared are drawn quickly.
_STEPS = 128

Stops = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Palette:
    """The colour maps for one kind of screen.

    Attributes:
        ordered: from the lowest to the highest value. centred: from below the centre to above it.
    """

    ordered: Stops
    centred: Stops


#: A few stops of cividis (Nuñez et al. 2018), dark blue to yellow.
CIVIDIS: Stops = (
    (0, 34, 78),
    (53, 69, 108),
    (102, 105, 112),
    (148, 142, 119),
    (200, 184, 102),
    (254, 232, 56),
)
#: Blue – dark grey – orange, for values around a centre.
_DARK_CENTRED: Stops = (
    (60, 140, 255),
    (40, 90, 160),
    (38, 38, 42),
    (170, 95, 20),
    (255, 160, 50),
)
_LIGHT_CENTRED: Stops = (
    (20, 90, 200),
    (140, 185, 240),
    (240, 240, 238),
    (250, 195, 130),
    (225, 115, 0),
)
DARK = Palette(CIVIDIS, _DARK_CENTRED)
#: Bright is little and dark is much, so that what stands out on paper is what is large.
LIGHT = Palette(tuple(reversed((*CIVIDIS[:-1], (246, 240, 200)))), _LIGHT_CENTRED)


def ramp(strength: float) -> str:
    """A character for a strength from 0 to 1."""
    return RAMP[min(len(RAMP) - 1, max(0, round(strength * (len(RAMP) - 1))))]


def sequential(position: float, palette: Palette = DARK) -> Style:
    """Style of a cell at a position from 0 to 1 of a sequential map."""
    return _style(palette.ordered, _step(position))


def diverging(position: float, palette: Palette = DARK) -> Style:
    """Style of a cell at a position from −1 to 1 of a diverging map."""
    return _style(palette.centred, _step((position + 1) / 2))


@functools.lru_cache(4096)
def softened(style: Style) -> Style:
    """The style of a cell's ramp character: less bright than the number that it stands beside."""
    front, back = style.color, style.bgcolor
    if front is None or back is None:
        return style
    mixed = (
        round(0.45 * f + 0.55 * b)
        for f, b in zip(front.get_truecolor(), back.get_truecolor(), strict=True)
    )
    return style + Style(color=Color.from_rgb(*mixed))


def _step(position: float) -> int:
    return round(min(1.0, max(0.0, position)) * _STEPS)


@functools.lru_cache(4096)
def _style(stops: Stops, step: int) -> Style:
    rgb = _between(stops, step / _STEPS)
    bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 120
    front = Color.from_rgb(0, 0, 0) if bright else Color.from_rgb(235, 235, 235)
    return Style(color=front, bgcolor=Color.from_rgb(*rgb))


def _between(stops: Stops, position: float) -> tuple[int, int, int]:
    position *= len(stops) - 1
    index = min(int(position), len(stops) - 2)
    share = position - index
    low, high = stops[index], stops[index + 1]
    r, g, b = (round(a + (c - a) * share) for a, c in zip(low, high, strict=True))
    return r, g, b
