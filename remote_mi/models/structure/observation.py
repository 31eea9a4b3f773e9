"""Running a model once with a hook on every module, to see which tensor goes where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

#: How far tensors of one run may differ and still be the same, relative to their length.
SAME = 1e-4


class Call:
    """One call of a module.

    Attributes:
        path: the module's. module: itself. arguments: positional and by keyword, as they came.
        taken: the tensors of numbers among the arguments. given: those among the outputs.
        began, ended: places in the order of all beginnings and ends of calls.
        changed_later: whether later code changed its first output in place.
    """

    def __init__(self, path: str, module: torch.nn.Module, began: int) -> None:
        self.path, self.module, self.began, self.ended = path, module, began, began
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.taken: list[torch.Tensor] = []
        self.given: list[torch.Tensor] = []
        self.changed_later = False

    @property
    def input(self) -> torch.Tensor | None:
        """The first tensor that it takes."""
        return self.taken[0] if self.taken else None

    @property
    def output(self) -> torch.Tensor | None:
        """The first tensor that it gives."""
        return self.given[0] if self.given else None

    @property
    def is_leaf(self) -> bool:
        """Whether the module has no modules of its own."""
        return not any(True for _ in self.module.children())

    @property
    def is_matrix(self) -> bool:
        """Whether the module has a matrix and takes and gives what that has rows and columns of."""
        weight = self.module._parameters.get("weight")
        if weight is None or weight.dim() != 2 or self.input is None or self.output is None:
            return False
        return self.is_leaf and {self.input.shape[-1], self.output.shape[-1]} == set(weight.shape)

    def __repr__(self) -> str:
        return f"<Call {self.path} {self.began}–{self.ended}>"


def observe(
    module: torch.nn.Module, inputs: Mapping[str, Any], args: Sequence[Any] = ()
) -> tuple[list[Call], Any]:
    """Run a module and record every call, in the order of their beginnings.

    Args:
        inputs: of the module, by keyword. args: by position.

    Returns:
        the calls, and the model's output.
    """
    calls: list[Call] = []
    open_calls: list[Call] = []
    originals: list[tuple[Call, torch.Tensor | None]] = []
    clock = iter(range(1 << 40))

    def enter(path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(path, module, next(clock))
            call.arguments = (args, dict(kwargs))
            call.taken = list(_copies((args, kwargs)))
            calls.append(call)
            open_calls.append(call)

        return hook

    def leave(module: torch.nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        call = open_calls.pop()
        call.ended = next(clock)
        call.given = list(_copies(output))
        originals.append((call, next(tensors_of(output), None)))

    hooks = []
    for path, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(enter(path), with_kwargs=True))
        hooks.append(part.register_forward_hook(leave, with_kwargs=True))
    try:
        with torch.no_grad():
            output = module(*args, **inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for call, original in originals:
        call.changed_later = original is not None and not torch.equal(original, call.given[0])
    return calls, output


def _copies(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of numbers in a nested value, copied: later code may change them in place."""
    return (tensor.detach().clone() for tensor in tensors_of(value))


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of numbers in a nested value."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)


def is_norm(call: Call) -> bool:
    """Whether a call's module has vectors for weights, and no matrix."""
    return all(p.dim() <= 1 for p in call.module.parameters())


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two tensors hold the same numbers, but for rounding and leading dimensions."""
    if one is None or other is None or one.numel() != other.numel():
        return False
    if one.shape[-1] != other.shape[-1]:
        return False
    a, b = one.reshape(-1), other.reshape(-1)
    return bool((a - b).norm() <= SAME * b.norm())


def factor_between(one: torch.Tensor | None, other: torch.Tensor | None) -> float | None:
    """The number by which one tensor is to be multiplied to be another; None if there is none."""
    if one is None or other is None or one.numel() != other.numel():
        return None
    a, b = one.reshape(-1).double(), other.reshape(-1).double()
    if not float(a.norm()) or not float(b.norm()):
        return None
    factor = float(a @ b / (a @ a))
    return tidy(factor) if (factor * a - b).norm() <= SAME * b.norm() else None


def tidy(factor: float) -> float:
    """A measured factor without the last digits, which are rounding: 1.0 is exactly 1.0."""
    short = float(f"{factor:.4g}")
    return short if abs(factor - short) < 2e-6 * abs(factor) else factor
