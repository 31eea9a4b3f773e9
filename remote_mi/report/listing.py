"""Lines with a cursor: what lists, bars, texts and tables are to the viewer. No screen here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from remote_mi.common.console import captured


@dataclass(frozen=True)
class Item:
    """What a line stands for.

    Attributes:
        said: it in words, for below the list; most important first.
        copied: what copying it gives; "" copies what is said.
        run: folder of the run that choosing it opens. study: name of the study that it opens.
        known: what a search looks through, beside the line itself.
    """

    explanation: tuple[str, ...] = ()
    copy_text: str = ""
    run: Path | None = None
    study: str = ""
    search_text: str = ""


NOTHING = Item()


@dataclass
class Listing:
    """Lines that are made when they are seen, so that a list may be of any length.

    Attributes:
        count: how many lines. line: index → its text. item: index → what it stands for.
        head: lines that stay on top.
        start: index at which the cursor starts.
        empty: what is said in place of no lines.
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
    """A listing of lines that are there already."""
    return Listing(len(lines), lambda i: lines[i][0], lambda i: lines[i][1], head, 0, empty)


def wrap(text: str, width: int, indent: str = "", style: str = "") -> list[Text]:
    """A paragraph cut into lines of a width, at spaces where there are any; safe text expected."""
    found: list[Text] = []
    room = max(10, width - len(indent))
    for paragraph in text.split("\n"):
        pieces = Text(paragraph, style=style).wrap(_CONSOLE, room, tab_size=4)
        found += [Text(indent) + piece for piece in pieces] or [Text()]
    for line in found:
        line.rstrip()
    return found


_CONSOLE = captured(80)
