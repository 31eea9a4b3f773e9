"""Where a command's words go: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from remote_mi.common.console import terminal_console
from remote_mi.common.errors import NotFound, sanitize
from remote_mi.common.progress import Silent, Watch

SCHEMA = 1


def stdout_console(width: int | None = None) -> Console:
    """A console on stdout; no colour when piped or with NO_COLOR, 80 columns when unknown."""
    if width is None and not sys.stdout.isatty():
        width = 80
    return terminal_console(width=width, highlight=False)


def say(text: str) -> None:
    """A line for the user on stderr; what a server or a file said in it cannot move the cursor."""
    print(sanitize(text), file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """One JSON document on stdout, with the schema's version."""
    print(json.dumps({"schema": SCHEMA, **data}, indent=1, allow_nan=False))


def in_a_folder(path: Path) -> None:
    """Refuse a file whose folder is not there: it may be a slip of the pen.

    Raises:
        NotFound: if there is none.
    """
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", "make it first")


@contextmanager
def watching(quiet: bool) -> Iterator[Watch]:
    """A watch for long work: a live line on a terminal, plain lines otherwise, or nothing.

    What a recipe prints meanwhile goes to stderr: stdout is for the data of the command.
    """
    with redirect_stdout(sys.stderr):  # a command has its process for itself
        if quiet:
            yield Silent()
        elif sys.stderr.isatty():
            from remote_mi.cli.live import LiveWatch

            with LiveWatch() as watch:
                yield watch
        else:
            yield LineWatch()


class LineWatch:
    """One line a stage; for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def stage(self, text: str) -> None:
        if text != self._last:
            say(f"… {text}")
        self._last = text

    def advance(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, text: str) -> None:
        say(text)
