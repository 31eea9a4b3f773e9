"""What a result may claim: whether the model does what is studied, and what was tested how.

Both are computed when a run is put together (`remote_mi.jobs.aggregation`) and kept in its document.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from remote_mi.common.statistics.randomisation import (
    LEVEL,
    assignments,
    draws_needed,
    units_needed,
)
from remote_mi.common.text import counted
from remote_mi.recipes.outputs import SET

#: Answers that together have less of the model's probability than this are not what it says.
UNLIKELY = 0.01
#: The most pairs that are proposed to settle a question.
_MOST_PAIRS = 10_000


@dataclass(frozen=True)
class ControlTest:
    """How an output was tested against its control (`exchange_roles`).

    Attributes:
        control: its name. units: independent samples. draws: of the control in each of them.
        unit: what the samples are: "pair", "prompt", "draw", SET, or the output that groups them.
    """

    control: str
    units: int
    draws: int
    unit: str

    @property
    def can_claim(self) -> bool:
        """Whether there are enough samples and draws to tell anything from the control."""
        return assignments(self.units, self.draws) * LEVEL >= 1

    @property
    def why_not(self) -> str:
        """Why nothing can be claimed, and what would do; "" if something can."""
        if self.can_claim:
            return ""
        if not self.draws:
            return f"there are no draws of {self.control} to compare with"
        have = f"{counted(self.draws, 'draw')} of {self.control}"
        if self.unit != SET:
            have = f"{counted(self.units, self.unit)} with {have}"
        enough = [
            counted(units_needed(self.draws), self.unit) if self.unit != SET else "",
            f"{draws_needed(self.units)} draws" if self.unit != "draw" else "",
        ]
        return f"{have} cannot tell it from chance; {' or '.join(filter(None, enough))} could"


@dataclass(frozen=True)
class Verdict:
    """Whether the model shows the behaviour that a result rests on.

    Attributes:
        output: the measure of the behaviour. unit: "pair" or "prompt".
        status: "shown" or "opposite" if its mean is told from `chance` at 95%, "undecided" if not;
            "single" for one example, which shows nothing about others; "unknown" if it is NaN.
        n: number of examples. clusters: how many of them are independent.
        mean, low, high: of the measure, with its 95% interval, None without one.
        against: number of examples on the other side of `chance`.
        chance: what the mean would be without the behaviour.
        answer_prob: the mean probability of right and wrong answers together; None if unknown.
        withheld: ratios that are not given since their denominator is not told from 0.
        falls: whether a smaller number is more of the behaviour: "shown" is then below `chance`.
    """

    output: str
    status: str
    n: int
    clusters: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    against: int = 0
    chance: float = 0.0
    answer_prob: float | None = None
    unit: str = "pair"
    share: bool = False
    withheld: list[str] | None = None
    falls: bool = False

    @property
    def says(self) -> str:
        """The verdict in words, on one line."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        """The verdict in words."""
        found = [self._finding()]
        alone = self.status == "single" and self.mean is not None and self._is_against(self.mean)
        if self.status == "opposite" or alone:
            swapped = "answer and wrong" + (
                "" if self.unit == "prompt" else ", or clean and corrupt,"
            )
            found.append(f"Are {swapped} swapped?")
        if self.withheld:
            names = " and ".join(self.withheld)
            found.append(f"So {names} cannot be given: effects are shown in their own unit.")
        if self.answer_prob is not None and self.answer_prob < UNLIKELY:
            found.append(
                f"The answers are not what the model says: together they have {self.answer_prob:.1g} "
                "of its probability."
            )
        return found

    def _is_against(self, value: float) -> bool:
        return value > self.chance if self.falls else value < self.chance

    def _finding(self) -> str:
        measured = f"{self.output} {self._number(self.mean)}"
        if self.status == "unknown":
            return f"It is not known whether the model does this: {self.output} is not a number."
        if self.status == "single":
            one = f"One {self.unit}" if self.n == 1 else f"{self.n} copies of one {self.unit}"
            return f"{one}, which shows nothing about others: {measured}."
        if self.low is not None and self.high is not None:
            measured += f", 95% CI [{self._number(self.low)}, {self._number(self.high)}]"
        over = counted(self.n, self.unit)
        if self.clusters < self.n:
            over += (
                f", of which {self.clusters} {'is' if self.clusters == 1 else 'are'} independent"
            )
        chance = f"; chance is {self.chance:g}" if self.chance else ""
        base = f"{measured} over {over}{chance}"
        if self.status == "shown":
            but = f"; {self.against} point the other way" if self.against else ""
            return f"The model does this: {base}{but}."
        if self.status == "opposite":
            return (
                f"The model does the opposite: {base}; {self.against} of {self.n} point this way."
            )
        more = self._pairs_that_would_tell()
        return (
            f"Not told whether the model does this: {base}; {self.against} of {self.n} point the "
            f"other way.{more}"
        )

    def _pairs_that_would_tell(self) -> str:
        """About how many examples would tell a mean of this size from chance."""
        if self.mean is None or self.low is None or self.high is None or self.mean == self.chance:
            return ""
        ratio = (self.high - self.low) / 2 / abs(self.mean - self.chance)
        wanted = math.ceil(self.n * ratio**2)
        if self.clusters < 3 or not self.n < wanted <= _MOST_PAIRS:
            return ""
        return f" About {wanted} would tell, if it stays this large."

    def _number(self, value: float | None) -> str:
        if value is None:
            return "NaN"
        return f"{value:.2f}" if self.share else signed(value)

    def to_json(self) -> dict[str, Any]:
        """The fields, and `says`."""
        return {**asdict(self), "withheld": list(self.withheld or []), "says": self.says}


def signed(value: float) -> str:
    """A number with its sign: two decimals, or two significant digits if it is small."""
    return f"{value:+.2f}" if abs(value) >= 0.095 or not value else f"{value:+.2g}"
