"""Where a command's output goes: data to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.common.errors import NotFound, sanitize
from remote_mi.common.progress import LONG_S, Pace, Silent, Watch, describe_progress
from remote_mi.common.streams import prints_to_stderr
from remote_mi.common.valid_json import to_json

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
#: Longest time between two lines about how far work is, in seconds.
_RAREST_S = 60.0


def stdout_console(width: int | None = None) -> Console:
    """A console on stdout; without colour when piped or with NO_COLOR, 80 columns when piped."""
    from remote_mi.common.console import terminal_console  # imports rich, which -q does not need

    if width is None and not sys.stdout.isatty():
        width = 80
    return terminal_console(width=width, highlight=False)


def say(text: str) -> None:
    """Print a message to stderr; text in it from a server or a file cannot move the cursor."""
    print(sanitize(text), file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """Print one JSON document to stdout, with the schema version."""
    print(to_json({"schema": SCHEMA, **data}, indent=1))


def shorten_path(path: Path) -> str:
    """A path relative to the working directory if it lies below it, else unchanged."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def check_folder_exists(path: Path) -> None:
    """Check that the folder of an output file exists: a missing one may be a typo.

    Raises:
        NotFound: if it does not.
    """
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", "create it first")


@contextmanager
def show_progress(quiet: bool, form: str | None = None) -> Iterator[Watch]:
    """A watch for long work: a live line on a terminal, plain lines otherwise, or nothing.

    Whatever a recipe prints meanwhile goes to stderr: stdout is for the command's data.

    Args:
        form: "json" for lines of JSON, also if quiet; None to choose.
    """
    with prints_to_stderr():
        if form == "json":
            yield JsonWatch()
        elif quiet:
            yield Silent()
        elif sys.stderr.isatty():
            from remote_mi.cli.live import LiveWatch

            with LiveWatch() as watch:
                yield watch
        else:
            yield LineWatch()


class LineWatch:
    """One line per stage, for logs and pipes; of a long one also, ever more rarely, how far it is."""

    def __init__(self) -> None:
        self._last = ""
        self._begin()

    def _begin(self) -> None:
        self._pace, self._next = Pace(), LONG_S

    def stage(self, text: str) -> None:
        if text != self._last:
            say(f"… {text}")
        self._last = text
        self._begin()

    def advance(self, done: int, total: int, unit: str) -> None:
        seconds = self._pace.seconds
        if seconds < self._next or done < 1 or done == total:
            return
        self._next = seconds + min(max(seconds, LONG_S), _RAREST_S)
        say(f"… {describe_progress(done, total, unit, self._pace.seconds_left(done, total))}")

    def note(self, text: str) -> None:
        say(text)


class JsonWatch:
    """Every event as a line of JSON on stderr, for programs.

    `event` is "stage", "progress" or "note"; other keys are `text`, or `done`, `total` (null if it
    is not known), `unit`, `seconds` since the stage began, and `seconds_left` (null if not known).

    Args:
        about: keys of every line.
    """

    def __init__(self, about: Mapping[str, Any] | None = None) -> None:
        self._about = dict(about or {})
        self._pace = Pace()

    def _write(self, event: str, **content: Any) -> None:
        print(to_json({"event": event, **self._about, **content}), file=sys.stderr, flush=True)

    def stage(self, text: str) -> None:
        self._pace = Pace()
        self._write("stage", text=text)

    def advance(self, done: int, total: int, unit: str) -> None:
        left = self._pace.seconds_left(done, total)
        self._write(
            "progress",
            done=done,
            total=total or None,
            unit=unit,
            seconds=round(self._pace.seconds, 1),
            seconds_left=None if left is None else round(left, 1),
        )

    def note(self, text: str) -> None:
        self._write("note", text=text)
