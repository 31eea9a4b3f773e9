"""What a recipe returns, made small and plain before it leaves the model's machine."""

from __future__ import annotations

from typing import Any

import torch


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
