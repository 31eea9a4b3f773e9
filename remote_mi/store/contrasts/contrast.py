"""`result.compare(other)`: what two results say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from remote_mi.common.display import Displayed
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.valid_json import without_non_finite
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.store.contrasts.agreement import TOP, Agreement, agreement
from remote_mi.store.contrasts.paired import PairedDifference, paired_difference
from remote_mi.store.samples import Sampled

#: Level at which a difference is called one.
LEVEL = 0.05


@dataclass(frozen=True, repr=False)
class Contrast(Displayed):
    """Two results side by side. In a notebook it displays itself.

    Attributes:
        a, b: the results; differences are b − a.
        only: names of the outputs that are compared; all that both have if empty.
    """

    a: Sampled
    b: Sampled
    only: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Outputs and summaries of numbers that both have over all prompts."""
        return [
            name
            for name in self.a.names()
            if (not self.only or name in self.only)
            and all(
                name in r.arrays and kind_of_output(r.outputs.get(name)).averaged
                for r in (self.a, self.b)
            )
        ]

    def difference(self, name: str) -> PairedDifference:
        """The paired difference of an output or summary: b − a, interval, p.

        Raises:
            UsageError, NotFound: if the two are not of the same prompts or cells.
        """
        return paired_difference(self.a, self.b, name)

    def agreement(self, name: str, other: str = "", top: int = TOP) -> Agreement:
        """Whether two maps agree: rank correlation, and overlap of the largest cells.

        Args:
            other: the output's name in b, if it is not the same. top: how many of the largest.

        Raises:
            UsageError, NotFound: if they have no cells in common.
        """
        return agreement(self.a[name], self.b[other or name], top)

    def rows(self) -> list[Mapping[str, Any]]:
        """One row per output: its difference if it is a number, else its largest; agreement."""
        return [self._row(name) for name in self.names]

    def _row(self, name: str) -> Mapping[str, Any]:
        row: dict[str, Any] = {"output": name, "cells": int(self.a[name].values.size)}
        try:
            found = self.difference(name)
        except RemoteMIError as error:
            row["why_not"] = error.message
        else:
            sizes = np.abs(np.nan_to_num(found.difference.values))
            index = tuple(int(i) for i in np.unravel_index(int(sizes.argmax()), sizes.shape))
            estimate, p = found.at(index)
            row |= {
                "n": found.n,
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": p,
                "place": dict(estimate.place),
                "cells_that_differ": int((found.p < LEVEL).sum()),
            }
        if self.a[name].dims:
            try:
                same = self.agreement(name)
            except RemoteMIError as error:
                row.setdefault("why_not", error.message)
            else:
                row["agreement"] = vars(same)
        return row

    def to_json(self) -> dict[str, Any]:
        """As JSON; numbers that do not exist are null."""
        return {"outputs": [without_non_finite(row) for row in self.rows()]}
