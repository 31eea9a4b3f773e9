"""Consoles of rich: on the terminal, and as text that goes elsewhere.

In a notebook rich displays by itself whatever any console of the process is told, file or not, one
output a line. What a notebook shows of ours is one HTML element, so every console is told that it
is not there for that.
"""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console


def on_terminal(**options: Any) -> Console:
    """A console on stdout or stderr, as the options say (those of rich)."""
    return Console(force_jupyter=False, **options)


def captured(width: int, color: bool = False, **options: Any) -> Console:
    """A console whose output is kept: `console.file.getvalue()`.

    Args:
        width: in columns. color: whether styles are kept, as escape codes.
        options: others of rich.
    """
    system: Any = "truecolor" if color else None
    return Console(
        file=io.StringIO(),
        width=width,
        color_system=system,
        force_terminal=color,
        force_jupyter=False,
        legacy_windows=False,
        **options,
    )


def text_of(console: Console) -> str:
    """What a captured console was told."""
    return console.file.getvalue()  # type: ignore[attr-defined]
