"""Whether numbers bear an expectation: it holds, it fails, or that is undecided.

An expectation of one number holds if its whole 95% interval lies within the bound, fails if none
of it does, and is undecided otherwise. Over several cells, or several runs:

- What must be true of **all** (`every`, and a claim about several runs) is said to hold if it holds
  for each at the plain level. No correction is needed: to say so wrongly, the interval of a cell in
  which it is false must err, which happens in at most 5% of cases however many cells there are
  (the intersection–union test).
- What must be true of **one** (`any`, and that `every` fails somewhere) could come true by chance
  in one of many cells: the intervals of N cells are widened to the level 1 − 0.05 / N (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound, RemoteMIError
from remote_mi.common.valid_json import without_non_finite
from remote_mi.store.claims.cells import selected_indices
from remote_mi.store.claims.estimates import Estimate, cell_estimates, mean_estimate
from remote_mi.store.claims.expectation import Expectation
from remote_mi.store.samples import Sampled

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"


@dataclass(frozen=True)
class Judgement:
    """What the numbers say of an expectation. It is true in an `if` only if it holds.

    Attributes:
        verdict: "holds", "fails" or "undecided".
        estimate: the decisive cell or mean with its interval; None if there are no numbers.
        reason: why it is undecided, or a remark; "".
        cells: number of cells it speaks of.
        needed: about how many prompts would decide it; None if that is not known.
    """

    verdict: str
    estimate: Estimate | None = None
    reason: str = ""
    cells: int = 0
    needed: int | None = None

    def __bool__(self) -> bool:
        return self.verdict == HOLDS

    def __str__(self) -> str:
        found, text = self.estimate, self.verdict
        if found is not None:
            text += f": {found.value:.4g}"
            text += f" [{found.low:.4g}, {found.high:.4g}]" if found.has_interval else ""
            text += f", n={found.n}" if found.n else ""
        needed = f"about {self.needed} prompts would decide it" if self.needed else ""
        return "; ".join(filter(None, (text, self.reason, needed)))

    def to_json(self) -> dict[str, Any]:
        """As JSON; numbers that do not exist are null."""
        found = self.estimate
        numbers: dict[str, Any] = {"value": None, "low": None, "high": None, "n": None}
        if found is not None:
            numbers = {
                name: without_non_finite(getattr(found, name)) for name in ("value", "low", "high")
            }
            numbers |= {"n": found.n}
        return {
            "verdict": self.verdict,
            **numbers,
            "place": dict(found.place) if found is not None else {},
            "cells": self.cells,
            "reason": self.reason,
            "prompts_needed": self.needed,
        }


def estimates_of(result: Sampled, expectation: Expectation) -> list[Estimate]:
    """The cells that an expectation speaks of, or their mean.

    Raises:
        NotFound, UsageError: if the result lacks the output or a coordinate.
    """
    array = result[expectation.output]
    if array.values.dtype.kind not in "fiub":
        raise NotFound(f"{expectation.output!r} holds no numbers", "name an output of numbers")
    indices = selected_indices(result, array, expectation.at)
    if not all(indices):
        raise NotFound(f"{expectation.output!r} has no cells there")
    if expectation.quantifier == "mean":
        return [mean_estimate(result, array, indices)]
    return list(cell_estimates(result, array, indices))


def judge(result: Sampled, expectation: Expectation) -> Judgement:
    """What one result says of an expectation.

    Raises:
        NotFound, UsageError: if the result lacks the output or a coordinate.
    """
    return judge_estimates(estimates_of(result, expectation), expectation)


def judge_estimates(
    cells: Sequence[Estimate], expectation: Expectation, every: int = 0, runs: int = 1
) -> Judgement:
    """What the cells of one run say of an expectation, possibly of several runs.

    Args:
        every: cells of all runs that it speaks of; by default those of this run.
        runs: number of these runs.
    """
    bound, count = expectation.bound, len(cells)
    any_, widened = expectation.quantifier == "any", max(every, count)
    to_hold, to_fail = (count, runs) if any_ else (1, widened)
    ends = [(cell.ends(to_hold), cell.ends(to_fail)) for cell in cells]
    holding = [bound.includes(*hold) for hold, _ in ends]
    failing = [bound.excludes(*fail) for _, fail in ends]
    distances = np.array([_distance_inside(cell, expectation) for cell in cells])
    # The cell on which it depends: for `any` the one deepest within the bound, else the least.
    order = np.argsort(-distances if any_ else distances, kind="stable")
    decisive = cells[int(order[0])]
    if (any if any_ else all)(holding):
        return Judgement(HOLDS, decisive, cells=count)
    if (all if any_ else any)(failing):
        return Judgement(FAILS, decisive, cells=count)
    open_cells = [c for c, sure in zip(cells, holding, strict=True) if not sure]
    reason = next((why for cell in open_cells if (why := _why_no_interval(cell))), "")
    return Judgement(
        UNDECIDED, decisive, reason, count, _needed(cells, expectation, (to_hold, to_fail))
    )


def _distance_inside(cell: Estimate, expectation: Expectation) -> float:
    """How far a value is within the bound, negative outside, in units of its interval's half."""
    bound = expectation.bound
    if not np.isfinite(cell.value):
        return -np.inf
    inside = min(cell.value - bound.low, bound.high - cell.value)
    half = (cell.high - cell.low) / 2
    return inside / half if half > 0 else inside * 1e9


def _needed(
    cells: Sequence[Estimate], expectation: Expectation, tests: tuple[int, int]
) -> int | None:
    """About how many prompts would decide it, if values and spreads stayed as they are."""
    to_hold, to_fail = tests
    inside = [expectation.bound.contains(cell.value) for cell in cells]
    true = any(inside) if expectation.quantifier == "any" else all(inside)
    counts = [
        cell.prompts_needed(expectation.bound, to_hold if true else to_fail)
        for cell, within in zip(cells, inside, strict=True)
        if within == true
    ]
    known = [count for count in counts if count is not None]
    one_suffices = true if expectation.quantifier == "any" else not true
    if one_suffices:
        return min(known, default=None)
    return max(known, default=None) if len(known) == len(counts) else None


def _why_no_interval(cell: Estimate) -> str:
    """Why a cell has no interval; "" if it has one."""
    if not np.isfinite(cell.value):
        return cell.why_none or "a value is not a finite number"
    if cell.has_interval:
        return ""
    if cell.n == 1:
        return "one prompt says nothing about others; take at least 2"
    return "there is no interval"


def holds(result: Sampled, expectation: Expectation) -> Judgement:
    """As `judge`, but numbers that are not there make it undecided, with the reason."""
    try:
        return judge(result, expectation)
    except RemoteMIError as error:
        return Judgement(UNDECIDED, reason=". ".join(filter(None, (error.message, error.hint))))
