"""A twin of a model: the same code and the same shapes, with random weights that take no room.

Which module adds what to the stream depends on a model's code and configuration, not on its
weights. So it is found on a twin, before anything is downloaded, and for models that no machine
at hand could hold: matrices beyond `LARGE` numbers are views of a short random vector, and a
linear layer of that size applies a product of two thin random matrices instead.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

#: Numbers in a tensor above which it takes no room of its own.
LARGE = 1 << 17
#: Rank of a large linear layer.
RANK = 16
#: Matrices of these classes get random numbers that keep the size of an activation.
_MATRICES = (torch.nn.Linear, torch.nn.Embedding)


def make_twin(auto: Any, config: Any, seed: int = 0) -> torch.nn.Module:
    """The twin of a model, in float32 on the CPU, in evaluation mode, with eager attention.

    Args:
        auto: the class that makes a model from a configuration. config: of the model; unchanged.
        seed: of the random weights; the caller's random state is left as it was.

    Raises:
        Exception: whatever the model's own code raises.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        with torch.device("meta"):
            twin = auto.from_config(config, attn_implementation="eager", dtype=torch.float32)
        for module in twin.modules():
            _give_room(module)
        twin.initialize_weights()
        twin.tie_weights()
        done: set[int] = set()
        for module in twin.modules():
            _randomize(module, done)
    if hasattr(twin, "set_experts_implementation"):
        twin.set_experts_implementation("eager")
    return twin.eval()


def _give_room(module: torch.nn.Module) -> None:
    """Replace parameters and buffers without content by zeros and ones, or by views if large."""
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and parameter.is_meta:
            made = torch.nn.Parameter(_storage(parameter), requires_grad=False)
            if parameter.numel() > LARGE:
                made._is_hf_initialized = True  # type: ignore[attr-defined]
            module._parameters[name] = made
    for name, buffer in list(module._buffers.items()):
        if buffer is not None and buffer.is_meta:
            # Not empty: what the model's own code does not begin with is the same each time.
            module._buffers[name] = torch.ones_like(buffer, device="cpu")
    weight = module._parameters.get("weight")
    if weight is not None and weight.numel() > LARGE and _is_linear(module):
        _apply_thin(module, weight)
    elif any(p is not None and p.dim() > 2 and p.numel() > LARGE for p in own(module)):
        module.forward = _Thin(None, None)  # experts


def own(module: torch.nn.Module) -> list[torch.nn.Parameter | None]:
    """A module's parameters without those of its children."""
    return list(module._parameters.values())


def _storage(like: torch.Tensor) -> torch.Tensor:
    if like.numel() <= LARGE or not like.is_floating_point():
        return torch.zeros_like(like, device="cpu")
    numbers = torch.randn(sum(like.shape)) / math.sqrt(like.shape[-1])
    return numbers.as_strided(like.shape, (1,) * like.dim())


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(module) in (torch.nn.Linear, Conv1D)


def _apply_thin(module: torch.nn.Module, weight: torch.Tensor) -> None:
    wide_in = type(module) is torch.nn.Linear
    size_in, size_out = weight.shape[::-1] if wide_in else weight.shape
    module.forward = _Thin((size_in, size_out), module)


class _Thin:
    """A linear map of low rank, and the bias of a module if it has one."""

    def __init__(self, sizes: tuple[int, int] | None, module: torch.nn.Module | None) -> None:
        self.module = module
        self.maps: tuple[torch.Tensor, torch.Tensor] | None = None
        if sizes is not None:
            self.maps = _thin_maps(*sizes)

    def __call__(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if self.maps is None:
            self.maps = _thin_maps(x.shape[-1], x.shape[-1])
        first, second = self.maps
        found = x @ first @ second
        bias = None if self.module is None else getattr(self.module, "bias", None)
        return found if bias is None else found + bias


def _thin_maps(size_in: int, size_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    first = torch.randn(size_in, RANK) / math.sqrt(size_in)
    return first, torch.randn(RANK, size_out) / math.sqrt(RANK)


def _randomize(module: torch.nn.Module, done: set[int]) -> None:
    """Change what models begin with (zeros, ones, tiny matrices): a twin must use every part."""
    for name, parameter in module._parameters.items():
        if parameter is None or id(parameter) in done or parameter.numel() > LARGE:
            continue
        done.add(id(parameter))
        if not parameter.is_floating_point():
            continue
        if parameter.dim() <= 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif name == "weight" and (isinstance(module, _MATRICES) or _is_linear(module)):
            fan_in = 1 if isinstance(module, torch.nn.Embedding) else _fan_in(module, parameter)
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(fan_in))
        elif parameter.dim() == 3 and parameter.shape[1] > 1:  # experts; not a convolution
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(max(parameter.shape[1:])))
    for name, buffer in module._buffers.items():  # single numbers that a checkpoint holds
        kept = buffer is not None and name not in module._non_persistent_buffers_set
        if buffer is not None and kept and buffer.numel() == 1 and buffer.is_floating_point():
            buffer.mul_(1 + 0.1 * torch.randn_like(buffer))


def _fan_in(module: torch.nn.Module, weight: torch.Tensor) -> int:
    return weight.shape[-1] if isinstance(module, torch.nn.Linear) else weight.shape[0]
