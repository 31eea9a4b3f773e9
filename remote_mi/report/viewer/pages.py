"""Pages of text: why a run failed, where a run comes from, how two compare."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from remote_mi.common.console import captured, text_of
from remote_mi.common.text import line
from remote_mi.report.document.commands import made_by
from remote_mi.report.listing import Item, Listing, of_lines, wrapped
from remote_mi.report.viewer.opened_run import Opened, excerpt

_NAME = 16
_MOST_WORDS = 200


def command_of(opened: Opened) -> str:
    """The command that makes a run; the one that reproduces it where there is no such."""
    return made_by(opened.folder) or f"remote-mi reproduce {opened.named}"


def failure(opened: Opened, width: int) -> Listing:
    """What is wrong with a run: the message, the recipe's lines, the server's words, the advice."""
    found: list[tuple[Text, Item]] = []

    def add(text: str, indent: str = "  ", style: str = "", copied: str = "") -> None:
        for piece in wrapped(text, width, indent, style):
            found.append((piece, Item((text,), copied)))

    for part in opened.problem.splitlines():
        add(line(part))
    lines = excerpt(opened)
    if lines:
        found.append((Text(), Item()))
        add("The recipe, as it was run", " ", "bold")
        for text in lines:
            here = text.startswith("▸")
            found.append((Text(f"  {text}", "bold" if here else "", no_wrap=True), Item((text,))))
    if opened.said:
        found.append((Text(), Item()))
        add("The server's words", " ", "bold")
        for part in opened.said.splitlines()[:_MOST_WORDS]:
            add(line(part))
    found.append((Text(), Item()))
    add("What to do", " ", "bold")
    if opened.advice:
        add(line(opened.advice))
    command = made_by(opened.folder)
    if command:
        add(line(command), copied=command)
    return of_lines(found)


def provenance(opened: Opened, width: int) -> Listing:
    """Where a run comes from, and the commands that make it again."""
    found: list[tuple[Text, Item]] = []

    def title(text: str) -> None:
        if found:
            found.append((Text(), Item()))
        found.append((Text(f" {text}", "bold", no_wrap=True), Item()))

    def row(name: str, value: Any) -> None:
        shown = line(str(value)) if value not in ("", None) else "–"
        item = Item((f"{name}: {shown}",), shown)
        for index, piece in enumerate(wrapped(shown, width - _NAME - 3)):
            start = f"  {line(name):<{_NAME}} " if index == 0 else " " * (_NAME + 3)
            found.append((Text.assemble((start, "dim"), piece), item))

    title("The same again")
    named, command = opened.named, made_by(opened.folder)
    commands = [
        ("reproduce", f"remote-mi reproduce {named}"),
        ("run", command),
        ("verify", f"remote-mi reproduce {named} --verify-only"),
        ("in Python", f"remote_mi.load_run({shlex.split(named)[0]!r})"),
    ]
    for name, text in commands:
        if text:
            item = Item((f"{line(text)}   y copies it",), text)
            for index, piece in enumerate(wrapped(line(text), width - _NAME - 3)):
                start = f"  {name:<{_NAME}} " if index == 0 else " " * (_NAME + 3)
                found.append((Text.assemble((start, "dim"), piece), item))
    title("Where it comes from")
    row("run", opened.name)
    row("folder", opened.folder)
    for note in opened.info.parsed_document.notes if opened.info else []:
        row("note", note)
    source: Mapping[str, Any] = opened.info.provenance if opened.info else {}
    plain = {name: value for name, value in source.items() if not isinstance(value, Mapping)}
    for name, value in plain.items():
        row(str(name), value)
    for name, value in source.items():
        if name not in plain:
            title(line(name))
            for inner, deeper in value.items():
                row(str(inner), deeper)
    return of_lines(found)


def compared(a: Path, b: Path, width: int) -> Listing:
    """Two runs held against each other.

    Raises:
        NotFound, UsageError, Mismatch: if one of them cannot be read.
    """
    from remote_mi.report.comparison import show
    from remote_mi.store.comparison import compare

    console = captured(max(40, width - 1), color=True, highlight=False)
    show(compare(str(a), str(b)), console)
    drawn = text_of(console)
    lines = [Text.from_ansi(text, no_wrap=True) for text in drawn.splitlines()]
    return of_lines([(text, Item((text.plain.strip(),))) for text in lines])
