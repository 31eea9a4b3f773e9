"""What belongs to the whole process, and is ours for as long as anybody of us needs it.

Python's own ways to change such things for a while (`warnings.catch_warnings`, saving a value and
putting it back) are not for threads: the one that ends last restores what the other had set. Here
the first who needs a setting notes what it was, and the last puts that back.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Setting:
    """Something of the process: how it is read, how it is set, and what we want it to be."""

    def __init__(self, read: Callable[[], Any], put: Callable[[Any], None], ours: Any) -> None:
        self._read, self._put, self._ours = read, put, ours
        self._theirs: Any = None

    def take(self) -> None:
        """Set it to ours."""
        self._theirs = self._read()
        if self._theirs != self._ours:
            self._put(self._ours)

    def give_back(self) -> None:
        """As it was; what the program has set meanwhile stays."""
        if self._theirs != self._ours and self._read() == self._ours:
            self._put(self._theirs)


class Ignored:
    """Warnings that are not shown; the program's own filters stay where they are.

    Args:
        category: of the warnings. message: how they begin, module: where they arise, both as
            regular expressions.
    """

    def __init__(
        self, category: type[Warning] = Warning, message: str = "", module: str = ""
    ) -> None:
        self._what = {"category": category, "message": message, "module": module}
        self._entry: Any = None

    def take(self) -> None:
        """Put the filter in front of all others."""
        warnings.filterwarnings("ignore", **self._what)
        self._entry = warnings.filters[0]

    def give_back(self) -> None:
        """Remove that filter, and no other."""
        filters: Any = warnings.filters
        if self._entry in filters:
            filters.remove(self._entry)
            warnings._filters_mutated()  # type: ignore[attr-defined] - or removed ones go on


class Held:
    """Settings that are ours while anybody holds them.

    Args:
        make: gives them; called when they are first held, so that it may import what they are of.
    """

    def __init__(self, make: Callable[[], Sequence[Setting | Ignored]]) -> None:
        self._make = make
        self._taken: Sequence[Setting | Ignored] = ()
        self._mutex, self._holders = threading.Lock(), 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A context in which they are ours."""
        with self._mutex:
            if not self._holders:
                self._taken = self._make()
                for setting in self._taken:
                    setting.take()
            self._holders += 1
        try:
            yield
        finally:
            with self._mutex:
                self._holders -= 1
                if not self._holders:
                    for setting in self._taken:
                        setting.give_back()
