"""Work that is given up after some seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from remote_mi.common.errors import BackendUnavailable

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """What a piece of work returns or raises, waited for no longer than this.

    Raises:
        BackendUnavailable: if it takes longer; it is left to itself then.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise BackendUnavailable(f"no answer within {seconds:g} seconds", "try again later")
    return done[0]
