"""95% intervals of means, ratios of means, shares and differences, for two samples and more.

A mean and a ratio of means are one case: Σ s / Σ q over clusters of samples, where q is what each
cluster has of the denominator (its size, for a mean). The interval is Fieller's (1954), the set of
ratios r for which the mean of s − r·q is not told from 0, with Student's t corrected for skewness
by Hall's (1992) monotone cubic. Both are exact for normal samples of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.95
#: Beyond this, sample skewness of a few samples says nothing more about the population's.
MOST_SKEW = 3.0
#: How many times further than Student's an end may be: with few samples the correction explodes.
_MOST_WIDER = 1.6


@dataclass(frozen=True)
class Interval:
    """Estimates with the ends of their 95% intervals, all of one shape.

    Attributes:
        value: the estimates.
        low, high: NaN where there is no interval: with one cluster, or a NaN among the samples.
        clusters: number of independent samples that the interval rests on.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    clusters: int

    @property
    def excludes_zero(self) -> np.ndarray:
        """Where the interval lies on one side of 0; False where there is none."""
        return (self.low > 0) | (self.high < 0)


def mean_interval(values: np.ndarray, clusters: Sequence[int] | None = None) -> Interval:
    """The mean over samples, each sample weighted alike.

    Args:
        values: [sample, ...]. clusters: number of each sample's cluster; by default each sample is
            one of its own.
    """
    return ratio_interval(values, np.ones(len(values)), clusters)


def ratio_interval(
    effect: np.ndarray, gap: np.ndarray, clusters: Sequence[int] | None = None
) -> Interval:
    """The ratio of the mean effect to the size of the mean gap: Σ effect / |Σ gap|.

    Args:
        effect: [sample, ...]. gap: [sample]. clusters: as for `mean_interval`.

    Returns:
        An interval of the shape of one sample. Where the gap is not told from 0 there is no bounded
        one; ask `mean_interval(gap)` first.
    """
    effect, gap = np.asarray(effect, np.float64), np.asarray(gap, np.float64)
    shape = effect.shape[1:]
    sums, weights = cluster_sums(effect.reshape(len(effect), -1), clusters)
    gaps, _ = cluster_sums(gap[:, None], clusters)
    count, gaps = len(weights), gaps[:, 0]
    with np.errstate(all="ignore"):
        if gaps.sum() < 0:
            gaps = -gaps
        s, q = sums.mean(0), gaps.mean()
        value = s / q
        low, high = np.full((2, len(value)), np.nan)
        if count > 1:
            low, high = _fieller(sums, gaps, value)
    return Interval(*(x.reshape(shape) for x in (value, low, high)), clusters=count)


def _fieller(s: np.ndarray, q: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval of Σ s / Σ q, for [cluster, cell] and [cluster], with Σ q > 0."""
    count, s_mean, q_mean = len(q), s.mean(0), q.mean()
    s_off, q_off = s - s_mean, q - q_mean
    s_var, q_var = (s_off**2).sum(0) / (count - 1), (q_off**2).sum() / (count - 1)
    both = (s_off * q_off[:, None]).sum(0) / (count - 1)
    off = s_off - value * q_off[:, None]
    spread = np.sqrt((off**2).mean(0))
    skew = np.where(spread > 0, (off**3).mean(0) / np.where(spread > 0, spread, 1) ** 3, 0.0)
    below, above = _skewed_quantiles(np.clip(skew, -MOST_SKEW, MOST_SKEW), count)
    most = np.inf if q_var == 0 else 0.999 * q_mean / np.sqrt(q_var)  # beyond it, unbounded
    ends = []
    for quantile, sign in ((above, -1.0), (below, 1.0)):
        w2 = np.minimum(np.abs(quantile), most) ** 2
        a, b, c = q_mean**2 - w2 * q_var, s_mean * q_mean - w2 * both, s_mean**2 - w2 * s_var
        ends.append((b + sign * np.sqrt(np.maximum(b**2 - a * c, 0.0))) / a)
    return ends[0], ends[1]


def _skewed_quantiles(skew: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper quantile of mean / standard deviation: Hall's inverse of Student's t.

    The transformation W + a W² + a² W³ / 3 + b, with a = skew / 3 and b = skew / (6 n), makes the
    studentised mean nearly symmetric; it is monotone and inverted in closed form. Neither quantile is
    more than `_MOST_WIDER` times Student's.
    """
    t = student_quantile(count - 1) / np.sqrt(count)
    a, b = skew / 3, skew / (6 * count)
    small = np.abs(a) < 1e-9
    safe = np.where(small, 1.0, a)
    below, above = (
        np.where(small, y - b, (np.cbrt(1 + 3 * safe * (y - b)) - 1) / safe) for y in (-t, t)
    )
    return np.clip(below, -_MOST_WIDER * t, 0.0), np.clip(above, 0.0, _MOST_WIDER * t)


def share_interval(values: np.ndarray, clusters: Sequence[int] | None = None) -> Interval:
    """The share of ones among samples of 0 and 1: Wilson's (1927) score interval.

    With clusters, the number of samples is the effective one (Kish: divided by the design effect
    of the clusters), at most that of the samples and at least that of the clusters.

    Args:
        values: [sample, ...], each 0 or 1. clusters: as for `mean_interval`.
    """
    values = np.asarray(values, np.float64)
    flat = values.reshape(len(values), -1)
    sums, sizes = cluster_sums(flat, clusters)
    count, total = len(sizes), sizes.sum()
    with np.errstate(all="ignore"):
        share = flat.mean(0)
        effective = np.full(share.shape, float(count))
        if count > 1 and count < total:
            off = sums - share * sizes[:, None]
            variance = count / (count - 1) * (off**2).sum(0) / total**2
            effective = np.clip(share * (1 - share) / variance, count, total)
            effective = np.where(variance > 0, effective, float(count))
        z2 = normal_quantile() ** 2
        middle = (share + z2 / (2 * effective)) / (1 + z2 / effective)
        half = np.sqrt(z2 * (share * (1 - share) + z2 / (4 * effective)) / effective)
        half = half / (1 + z2 / effective)
    ends = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    if count < 2:
        ends = np.full((2, len(share)), np.nan)
    parts = (share, ends[0], ends[1])
    return Interval(*(x.reshape(values.shape[1:]) for x in parts), clusters=count)


def difference_interval(one: np.ndarray, other: np.ndarray) -> Interval:
    """The difference of two means of independent samples, other − one: Welch's (1947).

    For samples that belong together one by one, use `mean_interval(other - one)`.

    Args:
        one, other: [sample, ...], of any two numbers of samples.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    value = other.mean(0) - one.mean(0)
    if min(len(one), len(other)) < 2:
        nothing = np.full(value.shape, np.nan)
        return Interval(value, nothing, nothing, min(len(one), len(other)))
    parts = [x.var(0, ddof=1) / len(x) for x in (one, other)]
    with np.errstate(all="ignore"):
        total = parts[0] + parts[1]
        freedom = total**2 / sum(
            p**2 / (len(x) - 1) for p, x in zip(parts, (one, other), strict=True)
        )
    freedom = np.where(total > 0, freedom, 1.0)
    half = student_quantiles(freedom) * np.sqrt(total)
    return Interval(value, value - half, value + half, min(len(one), len(other)))


def two_way_interval(values: np.ndarray) -> Interval:
    """The mean over a full grid of two factors that are both sampled, e.g. models × prompts.

    The variance is that of rows and of columns less that of cells, from the mean squares of the
    two-way analysis of variance, and never less than the largest of the three; Student's t with
    Satterthwaite's (1946) degrees of freedom, rounded down, or with one if a factor has only two levels, where
    they are not to be trusted.

    Args:
        values: [row, column, ...].
    """
    values = np.asarray(values, np.float64)
    rows, columns = values.shape[:2]
    mean, count = values.mean((0, 1)), min(rows, columns)
    if count < 2:
        nothing = np.full(mean.shape, np.nan)
        return Interval(mean, nothing, nothing, count)
    by_row, by_column = values.mean(1), values.mean(0)
    rest = values - by_row[:, None] - by_column[None] + mean
    of_rows, of_columns = columns * by_row.var(0, ddof=1), rows * by_column.var(0, ddof=1)
    of_rest = (rest**2).sum((0, 1)) / ((rows - 1) * (columns - 1))
    largest = np.maximum(np.maximum(of_rows, of_columns), of_rest)
    square = np.maximum(of_rows + of_columns - of_rest, largest)
    with np.errstate(all="ignore"):
        both = of_rows**2 / (rows - 1) + of_columns**2 / (columns - 1)
        freedom = np.where((both > 0) & (count > 2), np.maximum(square**2 / both // 1, 1.0), 1.0)
    half = student_quantiles(freedom) * np.sqrt(square / (rows * columns))
    return Interval(mean, mean - half, mean + half, count)


def cluster_sums(
    values: np.ndarray, clusters: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each cluster, [cluster, cell], and the sizes of the clusters, [cluster].

    Args:
        values: [sample, cell]. clusters: of each sample; None if each is its own.
    """
    if clusters is None:
        return values, np.ones(len(values))
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) == len(values):
        return values, np.ones(len(values))
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, np.bincount(index).astype(np.float64)


@cache
def student_quantile(freedom: int) -> float:
    """The quantile of Student's t that leaves (1 − LEVEL) / 2 above it."""
    return float(student_quantiles(np.asarray(float(freedom))))


def student_quantiles(freedom: np.ndarray) -> np.ndarray:
    """`student_quantile` of each of an array of degrees of freedom."""
    from scipy.special import stdtrit  # slow to import

    return stdtrit(freedom, (1 + LEVEL) / 2)


def normal_quantile() -> float:
    """The quantile of the normal distribution that leaves (1 − LEVEL) / 2 above it."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + LEVEL) / 2)
