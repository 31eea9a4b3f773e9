"""Every key of the viewer in one table, which the bindings, the help page and the tests use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


@dataclass(frozen=True)
class Key:
    """Keys with the same action.

    Attributes:
        keys: Textual's names of the keys, separated by commas. action: the app's action.
        label: the keys as shown on the help page. text: description of the action.
        hint: text for the line at the bottom; "" if they are not shown there.
    """

    keys: str
    action: str
    label: str
    text: str
    hint: str = ""


SECTIONS: tuple[tuple[str, tuple[Key, ...]], ...] = (
    (
        "Move",
        (
            Key("up", "move(-1,0)", "↑", "up", "↑↓←→ move"),
            Key("down", "move(1,0)", "↓", "down"),
            Key("left", "move(0,-1)", "←", "left"),
            Key("right", "move(0,1)", "→", "right"),
            Key("pageup", "page(-1)", "PgUp", "a screen up"),
            Key("pagedown", "page(1)", "PgDn", "a screen down"),
            Key("home", "move(0,-100000)", "Home", "first column"),
            Key("end", "move(0,100000)", "End", "last column"),
            Key("ctrl+home", "move(-1000000,-100000)", "Ctrl+Home", "the beginning"),
            Key("ctrl+end", "move(1000000,100000)", "Ctrl+End", "the end"),
            Key("g", "largest(1)", "g", "largest effect; again: the next", "g largest"),
            Key("G", "largest(-1)", "G", "back to the previous, larger effect"),
            Key("slash", "find", "/", "find a token, row or word", "/ find"),
            Key("n", "match(1)", "n", "next match"),
            Key("N", "match(-1)", "N", "previous match"),
        ),
    ),
    (
        "Choose what is shown",
        (
            Key("tab", "panel(1)", "Tab", "next panel", "Tab panel"),
            Key("shift+tab", "panel(-1)", "Shift+Tab", "previous panel"),
            Key("1,2,3,4,5,6,7,8,9", "digit", "1 … 9", "the panel with this number"),
            Key("m", "metric(1)", "m", "next output of the same dimensions", "m metric"),
            Key("M", "metric(-1)", "M", "previous output"),
            Key("l", "slice('layer',1)", "l", "next layer", "l/c/p slice"),
            Key("L", "slice('layer',-1)", "L", "previous layer"),
            Key("c", "slice('component',1)", "c", "next head or component"),
            Key("C", "slice('component',-1)", "C", "previous head or component"),
            Key("p", "slice('pair',1)", "p", "a single pair; again: the next"),
            Key("P", "slice('pair',-1)", "P", "previous pair; before the first: all"),
            Key("s", "slice('other',1)", "s", "next seed, direction, …"),
            Key("S", "slice('other',-1)", "S", "previous seed, direction, …"),
            Key("z", "zoom", "z", "zoom to rows (18-24); empty: all", "z zoom"),
        ),
    ),
    (
        "Runs",
        (
            Key("enter", "choose", "Enter", "open the run or study under the cursor"),
            Key("x,space", "mark", "x  Space", "mark or unmark the run"),
            Key("equals_sign", "compare", "=", "compare the two marked runs"),
            Key("r", "reload", "r", "reload the list"),
        ),
    ),
    (
        "Copy and export",
        (
            Key("y", "copy('value')", "y", "copy the value or line at the cursor", "y copy"),
            Key("Y", "copy('command')", "Y", "copy the command that repeats this run"),
            Key("e", "export", "e", "export the screen as SVG and text", "e export"),
            Key("w", "words", "w", "describe this figure in words"),
        ),
    ),
    (
        "The viewer",
        (
            Key("d", "dark", "d", "dark or light theme"),
            Key("ctrl+p", "command_palette", "Ctrl+P", "all commands by name"),
            Key("question_mark", "help", "?", "this page", "? help"),
            Key("escape", "back", "Esc", "back: close help, the search, a study"),
            Key("q", "quit", "q", "quit", "q quit"),
            Key("ctrl+c", "interrupt", "Ctrl+C", "quit from anywhere (exit code 130)"),
        ),
    ),
)
ALL = tuple(key for _, keys in SECTIONS for key in keys)
#: Hints that are kept on narrow screens, where others are dropped from the end.
_ALWAYS = ("? help", "q quit")


def bindings() -> list[Binding]:
    """The bindings of the app; they are off while the input box is open (`Viewer.check_action`)."""
    made = []
    for key in ALL:
        for name in key.keys.split(","):
            action = f"number({name})" if key.action == "digit" else key.action
            # Priority: each key is handled before the next, however fast they come.
            made.append(Binding(name, action, key.text, show=False, priority=True))
    return made


def key_hints(width: int) -> Text:
    """The line at the bottom: as many keys as fit."""
    hints = [key.hint for key in ALL if key.hint and key.hint not in _ALWAYS]
    while hints and len("  ".join([*hints, *_ALWAYS])) > width - 2:
        hints.pop()
    text = Text(" ", no_wrap=True)
    for hint in [*hints, *_ALWAYS]:
        name, _, what = hint.partition(" ")
        text.append(name, "bold")
        text.append(f" {what}  ")
    return text


def help_text() -> Text:
    """The text of the help page."""
    text = Text()
    for title, keys in SECTIONS:
        text.append(f"{title}\n", "bold underline")
        for key in keys:
            text.append(f"  {key.label:<10}", "bold")
            text.append(f" {key.text}\n")
        text.append("\n")
    text.append(
        "A click moves the cursor, a double click opens a run; the wheel scrolls.\n\n"
        "Blue is below the centre and orange above it; on maps without a centre, yellow and dark "
        "blue are the two ends. The symbol before a number shows its magnitude without colour: "
        "· ░ ▒ ▓ █ from low to high, or ~ where a control explains the value. "
        "? means no number."
    )
    return text


class Page(ModalScreen[None]):
    """A page of text on top of the screen; Esc, q, ?, w and Enter close it."""

    AUTO_FOCUS = "VerticalScroll"
    CSS = """
    Page { align: center middle; }
    Page > VerticalScroll {
        width: 92%; max-width: 96; height: auto; max-height: 92%;
        border: round $primary 60%; padding: 0 1; background: $surface;
        scrollbar-size: 1 1; scrollbar-color: $primary 45%; scrollbar-background: $surface;
    }
    Page Static { width: 100%; height: auto; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding(key, "leave", show=False) for key in ("escape", "q", "question_mark", "enter", "w")
    ]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll() as frame:
            frame.border_title = self._title
            frame.border_subtitle = "↑↓ scroll, Esc closes"
            yield Static(self._text, markup=False)

    def action_leave(self) -> None:
        self.dismiss()
