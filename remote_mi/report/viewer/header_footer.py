"""What surrounds the figures: the line of panels, the footer, themes, and exporting the screen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.app import App
from textual.message import Message
from textual.theme import Theme
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from remote_mi.common.text import pad_or_cut
from remote_mi.report import colors
from remote_mi.report.viewer.keys import key_hints

DARK, LIGHT = "remote-mi-dark", "remote-mi-light"
THEMES = (
    Theme(
        DARK,
        primary="#6ea8fe",
        secondary="#ffa032",
        accent="#ffa032",
        warning="#ffb454",
        error="#ff7b72",
        success="#7ee787",
        foreground="#d6d9de",
        background="#101216",
        surface="#171a20",
        panel="#1e222a",
        dark=True,
    ),
    Theme(
        LIGHT,
        primary="#1454b8",
        secondary="#b35900",
        accent="#b35900",
        warning="#8a4b00",
        error="#b3261e",
        success="#1a7f37",
        foreground="#22262c",
        background="#fbfbf9",
        surface="#f1f1ee",
        panel="#e8e8e4",
        dark=False,
    ),
)
#: Maximum cells of a panel's name if not all names fit.
_CUT = 20
#: Seconds for which a message replaces the keys.
_MESSAGE_SECONDS = 5.0
_MESSAGES = {
    "information": ("", "bold"),
    "warning": ("! ", "bold"),
    "error": ("! ", "bold reverse"),
}
PALETTES = {DARK: colors.DARK, LIGHT: colors.LIGHT}


class PanelLine(Widget):
    """The names of the panels on one line, as many around the current one as fit."""

    DEFAULT_CSS = "PanelLine { height: 1; width: 100%; }"

    class Picked(Message):
        """The name of a panel was clicked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.names: Sequence[str] = ()
        self.current = 0
        self._ends: list[tuple[int, int, int]] = []

    def show(self, names: Sequence[str], current: int) -> None:
        self.names, self.current = names, current
        self.refresh()

    def _labels(self, room: int) -> list[str]:
        numbered = [f"{i + 1} {name}" if i < 9 else name for i, name in enumerate(self.names)]
        if sum(cell_len(x) + 2 for x in numbered) > room:  # cut the other names first
            numbered = [
                x if i == self.current or cell_len(x) <= _CUT else pad_or_cut(x, _CUT)
                for i, x in enumerate(numbered)
            ]
        return [f"[{x}]" if i == self.current else f" {x} " for i, x in enumerate(numbered)]

    def render(self) -> Text:
        room = self.size.width - 4
        labels = self._labels(room)
        first = last = self.current
        used = cell_len(labels[self.current]) if labels else 0
        while labels:  # extend to both sides, later panels first
            grown = False
            for at in (last + 1, first - 1):
                if 0 <= at < len(labels) and used + cell_len(labels[at]) <= room:
                    first, last, grown = min(first, at), max(last, at), True
                    used += cell_len(labels[at])
            if not grown:
                break
        text = Text("‹" if first > 0 else " ", "dim", no_wrap=True, overflow="ellipsis")
        self._ends = []
        for at in range(first, last + 1 if labels else first):
            start = text.cell_len
            text.append(labels[at], "bold reverse" if at == self.current else "")
            self._ends.append((start, text.cell_len, at))
        text.append(" ›" if labels and last < len(labels) - 1 else "", "dim")
        return text

    def on_click(self, event: events.Click) -> None:
        for start, end, index in self._ends:
            if start <= event.x < end:
                self.post_message(self.Picked(index))


class Footer(Static):
    """The keys on the last line, replaced by a message for a while, so that it hides no cell."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id, markup=False)
        self._message: Text | None = None
        self._timer: Timer | None = None

    def show(self, width: int) -> None:
        """Draw the line for a screen of this width."""
        if self._message is None:
            self.update(key_hints(width))
            return
        text = self._message.copy()
        text.truncate(max(10, width - 1), overflow="ellipsis")
        self.update(text)

    def show_message(self, text: str, severity: str = "information") -> None:
        """Show a message; `severity` is "information", "warning" or "error"."""
        sign, style = _MESSAGES[severity]
        self._message = Text(f" {sign}{text}", style, no_wrap=True)
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_MESSAGE_SECONDS, self._clear_message)
        self.show(self.app.size.width)

    def _clear_message(self) -> None:
        self._message = None
        self.show(self.app.size.width)


def screen_text(app: App) -> str:
    """The screen as lines of text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def screen_picture(app: App, title: str) -> str:
    """The screen as an SVG that loads no fonts."""
    svg = app.export_screenshot(title=title)
    return re.sub(r"@font-face\s*\{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)


def export(app: App, folder: Path, name: str, title: str) -> tuple[Path, Path]:
    """Write the screen as a picture and as text, without overwriting existing files.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:120] or "screen"
    number, unique = 1, stem
    while (folder / f"{unique}.svg").exists() or (folder / f"{unique}.txt").exists():
        number += 1
        unique = f"{stem}-{number}"
    picture, text = folder / f"{unique}.svg", folder / f"{unique}.txt"
    picture.write_text(screen_picture(app, title), encoding="utf-8")
    text.write_text(screen_text(app), encoding="utf-8")
    return picture, text
