"""Whether two maps agree: rank correlation, and the overlap of their largest cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from remote_mi.common.errors import UsageError
from remote_mi.common.statistics import ROUNDING
from remote_mi.store.named_array import NamedArray

#: How many of the largest cells are compared, unless it is said.
TOP = 10


@dataclass(frozen=True)
class Agreement:
    """How far two maps agree in the cells that they share.

    Attributes:
        correlation: Spearman's rank correlation of the values; NaN if one map is constant.
        overlap: share of the `top` cells of largest absolute value that both maps have in common.
        chance: the overlap expected of two unrelated maps, top / cells.
        top: number of largest cells compared. cells: number of cells that both maps have.
    """

    correlation: float
    overlap: float
    chance: float
    top: int
    cells: int


def agreement(one: NamedArray, other: NamedArray, top: int = TOP) -> Agreement:
    """How far two arrays agree in the cells that they share.

    Cells without a value in one of them, or without size in both (0 up to rounding, as before the
    first token that differs), are left out: they would agree whatever the maps are of.

    Raises:
        UsageError: if they do not have the same dimensions, or share fewer than two cells.
    """
    if set(one.dims) != set(other.dims) or not one.dims:
        both = " and ".join(f"({', '.join(a.dims)})" for a in (one, other))
        raise UsageError(
            f"maps with the dimensions {both} have no cells in common",
            "agreement is of maps with the same dimensions",
        )
    other = other.transpose(*one.dims)
    shared = [_shared(one.coords[d], other.coords[d]) for d in one.dims]
    a, b = (
        array.values[np.ix_(*(pair[side] for pair in shared))].astype(np.float64).reshape(-1)
        for side, array in enumerate((one, other))
    )
    known = np.isfinite(a) & np.isfinite(b) & (_has_size(a) | _has_size(b))
    a, b = a[known], b[known]
    if len(a) < 2:
        raise UsageError(f"the maps share {len(a)} cells with values", "at least 2 are needed")
    count = min(top, len(a))
    largest = [set(np.argsort(-np.abs(x), kind="stable")[:count].tolist()) for x in (a, b)]
    overlap = len(largest[0] & largest[1]) / count
    return Agreement(_spearman(a, b), overlap, count / len(a), count, len(a))


def _has_size(values: np.ndarray) -> np.ndarray:
    """Which values are not 0 up to rounding."""
    sizes = np.abs(values)
    return sizes > ROUNDING * np.max(sizes[np.isfinite(sizes)], initial=0.0)


def _shared(one: list[object], other: list[object]) -> tuple[list[int], list[int]]:
    """The indices of the coordinates that both have; a coordinate that occurs twice names none."""
    if list(one) == list(other):
        return list(range(len(one))), list(range(len(one)))
    places = [
        (list(one).index(c), list(other).index(c)) for c in _unique(one) if c in _unique(other)
    ]
    return [a for a, _ in places], [b for _, b in places]


def _unique(coordinates: list[object]) -> list[object]:
    return [c for c in coordinates if list(coordinates).count(c) == 1]


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    ranks = [_ranks(x) for x in (one, other)]
    if any(np.ptp(r) == 0 for r in ranks):
        return math.nan
    return float(np.corrcoef(np.stack(ranks))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[place]
