"""The interface through which long-running work reports its progress."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Watch(Protocol):
    """Something that shows progress."""

    def stage(self, text: str) -> None:
        """Begin a new stage of the work."""
        ...

    def advance(self, done: int, total: int, unit: str) -> None:
        """Report that `done` of `total` units of the current stage are finished."""
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
