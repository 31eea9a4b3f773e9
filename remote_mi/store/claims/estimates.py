"""Values of selected cells with their intervals, and how many prompts would narrow them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.common.statistics.intervals import LEVEL, mean_interval, ratio_interval
from remote_mi.common.text import visible
from remote_mi.recipes.outputs import DRAW, POSITIONS, Ratio
from remote_mi.store.claims.bounds import Bound
from remote_mi.store.named_array import NamedArray
from remote_mi.store.samples import Sampled, example_clusters, prompt_samples, sample_count

#: Beyond this many prompts, nothing is said about how many would be needed.
MOST_PROMPTS = 100_000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval.

    Attributes:
        value: a cell, or the mean of several. low, high: NaN where there is no interval.
        n: number of independent samples that the interval rests on.
        place: dimension → coordinate of a single cell. cells: number of cells averaged.
        why_none: why there is no value, if that is known.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    place: Mapping[str, Any] = field(default_factory=dict)
    cells: int = 1
    why_none: str = ""

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def ends(self, tests: int = 1) -> tuple[float, float]:
        """The ends of the interval, wider if it is one of several that must hold together.

        Each of `tests` intervals gets the level 1 − (1 − LEVEL) / tests (Bonferroni): its ends are
        moved away from the value by the ratio of Student's quantiles.
        """
        wider = quantile(self.n, tests) / quantile(self.n)
        return self.value - wider * (self.value - self.low), self.value + wider * (
            self.high - self.value
        )

    def prompts_needed(self, bound: Bound, tests: int = 1) -> int | None:
        """With about how many prompts the interval would no longer contain an end of the bound.

        For the same value and spread: the width of an interval is proportional to Student's
        quantile divided by √n. None if that is not known, or beyond `MOST_PROMPTS`.
        """
        if not self.has_interval or self.n < 2:
            return None
        below, above = bound.margin(self.value)
        unit = math.sqrt(self.n) / quantile(self.n)
        needs = [(self.value - self.low, below), (self.high - self.value, above)]
        return max((_needed(half * unit, room, tests) for half, room in needs), key=_none_last)


def _none_last(count: int | None) -> float:
    return math.inf if count is None else count


def _needed(spread: float, room: float, tests: int) -> int | None:
    """The least n with spread · quantile / √n < room; None beyond `MOST_PROMPTS`."""
    low, high = 2, MOST_PROMPTS
    if not spread * quantile(high, tests) / math.sqrt(high) < room:
        return None
    while low < high:
        middle = (low + high) // 2
        if spread * quantile(middle, tests) / math.sqrt(middle) < room:
            high = middle
        else:
            low = middle + 1
    return high


@functools.cache
def quantile(n: int, tests: int = 1) -> float:
    """Student's quantile for n samples and one of several two-sided intervals.

    The normal one if n is not known (below 2).
    """
    from scipy.special import ndtri, stdtrit  # slow to import

    level = 1 - (1 - LEVEL) / 2 / tests
    return float(stdtrit(n - 1, level) if n > 1 else ndtri(level))


def cell_estimates(
    result: Sampled, array: NamedArray, indices: Sequence[Sequence[int]]
) -> Iterator[Estimate]:
    """Every selected cell by itself, with the interval that the result has of it.

    Args:
        indices: for each dimension the selected ones.
    """
    n = sample_count(result, array.name)
    # The interval of a single prompt, if there is one, is over draws and says nothing of prompts.
    single = bool(result.prompts) and n < 2
    why = result.document.get("withheld", {}).get(array.name, "")
    for index in _product(indices):
        place = {dim: place_of(array, dim, at) for dim, at in zip(array.dims, index, strict=True)}
        value = float(array.values[index])
        if single or array.low is None or array.high is None:
            yield Estimate(value, n=n, place=place, why_none=why)
        else:
            yield Estimate(value, float(array.low[index]), float(array.high[index]), n, place)


def mean_estimate(result: Sampled, array: NamedArray, indices: Sequence[Sequence[int]]) -> Estimate:
    """The mean of the selected cells, with the interval of that mean if there can be one."""
    cells = int(np.prod([len(some) for some in indices], dtype=int))
    if cells == 1:
        return next(cell_estimates(result, array, indices))
    grid = np.ix_(*indices)
    value, n = float(array.values[grid].mean()), sample_count(result, array.name)
    low, high = _interval(result, array.name, grid) if math.isfinite(value) else (math.nan,) * 2
    return Estimate(value, low, high, n, cells=cells)


def _interval(result: Sampled, name: str, grid: tuple[Any, ...]) -> tuple[float, float]:
    """The interval of the mean of some cells; NaN without values of several single prompts."""
    if len(result.prompts) < 2:
        return math.nan, math.nan
    source = result.card.summaries.get(name)
    try:
        if isinstance(source, Ratio):
            effect = _means(prompt_samples(result, source.effect), grid)
            found = ratio_interval(
                effect, prompt_samples(result, source.gap), example_clusters(result)
            )
        else:
            means = _means(prompt_samples(result, name), grid)
            found = mean_interval(means, example_clusters(result))
    except NotFound:
        return math.nan, math.nan
    return float(found.low), float(found.high)


def _means(samples: np.ndarray, grid: tuple[Any, ...]) -> np.ndarray:
    """The mean of the selected cells in each sample, from [example, ...]."""
    return np.array([sample[grid].mean() for sample in samples])


def _product(indices: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    for at in np.ndindex(*(len(some) for some in indices)):
        yield tuple(some[i] for some, i in zip(indices, at, strict=True))


def place_of(array: NamedArray, dim: str, index: int) -> Any:
    """A coordinate as a result shows it: a token, made visible, with its index."""
    label = array.coords[dim][index]
    if dim in POSITIONS and isinstance(label, str) and not label.startswith("["):
        return f"{index} {visible(label)}"
    return label


def number_dims(dims: Sequence[str]) -> tuple[str, ...]:
    """The dimensions of the value over all prompts: without that of replicates."""
    return tuple(dim for dim in dims if dim != DRAW)
