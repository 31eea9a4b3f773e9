"""The standard streams of a command, whatever they are connected to.

Stdout is kept for a command's data: what other code prints goes to stderr. In a program or a
notebook nothing is reserved, and prints stay where they are.

A terminal's encoding may lack characters that we print; a stream may be closed, full, or connected
to a program that has gone. Results are data, so a failure to write to stdout is an error; messages
on stderr that cannot be written are dropped.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any, TextIO

from remote_mi.common.errors import OutputError

#: What an encoding lacks → characters of the same width that every encoding has.
_PLAIN = {
    **dict.fromkeys("─╌–—−", "-"),
    **dict.fromkeys("│‖", "|"),
    **dict.fromkeys("┴└├┼┤┬┌┐┘", "+"),
    **dict.fromkeys("█▓", "#"),
    **dict.fromkeys("▒░", ":"),
    **dict.fromkeys("→▸▶›", ">"),
    **dict.fromkeys("←◂‹", "<"),
    **dict.fromkeys("“”", '"'),
    "…": ".",
    "·": ".",
    "␠": "_",
    "×": "x",
    "✓": "v",
    "✗": "x",
    "●": "o",
    "↑": "^",
    "↓": "v",
}
_REPLACE = "remote_mi.replace"


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoders: similar characters, or question marks of the same width."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = []
    for character in error.object[error.start : error.end]:
        plain = _PLAIN.get(character) or unicodedata.normalize("NFKD", character)[0]
        wide = unicodedata.east_asian_width(character) in "WF"
        parts.append(plain if plain.isascii() and not wide else "??" if wide else "?")
    return "".join(parts), error.end


codecs.register_error(_REPLACE, replace_unencodable)


def set_up_streams() -> None:
    """Make the standard streams of this process usable.

    Stdout is for `sys.stdout` alone: whatever else writes to descriptor 1 (C code, a subprocess, a
    forked child) writes to stderr from now on. Missing characters are replaced. Closed streams are opened, so that no other file gets their
    number: stdout so that writing fails, stderr so that it does nothing.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            _reopen(number, flags)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout, _Output, os.dup(1))
        os.dup2(2, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr, _Messages, 2)


def discard_output() -> None:
    """Connect stdout to nothing, so that what could not be written is not tried again at exit."""
    _reopen(sys.stdout.fileno(), os.O_WRONLY)


def _reopen(number: int, flags: int) -> None:
    nothing = os.open(os.devnull, flags)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)
    os.set_inheritable(number, True)


class ReaderGone(Exception):
    """Whoever was reading stdout has gone; no OSError, for which libraries would end the process."""


class _Output(io.FileIO):
    """Stdout: a failure to write is an `OutputError`, unless the reader has gone."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise OutputError(
                f"the output cannot be written to stdout: {reason}",
                "send it elsewhere, e.g. `> FILE`; what was computed is kept",
            ) from None


class _Messages(io.FileIO):
    """Stderr: what cannot be written is dropped."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            return len(content)


def _stream(given: Any, kind: type[_Output] | type[_Messages], number: int) -> io.TextIOWrapper:
    """A stream like the one given by Python, or in its place if it was closed."""
    if given is not None:
        given.reconfigure(errors=_REPLACE)  # the viewer writes to it directly
    raw = kind(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=given.encoding if given is not None else "utf-8",
        errors=_REPLACE,
        line_buffering=given is None or given.line_buffering,
        write_through=kind is _Messages or (given is not None and given.write_through),
    )


#: The stream that holds a command's data; None while no command runs.
_reserved: TextIO | None = None


@contextmanager
def stdout_reserved() -> Iterator[None]:
    """A context in which `prints_to_stderr` redirects prints; for one command."""
    global _reserved
    before, _reserved = _reserved, sys.stdout
    try:
        yield
    finally:
        _reserved = before


def prints_to_stderr() -> AbstractContextManager[Any]:
    """A context in which prints go to stderr if stdout is reserved; else they stay as they are."""
    if _reserved is None or sys.stdout is not _reserved:
        return nullcontext()
    return redirect_stdout(sys.stderr)
