"""Work with a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from remote_mi.common.errors import BackendUnavailable

T = TypeVar("T")


def run_with_deadline(seconds: float, work: Callable[[], T]) -> T:
    """Call `work` and return its result, or raise its error, waiting at most `seconds`.

    Raises:
        BackendUnavailable: if it takes longer; its thread is then left running.
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
