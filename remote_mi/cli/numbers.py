"""Numbers on the command line: each has bounds, so that none makes a command run for ever."""

from __future__ import annotations

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """A number within bounds; unlike click's own, neither "nan" nor "inf"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or click's usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


#: Columns of text.
WIDTH = click.IntRange(40, 1000)
#: A number of runs or lines, or the number of a prompt.
COUNT = click.IntRange(1, 1_000_000)
#: A time to wait, in seconds; at most about three years.
SECONDS = Finite(0, 100_000_000, min_open=True)
#: A difference of numbers, or a time in minutes.
AMOUNT = Finite(0)
