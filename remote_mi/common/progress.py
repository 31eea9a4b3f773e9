"""The interface through which long-running work reports its progress."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

#: Seconds after which work is long enough to be told how much of it remains.
LONG_S = 2.0


@runtime_checkable
class Watch(Protocol):
    """Something that shows progress."""

    def stage(self, text: str) -> None:
        """Begin a new stage of the work."""
        ...

    def advance(self, done: int, total: int, unit: str) -> None:
        """Report that `done` of `total` units of the current stage are finished.

        Units are "bytes", "calls" of a recipe, forward "passes", "files", and so on. The total of
        passes is an estimate from the calls that have ended, and 0 as long as none has.
        """
        ...

    def note(self, text: str) -> None:
        """Report something the user should know, which stays on screen."""
        ...


class Silent:
    """A watch that shows nothing."""

    def stage(self, text: str) -> None:
        pass

    def advance(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Pace:
    """How fast a stage of work goes on.

    Attributes:
        seconds: since the stage began.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def seconds_left(self, done: int, total: int) -> float | None:
        """What remains at the pace so far; None if it cannot be told yet."""
        seconds = self.seconds
        if seconds < LONG_S or done < 1 or total < 1:
            return None
        return seconds * max(0, total - done) / done


def describe_progress(done: int, total: int, unit: str, left: float | None) -> str:
    """Progress in words: "37 of about 120 passes, about 0:42 left".

    Args:
        total: 0 if it is not known. left: seconds that remain, None if that is not known.
    """
    if unit == "bytes":
        text = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    elif total < 1:
        text = f"{done} {unit}"
    else:
        about = "about " if unit == "passes" and done < total else ""
        text = f"{done} of {about}{total} {unit}"
    if left is None or done >= total:
        return text
    seconds = max(1, round(left))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    clock = f"{hours}:{minutes:02d}:" if hours else f"{minutes}:"
    return f"{text}, about {clock}{seconds % 60:02d} left"
