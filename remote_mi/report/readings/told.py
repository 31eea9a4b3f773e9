"""Which cells of a figure may be named, and why."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remote_mi.common.statistics import ROUNDING
from remote_mi.common.statistics.intervals import cluster_sums
from remote_mi.common.text import visible
from remote_mi.recipes.outputs import Ratio
from remote_mi.report import evidence
from remote_mi.report.slices import FigurePart
from remote_mi.report.wording import Slice, format_amount
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result
from remote_mi.store.samples import aligned_samples


@dataclass(frozen=True)
class Told:
    """The values that a figure shows, and which of them may be named.

    Attributes:
        part: the values. result: the result they belong to. slice_: which part of it they are.
        signed: whether 0 is declared to be their neutral value.
    """

    part: FigurePart
    result: Result
    slice_: Slice
    signed: bool = False

    @property
    def array(self) -> NamedArray:
        return self.part.array

    @property
    def name(self) -> str:
        """The output with the number of prompts, e.g. "recovery (n=8)"."""
        count = f" (n={self.part.count})" if self.part.count else ""
        return f"{visible(self.array.name)}{count}"

    def span(self, values: Sequence[float]) -> str:
        """The range of some values: "value 0.31 nats", "values from 0.31 to 0.98 nats"."""
        low, high = format_amount(min(values)), format_amount(max(values))
        return f"value{f's from {low} to {high}' if low != high else f' {low}'}{self.unit}"

    @property
    def unit(self) -> str:
        """The unit after a number, with a space before it; "" without one."""
        return f" {visible(self.part.unit)}" if self.part.unit else ""

    @functools.cached_property
    def controlled(self) -> bool:
        """Whether the values are held against a control."""
        return self.slice_.pair is None and self.result.explained(self.array.name) is not None

    @property
    def claims(self) -> bool:
        """Whether a value other than 0 says anything: if there is a control, or 0 is no change."""
        changed = self.result.card.evidence in ("interventional", "counterfactual")
        return self.controlled or changed or self.signed

    @property
    def verb(self) -> str:
        """How the values belong to a place, by the recipe's kind of evidence."""
        return evidence.verb(self.result.card.evidence)

    @property
    def reason(self) -> str:
        """Why the cells may be named."""
        return "told from its control" if self.controlled else "with an interval without 0"

    @functools.cached_property
    def sized(self) -> np.ndarray:
        """Where the values are finite and not 0 up to rounding."""
        known = np.isfinite(self.array.values) & self.part.sized
        size = np.abs(np.where(known, self.array.values, 0.0))
        largest = max(size.max(initial=0.0), 1.0 if self.ratio else 0.0)
        return size > ROUNDING * largest

    @functools.cached_property
    def cells(self) -> np.ndarray:
        """Which cells may be named: not explained by their control, their interval without 0."""
        low, high = self.array.low, self.array.high
        if self.slice_.pair is not None or (not self.controlled and low is None):
            return np.zeros(self.array.shape, bool)
        cells = self.sized & ~self.part.marked
        if low is not None and high is not None:
            cells &= (low > 0) | (high < 0)
        return cells

    @property
    def ratio(self) -> Ratio | None:
        """The ratio of which the values are; None if they are not one."""
        summary = self.result.card.summaries.get(self.array.name)
        return summary if isinstance(summary, Ratio) else None

    @functools.cached_property
    def samples(self) -> np.ndarray | None:
        """The values of each independent sample, [sample, ...]; of a ratio, those of its effect.

        Those of one cluster of prompts are summed. None for what exists over all prompts only, and
        with fewer than two prompts.
        """
        output = self.ratio.effect if self.ratio else self.array.name
        if self.part.count < 2 or output not in self.result.outputs:
            return None
        samples = aligned_samples(self.result, output)
        if len(samples) != self.part.count or samples.shape[1:] != self.part.full.shape:
            return None
        full, dims = self.part.full, self.array.dims
        shown = np.stack(
            [
                self.slice_.apply(NamedArray(one, full.dims, full.coords), dims)[0]
                .transpose(*dims)
                .values
                for one in samples
            ]
        ).astype(np.float64)
        flat = shown.reshape(len(shown), -1)
        sums, _ = cluster_sums(flat, self.result.document.get("clusters"))
        return sums.reshape(-1, *shown.shape[1:])
