"""One budget for what runs at a time: the rows of a pass, the graph of one, logits held at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: What the rows of one pass may take, in bytes, as somebody planned it; None where nobody did.
_planned: int | None = None


@contextmanager
def memory(size: int | None) -> Iterator[None]:
    """Work in which the rows of a pass take so many bytes at most, as somebody planned it.

    Without a plan (None) it is half of a GPU's free memory, and 1 GiB elsewhere.
    """
    global _planned
    before = _planned
    _planned = size
    try:
        yield
    finally:
        _planned = before


def rows_that_fit(device: torch.device, row: int) -> int:
    """How many rows of so many bytes each memory holds at a time, at least 1.

    Of a GPU never more than leaves room beside what is planned.
    """
    if device.type != "cuda":
        budget = _planned or 1 << 30
    else:
        free = torch.cuda.mem_get_info(device)[0]
        budget = min(_planned, free * 3 // 4) if _planned else free // 2
    return max(1, budget // max(1, row))
