"""From the measures of a behaviour to the verdict: whether the model shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remote_mi.common.statistics.intervals import Interval
from remote_mi.store.verdict import Verdict


@dataclass(frozen=True)
class Measured:
    """The measures of a behaviour.

    Attributes:
        output: the name of the measure. values: [example]. found: their mean with its interval.
        falls: whether a smaller number is more of the behaviour, as of a divergence.
        share: whether each is 0 or 1. answer_prob: the mean probability of right and wrong answers
            together; NaN if unknown.
    """

    output: str
    values: np.ndarray
    found: Interval
    share: bool
    answer_prob: float
    falls: bool = False


def find_verdict(measured: Measured, unit: str, withheld: list[str]) -> Verdict:
    """Whether the model shows the behaviour.

    Args:
        unit: what an example is called. withheld: ratios that are not given.
    """
    values, found, chance = measured.values, measured.found, 0.5 if measured.share else 0.0
    mean, known = float(found.value), len(values) > 1 and bool(np.isfinite(found.low))
    if not np.isfinite(mean):
        status = "unknown"
    elif found.clusters < 2:
        status = "single"
    elif known and (found.low > chance or found.high < chance):
        status = "shown" if (mean > chance) != measured.falls else "opposite"
    else:
        status = "undecided"
    return Verdict(
        output=measured.output,
        status=status,
        n=len(values),
        clusters=found.clusters,
        mean=mean if np.isfinite(mean) else None,
        low=float(found.low) if known else None,
        high=float(found.high) if known else None,
        against=int(((values > chance) if measured.falls else (values < chance)).sum()),
        chance=chance,
        answer_prob=measured.answer_prob if np.isfinite(measured.answer_prob) else None,
        unit=unit,
        share=measured.share,
        withheld=withheld,
        falls=measured.falls,
    )
