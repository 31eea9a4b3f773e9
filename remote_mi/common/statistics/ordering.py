"""Which of several means of the same samples is larger: along a sequence, and largest of all.

Both rest on a one-sided test of a mean by Student's t, corrected for skewness by Hall's (1992)
monotone cubic, as the intervals of `remote_mi.common.statistics.intervals` are.
"""

from __future__ import annotations

import numpy as np

from remote_mi.common.statistics.intervals import MOST_SKEW

#: Chance of a false statement of each of the functions here.
LEVEL = 0.05


def chance_not_above_zero(samples: np.ndarray) -> np.ndarray:
    """How rare means as far above 0 are if the population's is not above 0.

    Args:
        samples: [sample, ...].

    Returns:
        [...], one-sided levels; 1 where nothing can be told: with one sample, NaN, or no spread.
    """
    samples = np.asarray(samples, np.float64)
    count = len(samples)
    if count < 2:
        return np.ones(samples.shape[1:])
    with np.errstate(all="ignore"):
        mean, off = samples.mean(0), samples - samples.mean(0)
        spread, deviation = np.sqrt((off**2).mean(0)), samples.std(0, ddof=1)
        skew = np.clip((off**3).mean(0) / spread**3, -MOST_SKEW, MOST_SKEW)
        w, a = mean / deviation, skew / 3
        corrected = w + a * w**2 + a**2 * w**3 / 3 + skew / (6 * count)
        p = student_above(np.sqrt(count) * corrected, count - 1)
    known = np.isfinite(p) & (mean > 0) & (deviation > 1e-9 * np.abs(mean))
    return np.where(known, p, 1.0)


def student_above(t: np.ndarray, freedom: int) -> np.ndarray:
    """The chance of a Student's t above some values, with whole degrees of freedom.

    By the finite series of Abramowitz & Stegun (26.7.3, 26.7.4): reports do without scipy, which is
    slow to import.
    """
    angle = np.arctan(np.asarray(t, np.float64) / np.sqrt(freedom))
    cosine, odd = np.cos(angle), freedom % 2
    term = cosine if odd else np.ones_like(cosine)
    total = np.zeros_like(cosine)
    for power in range(odd, freedom - 1, 2):
        total = total + term
        term = term * cosine**2 * (power + 1) / (power + 2)
    within = np.sin(angle) * total
    if odd:
        within = 2 / np.pi * (angle + within)
    return np.clip((1 - within) / 2, 0.0, 1.0)


def told_from_the_start(differences: np.ndarray, level: float = LEVEL / 2) -> int:
    """How many of the first means are above 0, told one after the other up to the first failure.

    As each is tested only if all before it were told, no correction for their number is needed: the
    chance that any of them is false is at most `level`, however they depend on each other.

    Args:
        differences: [sample, step].
    """
    told = chance_not_above_zero(differences) <= level
    return int(np.argmin(told)) if not told.all() else told.size


def may_be_largest(samples: np.ndarray) -> np.ndarray:
    """Which means may be the largest of all: not told to be below the observed largest.

    The level is divided by the number of others (Bonferroni), so that the largest mean of the
    population is left out with a chance of at most LEVEL. With a single other it is halved, as in
    the 95% interval of the difference, which then excludes 0 whenever that is left out.

    Args:
        samples: [sample, item], at least one item.

    Returns:
        [item], True also where nothing can be told.
    """
    samples = np.asarray(samples, np.float64)
    best = int(np.nanargmax(samples.mean(0)))
    p = chance_not_above_zero(samples[:, [best]] - samples)
    return ~(p <= LEVEL / max(2, samples.shape[1] - 1))
