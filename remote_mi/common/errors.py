"""Everything that can go wrong for a user, each with its exit code and what to type next.

An error of this family reaches the user as one message and no traceback (unless `--debug`).
Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class RemoteMIError(Exception):
    """A problem the user can act on.

    Attributes:
        exit_code: what the command line exits with.
        retryable: whether the same command may succeed later, unchanged.
        message: what is wrong. hint: what to type or change next; shown on a line of its own.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class Detached(KeyboardInterrupt):
    """Ctrl-C while a remote job was waited for: the job goes on, and the message says how to
    come back to it."""


class RunFailed(RemoteMIError):
    """The job was executed and failed: an error in the recipe, or no memory left."""

    exit_code = 1


class StoreError(RemoteMIError):
    """A result could not be kept: no space, no permission."""

    exit_code = 1


class UsageError(RemoteMIError):
    """The command, a parameter, a prompt, a recipe or a configuration file is wrong."""

    exit_code = 2


class FormerVersion(UsageError):
    """A file was written for an earlier version of remote_mi, which this one does not read."""


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
    """The wait ended while the job still runs."""

    exit_code = 6


class Mismatch(RemoteMIError):
    """Stored bytes or a reproduced result are not what they should be."""

    exit_code = 7


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name closest to `word`, or None when nothing is close."""
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


def line_in(error: BaseException, file: Path, otherwise: int = 0) -> int:
    """The last line of a file that an error passed through."""
    line, trace = otherwise, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def first_line(error: BaseException) -> str:
    """The first line an error says, or its type where it says nothing."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__


def harmless(text: str) -> str:
    """The text without characters that a terminal would act on, newlines and tabs apart."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
