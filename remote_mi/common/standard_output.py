"""A command's stdout, kept for its data: what other code prints goes to stderr.

In a program or a notebook nothing is reserved, and prints stay where they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any, TextIO

#: The stream that holds a command's data; None while no command runs.
_reserved: TextIO | None = None


def take_stdout() -> None:
    """Keep this process's stdout for `sys.stdout`; whatever else writes to descriptor 1 (C code,
    a subprocess, a forked child) writes to stderr from now on."""
    if sys.stderr is None:  # closed by the caller; `print(file=None)` would mean stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    given: Any = sys.stdout
    try:
        if given.fileno() != 1:
            return
    except (AttributeError, OSError, ValueError):  # closed, or a program's own
        return
    lines = given.line_buffering or given.write_through
    sys.stdout = open(  # noqa: SIM115 - open until the process ends
        os.dup(1),
        "w",
        encoding=given.encoding,
        errors=given.errors,
        buffering=1 if lines else -1,
    )
    os.dup2(sys.stderr.fileno(), 1)


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
