"""Differences between two results on the same prompts, prompt by prompt.

The difference of two means over the same prompts is the mean of their differences, so what prompts
have in common cancels. For ratios of means with different denominators the difference is linearised:
each prompt enters with its influence on it (the delta method).

p is of a permutation test: if it made no difference which of the two results is which, every
prompt's difference could as well have the other sign. For a map it is corrected for all its cells
(Westfall & Young's step-down over the largest cell).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.statistics.intervals import (
    Interval,
    cluster_sums,
    mean_interval,
    ratio_interval,
)
from remote_mi.common.statistics.randomisation import assignments, exchange_roles
from remote_mi.recipes.outputs import Ratio
from remote_mi.store.claims.estimates import Estimate, place_of
from remote_mi.store.named_array import NamedArray
from remote_mi.store.samples import PROMPT_TEXTS, Sampled, example_clusters, prompt_samples


@dataclass(frozen=True)
class PairedDifference:
    """The difference of an output or summary between two results on the same prompts.

    Attributes:
        difference: other − one, with 95% intervals.
        p: of each cell, corrected for all cells of the map; an array of the same shape.
        n: number of different prompts.
    """

    difference: NamedArray
    p: np.ndarray
    n: int

    def at(self, index: tuple[int, ...] = ()) -> tuple[Estimate, float]:
        """The difference in one cell, and its p."""
        found = self.difference
        place = {d: place_of(found, d, i) for d, i in zip(found.dims, index, strict=True)}
        assert found.low is not None and found.high is not None
        ends = float(found.low[index]), float(found.high[index])
        return Estimate(float(found.values[index]), *ends, self.n, place), float(self.p[index])


def smallest_p(n: int) -> float:
    """The smallest p that n prompts can have: that of the one assignment of signs, and its mirror."""
    return min(1.0, 2 / assignments(n, 1))


def check_same_prompts(one: Sampled, other: Sampled) -> None:
    """Check that two results are of the same prompts, in the same order.

    Raises:
        UsageError: saying which is the first that differs.
    """
    if len(one.prompts) != len(other.prompts):
        raise UsageError(
            f"they have {len(one.prompts)} and {len(other.prompts)} prompts",
            "paired differences need the same prompts",
        )
    for index, (a, b) in enumerate(zip(one.prompts, other.prompts, strict=True)):
        if any(a.get(name) != b.get(name) for name in PROMPT_TEXTS):
            raise UsageError(
                f"their prompts differ, first prompt {index + 1}",
                "paired differences need the same prompts",
            )
    if len(one.prompts) < 2:
        raise UsageError("there is one prompt" if one.prompts else "there are no prompts")


def paired_difference(
    one: Sampled, other: Sampled, name: str, other_name: str = "", at: Any = None
) -> PairedDifference:
    """The difference of an output or summary between two results, other − one.

    Args:
        other_name: its name in the other result, if that is not the same.
        at: for each of both results the indices of cells whose mean is compared; all cells, each
            with its like, if left out.

    Raises:
        UsageError, NotFound: if the results are not of the same prompts, or the values are not of
            the same cells or not of single prompts.
    """
    check_same_prompts(one, other)
    names = name, other_name or name
    arrays = one[names[0]], other[names[1]]
    if at is None and (arrays[0].dims != arrays[1].dims or arrays[0].coords != arrays[1].coords):
        raise UsageError(f"the cells of {name!r} are not the same in both", "compare at one place")
    effects, gaps = zip(
        *(_samples(r, n) for r, n in zip((one, other), names, strict=True)), strict=True
    )
    if at is not None:
        effects = tuple(_means(e, cells) for e, cells in zip(effects, at, strict=True))
    clusters = example_clusters(one)
    found, differences = _difference(effects, gaps, clusters)
    sums, _ = cluster_sums(differences.reshape(len(differences), -1), clusters)
    p = exchange_roles(sums, -sums[:, None]).p.reshape(found.value.shape)
    dims = arrays[0].dims if at is None else ()
    coords = arrays[0].coords if at is None else {}
    return PairedDifference(
        NamedArray(found.value, dims, coords, found.low, found.high, name), p, found.clusters
    )


def _samples(result: Sampled, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples of an output, or the effects and gaps of a ratio."""
    source = result.card.summaries.get(name)
    if isinstance(source, Ratio):
        if not np.isfinite(result[name].values).any():
            raise NotFound(f"{name!r} has no values")
        return prompt_samples(result, source.effect), prompt_samples(result, source.gap)
    return prompt_samples(result, name), None


def _means(samples: np.ndarray, cells: Any) -> np.ndarray:
    """The mean over some cells of each sample: [example]."""
    grid = np.ix_(*cells) if cells else ()
    return np.array([np.mean(sample[grid]) for sample in samples])


def _difference(effects: Any, gaps: Any, clusters: list[int]) -> tuple[Interval, np.ndarray]:
    """The interval of the difference, and what each sample contributes to it."""
    (first, second), (gap, other_gap) = effects, gaps
    if gap is None and other_gap is None:
        return mean_interval(second - first, clusters), second - first
    if gap is not None and other_gap is not None and np.allclose(gap, other_gap, rtol=1e-5):
        return ratio_interval(second - first, gap, clusters), second - first
    one, other = _influences(first, gap), _influences(second, other_gap)
    return mean_interval(other - one, clusters), other - one


def _influences(effect: np.ndarray, gap: np.ndarray | None) -> np.ndarray:
    """Numbers whose mean is the ratio Σ effect / |Σ gap|, each with its sample's influence on it."""
    if gap is None:
        return effect
    gap = gap if gap.sum() >= 0 else -gap
    mean = gap.mean()
    ratio = effect.mean(0) / mean
    beside = gap.reshape(-1, *([1] * (effect.ndim - 1)))
    return ratio + (effect - ratio * beside) / mean
