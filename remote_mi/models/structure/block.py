"""The parts of one layer: which modules' outputs are added to the stream, and where."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from remote_mi.models.structure.observation import (
    SAME,
    Call,
    factor_between,
    is_norm,
    same,
    tidy,
)
from remote_mi.models.structure.whole import Unfit

#: How far an activation must move, relative to its length, to depend on something: beyond rounding.
MIXES = 1e-5


@dataclass
class SubLayer:
    """A sub-layer and what it adds to the stream.

    Attributes:
        adds: the call whose output, times `factor`, is added.
        source: the call whose output that is before a norm of its own; else the same call.
        root: path of the sub-layer, below the layer.
        mixes: whether a position's output depends on other positions.
    """

    adds: Call
    factor: float
    source: Call
    root: str
    mixes: bool


@dataclass
class LayerParts:
    """The parts of one layer.

    Attributes:
        parts: what is added to the stream, in the order in which it is computed.
        norms: in a layer that normalises the stream after each addition, the calls that do.
        middle: the call that takes the stream between the two parts; None if they run in parallel.
        times: name of a weight of the layer, of one number, that its stream is multiplied by at its
            end (Gemma 4); "" for none.
    """

    call: Call
    parts: list[SubLayer]
    norms: list[Call] = field(default_factory=list)
    middle: Call | None = None
    times: str = ""

    def relative(self, path: str) -> str:
        """A module's path below the layer."""
        return path.removeprefix(f"{self.call.path}.")


def find_block(call: Call, calls: Sequence[Call]) -> LayerParts:
    """Find the parts of a layer from the calls within it.

    Raises:
        Unfit: if what it adds to the stream is the sum of no few modules' outputs.
    """
    inside = [c for c in calls if call.began < c.began and c.ended < call.ended]
    inside.sort(key=lambda c: (len(c.path.split(".")), c.began))  # outermost first
    before, after = call.input, call.output
    assert before is not None and after is not None
    candidates = _distinct([c for c in inside if _fits(c, before)])
    for name, number in {"": 1.0, **single_numbers(call.module)}.items():
        added = _sum_of(after / number - before, candidates)
        if added is not None:
            parts = [_part(c, f, call, inside) for c, f in added]
            parts.sort(key=lambda part: part.adds.began)
            found = LayerParts(call, parts, times=name)
            found.middle = _middle(found, before, inside)
            return found
    normed = _normalised(before, after, candidates, call, inside)
    if normed is not None:
        return normed
    if _sum_of(after, candidates) is not None:
        raise Unfit("it adds up its modules' outputs without the stream before it")
    if _sum_of(after, candidates, with_also=before) is not None:
        raise Unfit("it multiplies the stream itself by a number, beside adding to it")
    raise Unfit("what it adds to its stream is not the sum of its modules' outputs, times numbers")


def single_numbers(module: torch.nn.Module) -> dict[str, float]:
    """A module's own weights of one number each, which is not 0."""
    own = {**module._parameters, **module._buffers}
    found = {
        name: float(tensor.detach())
        for name, tensor in own.items()
        if tensor is not None and tensor.numel() == 1 and tensor.is_floating_point()
    }
    return {name: number for name, number in found.items() if number}


def _fits(call: Call, stream: torch.Tensor) -> bool:
    out = call.output
    return out is not None and out.numel() == stream.numel() and out.shape[-1] == stream.shape[-1]


def _distinct(calls: Sequence[Call]) -> list[Call]:
    """Of calls with one output the outermost."""
    found: list[Call] = []
    for call in calls:
        if not any(same(call.output, other.output) for other in found):
            found.append(call)
    return found


def _sum_of(
    target: torch.Tensor,
    candidates: Sequence[Call],
    most: int = 3,
    with_also: torch.Tensor | None = None,
) -> list[tuple[Call, float]] | None:
    """The fewest calls whose outputs, times numbers, add up to a tensor.

    Args:
        with_also: a tensor that may be added as well, times a number.
    """
    goal = target.reshape(-1).double()
    size = float(goal.norm())
    columns = [call.output.reshape(-1).double() for call in candidates]  # type: ignore[union-attr]
    always = [] if with_also is None else [len(columns)]
    if with_also is not None:
        columns.append(with_also.reshape(-1).double())
    if not columns:
        return None
    every = torch.stack(columns, 1)
    products, aims = every.T @ every, every.T @ goal
    for count in range(1, most + 1):
        for chosen in itertools.combinations(range(len(candidates)), count):
            used = [*chosen, *always]
            solved = torch.linalg.lstsq(products[used][:, used], aims[used, None]).solution[:, 0]
            if float((every[:, used] @ solved - goal).norm()) <= SAME * size:
                factors = [tidy(float(number)) for number in solved]
                if all(factor > 0 for factor in factors):
                    return [(candidates[i], f) for i, f in zip(chosen, factors, strict=False)]
    return None


def _part(adds: Call, factor: float, layer: Call, inside: Sequence[Call]) -> SubLayer:
    source = adds
    if adds.is_leaf or is_norm(adds):
        taken = adds.input
        earlier = [c for c in inside if c.ended < adds.began and same(c.output, taken)]
        # A norm after the sub-layer: the sub-layer is what gives it its input.
        if is_norm(adds) and earlier:
            source = earlier[0]
    steps = source.path.removeprefix(f"{layer.path}.").split(".")
    ran = {c.path.removeprefix(f"{layer.path}.") for c in inside}
    # The outermost module that runs: in T5 a sub-layer is in a list of them.
    root = next(r for r in (".".join(steps[: i + 1]) for i in range(len(steps))) if r in ran)
    return SubLayer(adds, factor, source, root, _mixes(source, f"{layer.path}.{root}", inside))


def _mixes(source: Call, root: str, inside: Sequence[Call]) -> bool:
    """Whether a sub-layer's output at later positions depends on its input at the first."""
    call = next((c for c in inside if c.path == root), source)
    if source.began < call.began or source.ended > call.ended:
        call = source
    changed = _again(call)
    if changed is None:
        return False
    own, other = call.output, changed
    assert own is not None
    rest, moved = (x.reshape(-1, x.shape[-1])[1:] for x in (own, other))
    # Position by position: a window may reach the next one only, and memory may fade.
    return bool(((moved - rest).norm(dim=-1) > MIXES * rest.norm(dim=-1)).any())


def _again(call: Call) -> torch.Tensor | None:
    """A module's output if the first position of its input is another."""
    taken = call.input
    if taken is None:
        return None
    args, kwargs = call.arguments
    done = False

    def swap(value: Any) -> Any:
        nonlocal done
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not done:
            done = True
            changed = taken.clone()
            flat = changed.view(-1, changed.shape[-1])
            flat[0] = flat[0].flip(0) + 1.0
            return changed
        return value

    args = tuple(swap(value) for value in args)
    kwargs = {name: swap(value) for name, value in kwargs.items()}
    with torch.no_grad():
        output = call.module(*args, **kwargs)
    return output[0] if isinstance(output, (tuple, list)) else output


def _middle(block: LayerParts, before: torch.Tensor, inside: Sequence[Call]) -> Call | None:
    """The call whose input is the stream after the first part was added, if a part follows."""
    if len(block.parts) < 2:
        return None
    first = block.parts[0]
    added = first.adds.output
    assert added is not None
    middle = before + first.factor * added.reshape(before.shape)
    later = [c for c in inside if c.began > first.adds.ended and same(c.input, middle)]
    return later[0] if later else None


def _normalised(
    before: torch.Tensor,
    after: torch.Tensor,
    candidates: Sequence[Call],
    layer: Call,
    inside: Sequence[Call],
) -> LayerParts | None:
    """A layer of the form norm(norm(stream + first) + second)."""
    for last in [c for c in inside if same(c.output, after) and is_norm(c)]:
        for first in [c for c in inside if c.ended < last.began and is_norm(c)]:
            if not _fits(first, before) or first.input is None or last.input is None:
                continue
            added = _sum_of(first.input.reshape(before.shape) - before, candidates, 1)
            if added is None or first.output is None:
                continue
            rest = last.input.reshape(before.shape) - first.output.reshape(before.shape)
            second = _sum_of(rest, candidates, 1)
            if second is None:
                continue
            parts = [_part(c, f, layer, inside) for c, f in (*added, *second)]
            return LayerParts(layer, parts, [first, last])
    return None


def scaled_output(call: Call, target: torch.Tensor | None) -> float | None:
    """By which number a call's output is to be multiplied to be a tensor; None for no number."""
    return factor_between(call.output, target)
