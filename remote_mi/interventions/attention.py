"""Which implementation of attention a model runs with."""

from __future__ import annotations

from typing import Any


def use_attention(lm: Any, kind: str) -> str:
    """Let the model run with an implementation of attention.

    A server shares its model between jobs, so who changes it puts back what it was. Servers with
    nnsight 0.8.0 do not change it themselves for a job that asks for another.

    Args:
        kind: as transformers names it, "eager", "sdpa" …; "eager" alone gives attention weights.

    Returns:
        What it ran with before.
    """
    before = lm._module.config._attn_implementation
    if before != kind:
        lm._module.set_attn_implementation(kind)
    return before
