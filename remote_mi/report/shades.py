"""From values to the colour levels of HTML figures, and the style sheet's rules for them.

A cell carries a class, not a colour: `s0` … `s32` of the sequential map, `d0` … `d32` of the
diverging one. So a page is small, dark and light differ by the style sheet alone, and no cell
needs a style of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from remote_mi.report.colors import DARK, LIGHT, Palette, Stops

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
        """First letter of the classes of its levels."""
        return "s" if self.center is None else "d"

    def level(self, value: float) -> int | None:
        """Level of a value, from 0 to `LEVELS`; None for what is no number."""
        if not np.isfinite(value):
            return None
        if self.high <= self.low:
            return LEVELS // 2 if self.center is not None else 0
        share = (value - self.low) / (self.high - self.low)
        return min(LEVELS, max(0, round(share * LEVELS)))


def shades(values: np.ndarray, center: float | None) -> Shades:
    """The scale that spans all finite values, alike to both sides of a centre."""
    finite = values[np.isfinite(values)]
    if center is not None:
        reach = float(np.abs(finite - center).max()) if finite.size else 0.0
        return Shades(center - reach, center + reach, center)
    if not finite.size:
        return Shades(0.0, 0.0)
    return Shades(float(finite.min()), float(finite.max()))


def between(stops: Stops, share: float) -> tuple[int, int, int]:
    """The colour at a share from 0 to 1 of the way along some stops."""
    at = min(1.0, max(0.0, share)) * (len(stops) - 1)
    index = min(int(at), len(stops) - 2)
    low, high = stops[index], stops[index + 1]
    red, green, blue = (round(a + (b - a) * (at - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def rules() -> str:
    """The style sheet's rules for all levels, light and dark."""
    dark = "\n".join(_rules(DARK))
    return "\n".join(
        [*_rules(LIGHT), f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"]
    )


def _rules(palette: Palette) -> Iterator[str]:
    for letter, stops in (("s", palette.ordered), ("d", palette.centred)):
        for level in range(LEVELS + 1):
            red, green, blue = between(stops, level / LEVELS)
            bright = 0.299 * red + 0.587 * green + 0.114 * blue
            front = "#000" if bright > 120 else "#fff"
            yield f".rmi .{letter}{level}{{background:#{red:02x}{green:02x}{blue:02x};color:{front}}}"
