"""Colour-blind-safe colour maps, and the ramp characters that accompany them.

Colour never carries meaning alone: every cell also shows a ramp character and a number.

In HTML a cell has a class, not a colour: `s0` … `s32` of the sequential map, `d0` … `d32` of the
diverging one. This keeps pages small; dark and light mode differ only in the style sheet, and no
cell needs its own style.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.color import Color
from rich.style import Style

RAMP = "·░▒▓█"
#: Steps of a map: more are indistinguishable, and shared styles are drawn fast.
_STEPS = 128

Stops = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Palette:
    """The colour maps for dark or light screens.

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
#: Low is bright and high is dark, so that large values stand out on paper.
LIGHT = Palette(tuple(reversed((*CIVIDIS[:-1], (246, 240, 200)))), _LIGHT_CENTRED)


def ramp_character(strength: float) -> str:
    """The ramp character for a strength from 0 to 1."""
    return RAMP[round(_within(strength) * (len(RAMP) - 1))]


def _within(share: float) -> float:
    """A share of a scale, from 0 to 1; 0 for NaN, as which a difference that overflows comes out."""
    return min(1.0, max(0.0, share))


def sequential(position: float, palette: Palette = DARK) -> Style:
    """Style of a cell at a position from 0 to 1 of a sequential map."""
    return _style(palette.ordered, _step(position))


def diverging(position: float, palette: Palette = DARK) -> Style:
    """Style of a cell at a position from −1 to 1 of a diverging map."""
    return _style(palette.centred, _step((position + 1) / 2))


@functools.lru_cache(4096)
def soften(style: Style) -> Style:
    """The style of a cell's ramp character: less bright than the number next to it."""
    front, back = style.color, style.bgcolor
    if front is None or back is None:
        return style
    mixed = (
        round(0.45 * f + 0.55 * b)
        for f, b in zip(front.get_truecolor(), back.get_truecolor(), strict=True)
    )
    return style + Style(color=Color.from_rgb(*mixed))


def _step(position: float) -> int:
    return round(_within(position) * _STEPS)


@functools.lru_cache(4096)
def _style(stops: Stops, step: int) -> Style:
    rgb = interpolate(stops, step / _STEPS)
    bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 120
    front = Color.from_rgb(0, 0, 0) if bright else Color.from_rgb(235, 235, 235)
    return Style(color=front, bgcolor=Color.from_rgb(*rgb))


LEVELS = 32


@dataclass(frozen=True)
class Shades:
    """A colour scale over the values of a figure.

    Attributes:
        low, high: values of the first and the last level. center: of a diverging scale, or None.
    """

    low: float
    high: float
    center: float | None = None

    @property
    def letter(self) -> str:
        """First letter of the CSS classes of its levels."""
        return "s" if self.center is None else "d"

    def level(self, value: float) -> int | None:
        """Level of a value, from 0 to `LEVELS`; None for NaN and infinities."""
        if not np.isfinite(value):
            return None
        if self.high <= self.low:
            return LEVELS // 2 if self.center is not None else 0
        share = (value - self.low) / (self.high - self.low)
        return round(_within(share) * LEVELS)


def shades(values: np.ndarray, center: float | None) -> Shades:
    """The scale that spans all finite values, symmetric around a centre if there is one."""
    finite = values[np.isfinite(values)]
    if center is not None:
        reach = float(np.abs(finite - center).max()) if finite.size else 0.0
        return Shades(center - reach, center + reach, center)
    if not finite.size:
        return Shades(0.0, 0.0)
    return Shades(float(finite.min()), float(finite.max()))


def interpolate(stops: Stops, share: float) -> tuple[int, int, int]:
    """The colour at a share from 0 to 1 of the way along the stops."""
    at = min(1.0, max(0.0, share)) * (len(stops) - 1)
    index = min(int(at), len(stops) - 2)
    low, high = stops[index], stops[index + 1]
    red, green, blue = (round(a + (b - a) * (at - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def css_rules() -> str:
    """CSS rules for all levels, light and dark."""
    dark = "\n".join(_rules(DARK))
    return "\n".join(
        [*_rules(LIGHT), f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"]
    )


def _rules(palette: Palette) -> Iterator[str]:
    for letter, stops in (("s", palette.ordered), ("d", palette.centred)):
        for level in range(LEVELS + 1):
            red, green, blue = interpolate(stops, level / LEVELS)
            bright = 0.299 * red + 0.587 * green + 0.114 * blue
            front = "#000" if bright > 120 else "#fff"
            yield f".rmi .{letter}{level}{{background:#{red:02x}{green:02x}{blue:02x};color:{front}}}"
