"""Text for a drawing: which characters its font has, and how much text fits.

Drawings use the font that ships with matplotlib, so that they look the same everywhere. A character
that it lacks would be drawn as a box; PDF and PNG contain its code instead. An SVG keeps it, since
its text is rendered by the viewing program, with the fonts available there.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from remote_mi.common.text import visible

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

FAMILY = "DejaVu Sans"
#: Size at which widths are measured, in points.
_MEASURED = 100
_CUT = "…"


class Pen:
    """Writes the texts of one drawing.

    Args:
        path: file of the drawing; in an .svg, text stays text.
    """

    def __init__(self, path: Path) -> None:
        self._keeps = path.suffix.lower() == ".svg"

    def fit(self, text: str, points: float, size: float) -> str:
        """As much of a text as fits into a width.

        Args:
            text: safe text. points: the width, in points. size: font size, in points.
        """
        text = text.replace("␠", "␣")
        whole = [self._character(character) for character in text]
        if sum(map(_width, whole)) * size <= points:
            return "".join(whole)
        kept, left = "", points / size - _width(_CUT)
        for part in whole:
            left -= _width(part)
            if left < 0:
                break
            kept += part
        return kept + _CUT

    def label(self, text: str, points: float, size: float) -> str:
        """Like `fit`, for a token or other untrusted text."""
        return self.fit(visible(text), points, size)

    def _character(self, character: str) -> str:
        if "\u2400" <= character <= "\u2421":  # the symbol of a control character
            return f"\\x{ord(character) - 0x2400:02x}"
        if self._keeps or ord(character) in _characters():
            return character
        code = ord(character)
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@functools.cache
def _font() -> FT2Font:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    font = FT2Font(
        findfont(FAMILY)
    )  # a separate instance: drawing changes the size of the shared one
    font.set_size(_MEASURED, 72)
    return font


@functools.cache
def _characters() -> frozenset[int]:
    """The characters that the font has."""
    return frozenset(_font().get_charmap())


@functools.lru_cache(4096)
def _width(text: str) -> float:
    """Width of a text, in multiples of the font size; 1 per character that the font lacks."""
    from matplotlib.ft2font import LoadFlags

    total = 0.0
    for character in text:
        if ord(character) in _characters():
            glyph = _font().load_char(ord(character), flags=LoadFlags.NO_HINTING)
            total += glyph.linearHoriAdvance / 65536 / _MEASURED
        else:
            total += 1.0
    return total
