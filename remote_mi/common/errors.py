"""The errors a user can run into, each with its exit code and a hint about what to type next.

These errors reach the user as a single message without a traceback (unless `--debug`).
Any other exception that escapes is a bug in remote_mi.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class RemoteMIError(Exception):
    """A problem the user can act on.

    Attributes:
        exit_code: exit code of the command line.
        retryable: whether the same command may succeed if repeated unchanged.
        message: what is wrong. hint: what to type or change next; shown on a separate line.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), self.args, self.__dict__)


def restore(kind: type[RemoteMIError], args: tuple[Any, ...], state: Mapping[str, Any]) -> Any:
    """An error from another process; its class may take other arguments than a message."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Detached(KeyboardInterrupt):
    """Ctrl-C while waiting for a remote job: the job continues, and the message says how to
    get back to it."""


class RunFailed(RemoteMIError):
    """The job ran and failed: an error in the recipe, or out of memory."""

    exit_code = 1


class StoreError(RemoteMIError):
    """A result could not be stored: no space, no permission."""

    exit_code = 1


class OutputError(RemoteMIError):
    """The output of a command could not be written: stdout is closed, or its disk is full."""

    exit_code = 1


class UsageError(RemoteMIError):
    """The command, a parameter, a prompt, a recipe or a configuration file is wrong."""

    exit_code = 2


class FormerVersion(UsageError):
    """A file was written for an earlier version of remote_mi and is no longer supported."""


class NotFound(RemoteMIError):
    """A recipe, phenomenon, model or run of that name does not exist."""

    exit_code = 3


class AuthenticationError(RemoteMIError):
    """A key is missing, malformed or unknown."""

    exit_code = 4


class BackendUnavailable(RemoteMIError):
    """The backend cannot be reached, or does not host the model."""

    exit_code = 5


class WaitTimeout(RemoteMIError):
    """The wait timed out while the job was still running."""

    exit_code = 6


class Mismatch(RemoteMIError):
    """Stored bytes or a reproduced result differ from what is expected."""

    exit_code = 7


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name closest to `word`, or None if nothing is close."""
    import difflib  # rarely needed, and this file is imported at every start

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def not_found(what: str, word: str, known: Iterable[str], listing: str) -> NotFound:
    """A `NotFound` that suggests the nearest name and the command that lists them all.

    Args:
        what: the kind of thing, e.g. "recipe".
        word: what was given.
        known: the names that exist.
        listing: the command that lists them.
    """
    close = nearest(word, known)
    suggestion = f"did you mean {close!r}? " if close else ""
    return NotFound(f"no {what} named {word!r}", f"{suggestion}`{listing}` lists them all")


#: Fewest letters of an id that name something that is to be deleted or given up.
LEAST_LETTERS = 4


def check_exact(what: str, wanted: str) -> None:
    """Check that a word is meant to name one thing, before that is deleted or given up.

    Raises:
        UsageError: if it is a path, or shorter than `LEAST_LETTERS`.
    """
    if len(wanted) < LEAST_LETTERS or not wanted.isprintable() or {"/", "\\"} & set(wanted):
        shown = repr(wanted) if len(wanted) <= 60 else f"{wanted[:60]!r}…"
        raise UsageError(
            f"{shown} is not the id of a {what}",
            f"give its id, or at least the first {LEAST_LETTERS} letters of it",
        )


def system_error(error: OSError) -> RemoteMIError:
    """An error of the system (a file that cannot be read, a folder that is gone) for the user."""
    try:
        os.getcwd()
    except OSError:
        return NotFound(
            "the working folder no longer exists", "`cd` to one that exists and run again"
        )
    reason = error.strerror or first_line(error)
    if error.filename is None:
        return RemoteMIError(
            f"the system refused: {type(error).__name__}: {reason}", "--debug shows where"
        )
    return RemoteMIError(
        f"cannot use {error.filename}: {reason}",
        "make it accessible, or name another; --debug shows where it is needed",
    )


def line_number_in(error: BaseException, file: Path, otherwise: int = 0) -> int:
    """The innermost line of a file in an error's traceback, else `otherwise`."""
    from pathlib import Path  # this file is imported at every start, and help uses no path

    line, trace = otherwise, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty.

    A line that announces others by a colon is followed by the last one, which says what happened.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") and lines[1:] else lines[0]


def sanitize(text: str) -> str:
    """Replace characters that a terminal would act on, except newlines and tabs."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
