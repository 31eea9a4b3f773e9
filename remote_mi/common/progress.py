"""How long work reports what it is doing, without knowing who shows it."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Something that shows progress."""

    def stage(self, text: str) -> None:
        """A new stage of the work begins."""
        ...

    def advance(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of the present stage are finished."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know and that stays on screen."""
        ...


class Silent:
    """Shows nothing."""

    def stage(self, text: str) -> None:
        pass

    def advance(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass
