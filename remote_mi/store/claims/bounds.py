"""Comparisons written as text: "> 0.8", "<= 3", "between 0.2 and 0.4"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from remote_mi.common.errors import UsageError

_NUMBER = r"[-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_ONE_SIDED = re.compile(rf"\s*(>=|<=|>|<|≥|≤)\s*({_NUMBER})\s*")
_BETWEEN = re.compile(rf"\s*between\s+({_NUMBER})\s+and\s+({_NUMBER})\s*")
#: What to write, for messages.
FORMS = 'write e.g. "> 0.8", "<= 3" or "between 0.2 and 0.4"'


@dataclass(frozen=True)
class Bound:
    """A range of numbers.

    Attributes:
        text: as written, with single spaces. low, high: its ends; infinite if there is none.
        strict: whether the ends themselves are outside.
    """

    text: str
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    def contains(self, number: float) -> bool:
        """Whether a number is in the range; never for NaN."""
        if self.strict:
            return self.low < number < self.high
        return self.low <= number <= self.high

    def excludes(self, low: float, high: float) -> bool:
        """Whether no number from `low` to `high` is in the range; False if one of them is NaN."""
        if self.strict:
            return high <= self.low or low >= self.high
        return high < self.low or low > self.high

    def includes(self, low: float, high: float) -> bool:
        """Whether every number from `low` to `high` is in the range; False if one is NaN."""
        return self.contains(low) and self.contains(high)

    def margin(self, number: float) -> tuple[float, float]:
        """How far the nearest end of the range is below and above a number; infinite if none is."""
        ends = [end for end in (self.low, self.high) if math.isfinite(end)]
        below = min((number - end for end in ends if end <= number), default=math.inf)
        above = min((end - number for end in ends if end >= number), default=math.inf)
        return below, above


def is_comparison(text: Any) -> bool:
    """Whether a text is meant as a comparison, be it well formed or not."""
    return isinstance(text, str) and (
        text.strip()[:1] in ("<", ">", "=", "≤", "≥") or text.strip().startswith("between ")
    )


def parse_bound(text: Any) -> Bound:
    """A comparison from its text.

    Raises:
        UsageError: saying what to write.
    """
    if not isinstance(text, str):
        raise UsageError(f"{text!r} is not a comparison", FORMS)
    if match := _ONE_SIDED.fullmatch(text):
        sign = {"≥": ">=", "≤": "<="}.get(match[1], match[1])
        number = _number(match[2])
        ends = {"low": number} if sign.startswith(">") else {"high": number}
        return Bound(f"{sign} {_plain(number)}", **ends, strict=len(sign) == 1)
    if match := _BETWEEN.fullmatch(text):
        low, high = _number(match[1]), _number(match[2])
        if low >= high:
            raise UsageError(
                f"{text!r}: {_plain(low)} is not less than {_plain(high)}",
                f'write "between {_plain(high)} and {_plain(low)}"' if low > high else FORMS,
            )
        return Bound(f"between {_plain(low)} and {_plain(high)}", low, high)
    raise UsageError(f"{text!r:.80} is not a comparison", FORMS)


def _number(text: str) -> float:
    number = float(text.replace("−", "-"))
    if not math.isfinite(number):
        raise UsageError(f"{text} is too large for a number", FORMS)
    return number


def _plain(number: float) -> str:
    """A number with all its digits, without a fraction if it is whole."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
