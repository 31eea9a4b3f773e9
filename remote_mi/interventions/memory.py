"""A memory budget for what runs at a time: the rows of a pass, its graph, its logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: The planned size in bytes of the rows of a pass; None without a plan.
_planned: int | None = None


@contextmanager
def memory(size: int | None) -> Iterator[None]:
    """A context in which the rows of a pass take at most the planned number of bytes.

    Without a plan (None), they take half of a GPU's free memory, or 1 GiB elsewhere.
    """
    global _planned
    before = _planned
    _planned = size
    try:
        yield
    finally:
        _planned = before


def rows_that_fit(device: torch.device, row: int) -> int:
    """How many rows of the given size in bytes fit into memory at a time, at least 1.

    On a GPU, the plan is limited to three quarters of the memory that is free.
    """
    if device.type != "cuda":
        budget = _planned or 1 << 30
    else:
        free = torch.cuda.mem_get_info(device)[0]
        budget = min(_planned, free * 3 // 4) if _planned else free // 2
    return max(1, budget // max(1, row))
