"""Process-wide settings that are changed temporarily, in a way that is safe with threads.

Python's own ways to do this (`warnings.catch_warnings`, saving a value and restoring it) are not
thread-safe: the thread that finishes last restores what the other one had set. Here the first user
of a setting remembers its original value, and the last user restores it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Setting:
    """A process-wide setting: how to read it, how to set it, and the value we need."""

    def __init__(self, read: Callable[[], Any], put: Callable[[Any], None], ours: Any) -> None:
        self._read, self._put, self._ours = read, put, ours
        self._theirs: Any = None

    def apply(self) -> None:
        """Set it to our value."""
        self._theirs = self._read()
        if self._theirs != self._ours:
            self._put(self._ours)

    def restore(self) -> None:
        """Restore the original value, unless the program has changed it in the meantime."""
        if self._theirs != self._ours and self._read() == self._ours:
            self._put(self._theirs)


class IgnoredWarnings:
    """Warnings to suppress; the program's own filters are left alone.

    Args:
        category: of the warnings. message: their beginning, module: their origin, both as
            regular expressions.
    """

    def __init__(
        self, category: type[Warning] = Warning, message: str = "", module: str = ""
    ) -> None:
        self._what = {"category": category, "message": message, "module": module}
        self._entry: Any = None

    def apply(self) -> None:
        """Insert the filter before all others."""
        warnings.filterwarnings("ignore", **self._what)
        self._entry = warnings.filters[0]

    def restore(self) -> None:
        """Remove this filter only."""
        filters: Any = warnings.filters
        if self._entry in filters:
            filters.remove(self._entry)
            warnings._filters_mutated()  # type: ignore[attr-defined] - else it stays in effect


class SharedSettings:
    """Settings that are applied while at least one caller holds them.

    Args:
        make: creates them; called when they are first held, so it can import lazily.
    """

    def __init__(self, make: Callable[[], Sequence[Setting | IgnoredWarnings]]) -> None:
        self._make = make
        self._taken: Sequence[Setting | IgnoredWarnings] = ()
        self._mutex, self._holders = threading.Lock(), 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A context in which the settings are applied."""
        with self._mutex:
            if not self._holders:
                self._taken = self._make()
                for setting in self._taken:
                    setting.apply()
            self._holders += 1
        try:
            yield
        finally:
            with self._mutex:
                self._holders -= 1
                if not self._holders:
                    for setting in self._taken:
                        setting.restore()
