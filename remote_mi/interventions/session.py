"""What the session around a recipe needs on the machine with the model."""

from __future__ import annotations

from typing import Any

import torch


def use_attention(lm: Any, kind: str) -> str:
    """Switch the model to an implementation of attention.

    A server shares its model between jobs, so the caller must restore the previous one. Servers
    with nnsight 0.8.0 do not switch by themselves for a job that requests another one.

    Args:
        kind: transformers' name, "eager", "sdpa" …; only "eager" gives attention weights.

    Returns:
        The previous implementation.
    """
    before = lm._module.config._attn_implementation
    if before != kind:
        lm._module.set_attn_implementation(kind)
    return before


def settled(value: Any) -> Any:
    """The outputs with every tensor detached, on the CPU and owning exactly its own numbers.

    A view would bring its whole storage along. Half-precision floats become float32.
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


def placed(lm: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a recipe, with tensors on the device of the model's embedding.

    Where the process has no weights, as in a sandbox, they stay on the CPU.
    """
    if not any(isinstance(value, torch.Tensor) for value in parameters.values()):
        return parameters
    device = lm.embed_tokens.weight.device
    if device.type == "meta":
        return parameters
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in parameters.items()
    }
