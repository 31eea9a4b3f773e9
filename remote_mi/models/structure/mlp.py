"""The parts of an MLP: its last matrix, its gate and its neurons before the activation.

Proven on the twin: what the last matrix takes is act(gate) · up, or act(up) without a gate, for an
activation that the model calls as a module or that transformers knows by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from remote_mi.models.structure.block import LayerParts, SubLayer
from remote_mi.models.structure.experts import name_experts
from remote_mi.models.structure.observation import Call, factor_between, same

#: How one matrix for both arranges them in its output.
ORDERS = ("gate_up", "up_gate")


def name_mlp(
    block: LayerParts,
    part: SubLayer,
    inside: Sequence[Call],
    names: dict[str, str],
    facts: dict[str, Any],
) -> None:
    """Add the names and facts of an MLP, and why it lacks what it lacks.

    Args:
        inside: the calls within the layer.
    """
    root = f"{block.call.path}.{part.root}"
    of_root = [c for c in inside if c.path == root or c.path.startswith(f"{root}.")]
    norms = {norm.path for norm in block.norms}
    if len(of_root) > 1 and not any(c.path in norms for c in of_root):
        # T5 has the norm and the addition in the sub-layer, too.
        names["mlp"] = part.root if part.source.is_leaf else block.relative(part.source.path)
    output = part.adds.output
    if output is not None and output.dim() == 2:
        names["mlp_flat"] = names["mlp_add"]
    down = _last_matrix(part, of_root)
    if name_experts(f"{block.call.path}.", of_root, names, facts):
        down = None
    if down is not None:
        names["down_proj"] = block.relative(down.path)
        _name_gate_and_up(block, down, inside, names, facts)
    elif "mlp_hidden" not in facts["lacks"]:
        why = "this MLP is no matrix after another"
        facts["lacks"].update({"mlp_hidden": why, "mlp_gate": why, "mlp_up": why})
    takers = [c for c in inside if block.relative(c.path) in _matrices(names)]
    name_entrance("mlp_in", block, part, inside, takers, names)


def _matrices(names: dict[str, str]) -> list[str]:
    """Paths of the first matrices of an MLP."""
    return [names[n] for n in ("gate_proj", "up_proj", "gate_up_proj") if n in names]


def _last_matrix(part: SubLayer, of_root: Sequence[Call]) -> Call | None:
    for call in of_root:
        if call.is_leaf and _is_matrix(call) and factor_between(call.output, part.source.output):
            return call
    return None


def _is_matrix(call: Call) -> bool:
    """Whether a call's module has a matrix from the width that it takes to that which it gives.

    Experts have matrices too: a bias of each, for example.
    """
    if call.input is None or call.output is None:
        return False
    sizes = sorted((call.input.shape[-1], call.output.shape[-1]))
    return any(sorted(p.shape) == sizes for p in call.module.parameters() if p.dim() == 2)


def _name_gate_and_up(
    block: LayerParts,
    down: Call,
    inside: Sequence[Call],
    names: dict[str, str],
    facts: dict[str, Any],
) -> None:
    """Find the gate and what it is multiplied by, or the neurons before the activation alone."""
    hidden = down.input
    assert hidden is not None
    lacks = facts.setdefault("lacks", {})
    width = hidden.shape[-1]
    matrices = [
        c
        for c in inside
        if c.is_leaf
        and c.ended < down.began
        and c.output is not None
        and c.output.numel() in (hidden.numel(), 2 * hidden.numel())
        and c.output.shape[-1] in (width, 2 * width)
        and _is_matrix(c)
    ]
    for call in [c for c in matrices if c.output.shape[-1] == width]:  # type: ignore[union-attr]
        for activated in _activated(call.output, inside):  # type: ignore[arg-type]
            if factor_between(activated, hidden):
                names["up_proj"] = block.relative(call.path)
                lacks["mlp_gate"] = "this MLP has no gate"
                return
            for other in matrices:
                if other is call or other.output.shape[-1] != width:  # type: ignore[union-attr]
                    continue
                if _product_is(activated, other.output, hidden):
                    names["gate_proj"] = block.relative(call.path)
                    names["up_proj"] = block.relative(other.path)
                    return
    for call in [c for c in matrices if c.output.shape[-1] == 2 * width]:  # type: ignore[union-attr]
        halves = call.output.split(width, -1)  # type: ignore[union-attr]
        for order, (gate, up) in zip(ORDERS, (halves, halves[::-1]), strict=True):
            if any(_product_is(a, up, hidden) for a in _activated(gate, inside)):
                names["gate_up_proj"] = block.relative(call.path)
                facts["gate_up_order"] = order
                return
    why = "the neurons are no known activation of a matrix's output, nor such times another's"
    lacks["mlp_gate"] = lacks["mlp_up"] = why


def _product_is(one: torch.Tensor, other: torch.Tensor | None, hidden: torch.Tensor) -> bool:
    assert other is not None
    return bool(factor_between(one.reshape(hidden.shape) * other.reshape(hidden.shape), hidden))


def _activated(values: torch.Tensor, inside: Sequence[Call]) -> Iterator[torch.Tensor]:
    """What activations make of some values: as observed, if the model calls a module on them."""
    called = False
    for call in inside:
        if not call.is_leaf or call.output is None or any(p.dim() > 1 for p in _own(call)):
            continue
        if factor_between(values, call.input) and not same(call.input, call.output):
            called = True
            yield call.output
    if not called:
        for function in _activations():
            yield function(values)


def _own(call: Call) -> list[torch.nn.Parameter]:
    return list(call.module.parameters())


@functools.cache
def _activations() -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """The activations that transformers knows by name."""
    from transformers.activations import ACT2FN

    found: list[Callable[[torch.Tensor], torch.Tensor]] = []
    seen: list[torch.Tensor] = []
    probe = torch.linspace(-3, 3, 25)
    for name in ACT2FN:
        try:
            function = ACT2FN[name]
            given = function(probe)
        except Exception:  # some need a package or a device of their own
            continue
        if name == "linear" or any(torch.equal(given, other) for other in seen):
            continue
        seen.append(given)
        found.append(function)
    return found


def name_entrance(
    name: str,
    block: LayerParts,
    part: SubLayer,
    inside: Sequence[Call],
    takers: Sequence[Call],
    names: dict[str, str],
) -> None:
    """Name the module whose input is a sub-layer's input, and reaches nothing else.

    It holds the matrices that read it, and adds nothing of its input to what it gives: its output
    is the sub-layer's, or it ends before that.

    Args:
        takers: the calls that read it; none if they are not known.
    """
    root = f"{block.call.path}.{part.root}"
    for call in sorted(inside, key=lambda c: (len(c.path.split(".")), c.began)):
        below = call.path == root or call.path.startswith(f"{root}.")
        if not below and call not in takers:
            continue
        ends_before = bool(takers) and call.ended < part.source.ended
        if not ends_before and factor_between(call.output, part.source.output) is None:
            continue
        if call.input is None or call.input.shape[-1] != block.call.input.shape[-1]:  # type: ignore[union-attr]
            continue
        held = all(_holds(call, taker) and same(taker.input, call.input) for taker in takers)
        if held and (takers or call.path == root):
            names[name] = block.relative(call.path)
            return


def _holds(outer: Call, inner: Call) -> bool:
    return outer.began <= inner.began and inner.ended <= outer.ended
