"""Tests by randomisation: what stands out from its control, and what differs between two runs.

Within every unit (an independent sample) the effect and the draws of its control exchange roles.
If one law made them all, every assignment of the roles is as likely as the one that was observed,
whatever that law is and however the cells of a map depend on each other. The size of the mean over
the units is compared with what it is under other assignments, for all cells of a map at once:
Westfall & Young's (1993) step-down over the largest cell, so that the chance of any false claim in
a map is at most LEVEL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Largest chance of a false claim in one map.
LEVEL = 0.05
#: All assignments are tried up to this many; beyond it, that many at random and the observed one.
MOST_ASSIGNMENTS = 2000
#: Most numbers of one block of statistics: assignments × cells.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Exchange:
    """The result of exchanging roles.

    Attributes:
        p: for each cell the smallest level at which it is told from its control, corrected for all
            cells of the map; NaN for cells left out.
        assignments: how many there are; with fewer than 1 / LEVEL nothing can be claimed.
    """

    p: np.ndarray
    assignments: int

    @property
    def can_claim(self) -> bool:
        """Whether there are enough assignments to claim anything at LEVEL."""
        return self.assignments * LEVEL >= 1


def assignments(units: int, draws: int) -> int:
    """In how many ways the effect and `draws` draws of a control take their roles in the units."""
    return (draws + 1) ** units if units * math.log(draws + 1) < 40 else 10**17


def units_needed(draws: int) -> int:
    """With how many units there are enough assignments to claim anything at LEVEL; 0: never."""
    return math.ceil(math.log(1 / LEVEL) / math.log(draws + 1) - 1e-9) if draws else 0


def draws_needed(units: int) -> int:
    """With how many draws there are enough assignments to claim anything at LEVEL."""
    return math.ceil((1 / LEVEL) ** (1 / units) - 1 - 1e-9) if units else 0


def exchange_roles(
    effect: np.ndarray, control: np.ndarray, left_out: np.ndarray | None = None
) -> Exchange:
    """How rare sizes as large as those of the mean effect are when roles are exchanged.

    Args:
        effect: [unit, ...], sums over the samples of each unit.
        control: [unit, draw, ...], the same of each draw of the control.
        left_out: [...], cells that are no cells: they are neither tested nor compared with.
    """
    units, draws = control.shape[:2]
    shape = effect.shape[1:]
    both = np.concatenate([effect[:, None], control], 1).reshape(units, draws + 1, -1)
    both = both.astype(np.float64)
    tested = np.isfinite(both).all((0, 1))
    if left_out is not None:
        tested &= ~np.asarray(left_out).reshape(-1)
    p = np.full(tested.shape, np.nan)
    count = assignments(units, draws)
    if tested.any() and draws:
        p[tested] = _step_down(both[:, :, tested], _roles(units, draws, count))
    return Exchange(p.reshape(shape), count)


def _roles(units: int, draws: int, count: int) -> np.ndarray:
    """Assignments, [assignment, unit], the observed one first: which draw plays the effect."""
    if count <= MOST_ASSIGNMENTS:
        return np.stack(np.unravel_index(np.arange(count), (draws + 1,) * units), 1)
    drawn = np.random.default_rng(0).integers(0, draws + 1, (MOST_ASSIGNMENTS, units))
    drawn[0] = 0
    return drawn


def _step_down(both: np.ndarray, roles: np.ndarray) -> np.ndarray:
    """Corrected levels of cells, from [unit, role, cell] and [assignment, unit]."""
    units, every, cells = both.shape
    chosen = np.zeros((len(roles), units, every))
    np.put_along_axis(chosen, roles[:, :, None], 1.0, 2)
    chosen = chosen.reshape(len(roles), -1)
    observed = np.abs(both[:, 0].sum(0))
    order = np.argsort(observed, kind="stable")  # the largest is tested last, against all
    largest = np.zeros(len(roles))
    p = np.empty(cells)
    step = max(1, _BLOCK // len(roles))
    for start in range(0, cells, step):
        block = order[start : start + step]
        sizes = np.abs(chosen @ both[:, :, block].reshape(units * every, -1))
        sizes = np.maximum.accumulate(np.maximum(sizes, largest[:, None]), 1)
        largest = sizes[:, -1]
        p[block] = (sizes >= observed[block] * (1 - 1e-9)).mean(0)
    p[order[::-1]] = np.maximum.accumulate(p[order[::-1]])
    return p
