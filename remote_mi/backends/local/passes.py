"""Forward passes of a model that runs here: counted, and reported while a call takes long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from remote_mi.common.progress import LONG_S, Watch

#: Seconds between two reports.
_PAUSE_S = 0.5


class PassCounter:
    """Counts the forward passes of a recipe's calls, and reports how far they are.

    Calls are reported as they end. Once one takes long, passes are: of how many, is estimated from
    those of the calls that have ended.

    Args:
        calls: how many calls of the recipe there are.

    Attributes:
        count: forward passes so far.
    """

    def __init__(self, watch: Watch, calls: int) -> None:
        self.count = 0
        self._watch, self._calls = watch, calls
        self._ended = self._of_ended = self._before = 0
        self._long = False
        self._begun = self._reported = time.monotonic()

    @contextmanager
    def counting(self, lm: Any) -> Iterator[None]:
        """Count the passes of a model within the block."""
        handle = lm.backbone._module.register_forward_pre_hook(self._count)
        self._begun = time.monotonic()
        try:
            yield
        finally:
            handle.remove()

    def begin_calls(self) -> None:
        """The calls begin; earlier passes were of the recipe's setup."""
        self._before = self.count
        self._report()

    def end_call(self) -> None:
        """A call has ended."""
        self._ended += 1
        self._of_ended = self.count - self._before
        self._report()

    def _count(self, *_: Any) -> None:
        self.count += 1
        now = time.monotonic()
        self._long = self._long or now - self._begun >= LONG_S
        if self._long and now - self._reported >= _PAUSE_S:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        if not self._long:
            self._watch.advance(self._ended, self._calls, "calls")
            return
        done = self.count - self._before
        total = round(self._of_ended / self._ended * self._calls) if self._ended else 0
        if self._ended < self._calls and total:
            total = max(total, done + 1)
        self._watch.advance(done, total, "passes")
