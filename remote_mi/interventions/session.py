"""What the session around a recipe needs where the model is."""

from __future__ import annotations

from typing import Any

import torch


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


def settled(value: Any) -> Any:
    """The outputs with every tensor detached, on the CPU and owning exactly its own numbers.

    A view would take its whole storage along, and half-precision floats become float32.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().to("cpu")
        if tensor.is_floating_point():
            tensor = tensor.float()
        return tensor.contiguous().clone()
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [settled(item) for item in value]
    return value
