"""Running code that others wrote: recipes, analyses, figures, chat templates, plug-ins.

Whatever it does, the program around it goes on. An attempt to end the process becomes an ordinary
exception, `ProcessEnded`, at the line where it was made, so that whoever runs the code reports it
like any other mistake in it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from remote_mi.common.errors import first_line
from remote_mi.common.streams import prints_to_stderr


class ProcessEnded(Exception):
    """Somebody's code tried to end the process, or raised what no handler is meant to catch."""


def describe_error(error: BaseException) -> str:
    """An error in somebody's code: its class and the first line of its message."""
    said = first_line(error)
    name = type(error).__name__
    return said if isinstance(error, ProcessEnded) or said == name else f"{name}: {said}"


@contextmanager
def contained() -> Iterator[None]:
    """Run code that others wrote: as `exits_contained`, and on the command line its prints go to
    stderr."""
    with exits_contained(), prints_to_stderr():
        yield


@contextmanager
def exits_contained() -> Iterator[None]:
    """A context that only an `Exception` or Ctrl-C leaves; a forked child ends with the context.

    `sys.exit`, `os._exit` and classes derived from BaseException alone are covered. What ends a
    process from outside of Python (a signal, a crash in C) is not.

    Raises:
        ProcessEnded: in place of what would have ended the process, with its traceback.
    """
    process = os.getpid()
    try:
        with _exits_noticed():
            try:
                yield
            except BaseException as error:
                if os.getpid() != process:
                    _end_child(error)
                raise
            if os.getpid() != process:
                _end_child(None)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ProcessEnded(_described(error)).with_traceback(error.__traceback__) from None


def _described(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)[:60]
        return f"sys.exit({code}) would end the whole process"
    if isinstance(error, _Exit):
        return f"os._exit({error.args[0]!r}) would end the whole process"
    return f"{type(error).__name__} is not an Exception: nothing is meant to catch it"


def _end_child(error: BaseException | None) -> NoReturn:
    """End a child that somebody's code forked and that came out of it: the program goes on once."""
    if isinstance(error, SystemExit):
        code = error.code
        status = code if isinstance(code, int) else int(code is not None)
    elif error is not None:
        import traceback  # seldom needed, and this file is imported at every start

        traceback.print_exception(error)
        status = 1
    else:
        status = 0
    if sys.stderr is not None:
        sys.stderr.flush()
    _leave(status)


class _Exit(BaseException):
    """In place of `os._exit`."""


#: Thread in which somebody's code runs → the process, and the threads that were there before it.
_inside: dict[int, tuple[int, set[int | None]]] = {}
_patching = threading.Lock()
_leave = os._exit


def _exit(status: int) -> NoReturn:
    """`os._exit`, but for code that runs in this process itself: a forked child may end.

    nnsight runs the body of a trace in a thread of its own; a thread that was there before belongs
    to the program, which may do as it likes.
    """
    me, process = threading.get_ident(), os.getpid()
    for thread, (of_process, before) in list(_inside.items()):
        if of_process == process and (me == thread or me not in before):
            raise _Exit(status)
    _leave(status)


@contextmanager
def _exits_noticed() -> Iterator[None]:
    """A context in which `os._exit` raises in this thread and in those that it starts."""
    me = threading.get_ident()
    if me in _inside:
        yield
        return
    with _patching:
        _inside[me] = os.getpid(), {thread.ident for thread in threading.enumerate()}
        os._exit = _exit  # type: ignore[assignment]
    try:
        yield
    finally:
        with _patching:
            del _inside[me]
            if not _inside:
                os._exit = _leave
