"""Maps of cells without neighbours, e.g. heads: which stand out together, and what they sum to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from remote_mi.common.text import visible
from remote_mi.report.readings.told import Told
from remote_mi.report.wording import format_amount

#: Cells named of either sign; the others are counted.
_MOST = 3


def cell_reading(told: Told) -> Iterator[str]:
    """How many cells stand out, the largest of either sign, and what they sum to."""
    many = int(told.cells.sum())
    if not many:
        return
    groups = {word: _ranked(told, sign) for word, sign in (("positive", 1), ("negative", -1))}
    counts = " and ".join(f"{len(some)} {word}" for word, some in groups.items() if some)
    yield (
        f"{told.name} {told.verb} {many} of {told.array.values.size} {_noun(told)}, {counts}: "
        f"each {told.reason}."
    )
    for word, some in groups.items():
        if some:
            named = "; ".join(told.part.value_with_place(at) for at in some[:_MOST])
            yield f"Largest {word}: {named}."
            yield from _sum(told, word, some)


def _noun(told: Told) -> str:
    dims = told.array.dims
    if len(dims) == 1:
        return f"{visible(dims[0])}s"
    return "heads" if set(dims) == {"layer", "head"} else "cells"


def _ranked(told: Told, sign: int) -> list[tuple[int, ...]]:
    """The cells of one sign that may be named, largest first."""
    values = sign * told.array.values.astype(np.float64)
    flat = np.where(told.cells & (values > 0), values, 0.0).reshape(-1)
    order = np.argsort(-flat, kind="stable")[: int((flat > 0).sum())]
    return [tuple(map(int, np.unravel_index(int(i), told.array.shape))) for i in order]


def _sum(told: Told, word: str, cells: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """What the largest sum to, where values are effects."""
    evidence = told.result.card.evidence
    changed = evidence in ("interventional", "counterfactual")
    if len(cells) < 2 or not (told.ratio or told.signed or changed):
        return
    values = [float(told.array.values[at]) for at in cells]
    whole, some = sum(values), sum(values[:_MOST])
    unit = f" of the mean {visible(told.ratio.gap)}" if told.ratio else told.unit
    if len(values) <= _MOST:
        text = f"The {len(values)} {word} ones sum to {format_amount(whole)}{unit}"
    else:
        text = (
            f"The {_MOST} largest {word} ones sum to {format_amount(some)}{unit}, all "
            f"{len(values)} to {format_amount(whole)}"
        )
    # Contributions that are read from one run are parts of a sum; effects of interventions are not.
    read = evidence == "observational" and not told.ratio
    yield f"{text}." if read else f"{text}; single effects need not add."
