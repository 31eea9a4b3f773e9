"""Pages of text: why a run failed, its provenance, the comparison of two runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from remote_mi.common.console import captured_text, capturing_console
from remote_mi.common.text import line
from remote_mi.report.document.commands import command_for_run
from remote_mi.report.listing import Item, Listing, make_listing, wrap
from remote_mi.report.viewer.opened_run import OpenedRun, recipe_excerpt
from remote_mi.report.wording import verdict_text

_NAME = 16
_MOST_WORDS = 200


def repeat_command(opened: OpenedRun) -> str:
    """The command that makes a run, or else the one that reproduces it."""
    return command_for_run(opened.folder) or f"remote-mi reproduce {opened.argument}"


def failure_listing(opened: OpenedRun, width: int) -> Listing:
    """What is wrong with a run: error, lines of the recipe, message of the server, advice."""
    rows: list[tuple[Text, Item]] = []

    def add(text: str, indent: str = "  ", style: str = "", copied: str = "") -> None:
        for piece in wrap(text, width, indent, style):
            rows.append((piece, Item((text,), copied)))

    for part in opened.problem.splitlines():
        add(line(part))
    lines = recipe_excerpt(opened)
    if lines:
        rows.append((Text(), Item()))
        add("The recipe, as it was run", " ", "bold")
        for text in lines:
            here = text.startswith("▸")
            rows.append((Text(f"  {text}", "bold" if here else "", no_wrap=True), Item((text,))))
    if opened.server_message:
        rows.append((Text(), Item()))
        add("The server's message", " ", "bold")
        for part in opened.server_message.splitlines()[:_MOST_WORDS]:
            add(line(part))
    rows.append((Text(), Item()))
    add("What to do", " ", "bold")
    if opened.advice:
        add(line(opened.advice))
    command = command_for_run(opened.folder)
    if command:
        add(line(command), copied=command)
    return make_listing(rows)


def provenance_listing(opened: OpenedRun, width: int) -> Listing:
    """The provenance of a run, and the commands that repeat it."""
    rows: list[tuple[Text, Item]] = []

    def title(text: str) -> None:
        if rows:
            rows.append((Text(), Item()))
        rows.append((Text(f" {text}", "bold", no_wrap=True), Item()))

    def row(name: str, value: Any) -> None:
        shown = line(str(value)) if value not in ("", None) else "–"
        item = Item((f"{name}: {shown}",), shown)
        for index, piece in enumerate(wrap(shown, width - _NAME - 3)):
            start = f"  {line(name):<{_NAME}} " if index == 0 else " " * (_NAME + 3)
            rows.append((Text.assemble((start, "dim"), piece), item))

    title("How to repeat it")
    named, command = opened.argument, command_for_run(opened.folder)
    commands = [
        ("reproduce", f"remote-mi reproduce {named}"),
        ("run", command),
        ("verify", f"remote-mi reproduce {named} --verify-only"),
        ("in Python", f"remote_mi.load_run({shlex.split(named)[0]!r})"),
    ]
    for name, text in commands:
        if text:
            item = Item((f"{line(text)}   y copies it",), text)
            for index, piece in enumerate(wrap(line(text), width - _NAME - 3)):
                start = f"  {name:<{_NAME}} " if index == 0 else " " * (_NAME + 3)
                rows.append((Text.assemble((start, "dim"), piece), item))
    title("Where it comes from")
    row("run", opened.name)
    row("folder", opened.folder)
    if opened.result is not None and (verdict := verdict_text(opened.result)):
        row("verdict", verdict)
    for note in opened.info.parsed_document.notes if opened.info else []:
        row("note", note)
    source: Mapping[str, Any] = opened.info.provenance if opened.info else {}
    plain = {name: value for name, value in source.items() if not isinstance(value, Mapping)}
    for name, value in plain.items():
        row(str(name), value)
    for name, value in source.items():
        if name == "artifacts" and opened.info:
            title("artifacts")
            for parameter, one in opened.info.made.artifacts.items():
                row(parameter, one.described)
        elif name not in plain:
            title(line(name))
            for inner, deeper in value.items():
                row(str(inner), deeper)
    return make_listing(rows)


def comparison_listing(a: Path, b: Path, width: int) -> Listing:
    """The comparison of two runs.

    Raises:
        NotFound, UsageError, Mismatch: if one of them cannot be read.
    """
    from remote_mi.report.comparison import show
    from remote_mi.store.comparison import compare

    console = capturing_console(max(40, width - 1), color=True, highlight=False)
    show(compare(str(a), str(b)), console)
    drawn = captured_text(console)
    lines = [Text.from_ansi(text, no_wrap=True) for text in drawn.splitlines()]
    return make_listing([(text, Item((text.plain.strip(),))) for text in lines])
