"""Rich consoles: for the terminal, and for capturing output as text.

In a notebook, rich displays everything printed to any console, even one with a file, as one output
per line. We show a single HTML element there instead, so every console opts out of that.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.rule import Rule
from rich.segment import Segment
from rich.text import Text

from remote_mi.common.errors import sanitize


class SafeConsole(Console):
    """A console that prints no control character but its own, whatever it is given.

    Texts are made safe, and visible, where they are laid out (`remote_mi.common.text`); this
    replaces what was not.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of something to print, as rich asks for them."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(sanitize(segment.text), segment.style)


def terminal_console(**options: Any) -> Console:
    """A console on stdout or stderr, depending on the options (rich's own)."""
    return SafeConsole(force_jupyter=False, **options)


def capturing_console(width: int, color: bool = False, **options: Any) -> Console:
    """A console whose output is collected: see `captured_text`.

    Args:
        width: in columns. color: whether styles are kept, as escape codes.
        options: rich's other options.
    """
    system: Any = "truecolor" if color else None
    return SafeConsole(
        file=io.StringIO(),
        width=width,
        color_system=system,
        force_terminal=color,
        force_jupyter=False,
        legacy_windows=False,
        **options,
    )


def captured_text(console: Console) -> str:
    """Everything that was printed to a capturing console."""
    return console.file.getvalue()  # type: ignore[attr-defined]


def printed_text(show: Callable[[Console], Any], width: int) -> str:
    """What a function prints on a console of so many columns, as text without colour."""
    console = capturing_console(width)
    show(console)
    return captured_text(console)


def print_heading(title: str, console: Console) -> None:
    """Print an empty line, and a title in a rule."""
    console.print()
    console.print(Rule(Text(title), align="left", characters="─"))
