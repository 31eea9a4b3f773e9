"""Lines with a cursor, as which the viewer shows lists, bars, texts and tables. No widgets here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from remote_mi.common.console import capturing_console


@dataclass(frozen=True)
class Item:
    """What a line represents.

    Attributes:
        explanation: sentences to show below the list, most important first.
        copy_text: text to copy; "" copies the explanation.
        run: folder of the run to open. study: name of the study to open.
        search_text: text to search, in addition to the line itself.
    """

    explanation: tuple[str, ...] = ()
    copy_text: str = ""
    run: Path | None = None
    study: str = ""
    search_text: str = ""


NOTHING = Item()


@dataclass
class Listing:
    """Lines that are made when they come into view, so that a list can have any length.

    Attributes:
        count: number of lines. line: index → its text. item: index → what it represents.
        head: lines that stay on top.
        start: index at which the cursor starts.
        empty: message shown if there are no lines.
    """

    count: int
    line: Callable[[int], Text]
    item: Callable[[int], Item] = lambda index: NOTHING
    head: Sequence[Text] = field(default_factory=tuple)
    start: int = 0
    empty: str = "nothing here"


def make_listing(
    lines: Sequence[tuple[Text, Item]], head: Sequence[Text] = (), empty: str = "nothing here"
) -> Listing:
    """A listing of given lines."""
    return Listing(len(lines), lambda i: lines[i][0], lambda i: lines[i][1], head, 0, empty)


def wrap(text: str, width: int, indent: str = "", style: str = "") -> list[Text]:
    """Wrap a paragraph into lines of a width, at spaces if possible; the text must be safe."""
    found: list[Text] = []
    room = max(10, width - len(indent))
    for paragraph in text.split("\n"):
        pieces = Text(paragraph, style=style).wrap(_CONSOLE, room, tab_size=4)
        found += [Text(indent) + piece for piece in pieces] or [Text()]
    for line in found:
        line.rstrip()
    return found


_CONSOLE = capturing_console(80)
