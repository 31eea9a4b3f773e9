"""The parts of a mixture of experts: its router's logits, and the weights that experts get.

Proven on the twin: the logits are a matrix times what the router takes, and turning them changes
what the router gives; what experts give for a token is the sum over its chosen experts of weight ·
what that expert gives alone with weight 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.models.structure.observation import Call, same
from remote_mi.models.structure.operations import operations

#: Experts with more numbers than this are proven on a single token.
MANY = 1 << 20


def name_experts(
    prefix: str, of_mlp: Sequence[Call], names: dict[str, str], facts: dict[str, Any]
) -> bool:
    """Add the names and facts of experts, and why they lack what they lack.

    Args:
        prefix: of paths of the layer, with a dot. of_mlp: the calls of the MLP.

    Returns:
        whether there are experts.
    """
    lacks = facts.setdefault("lacks", {})
    calls = [c for c in of_mlp if _arrays_of_experts(c)]
    if not calls:
        for site in ("router_logits", "expert_weights"):
            lacks[site] = "this MLP is no mixture of experts"
        return False
    for site in ("mlp_gate", "mlp_up", "mlp_hidden"):
        lacks[site] = "this MLP is a mixture of experts"
    count = max(int(p.shape[0]) for p in _arrays_of_experts(calls[0]))
    facts["expert_count"] = count
    _name_router(prefix, of_mlp, count, names, facts)
    for call in calls:
        places = _proven_places(call)
        if places is not None:
            names["experts"] = call.path.removeprefix(prefix)
            facts["expert_arguments"] = places
            return True
    lacks["expert_weights"] = "what the experts give is not the sum of weight · each one's own"
    return True


def _arrays_of_experts(call: Call) -> list[torch.Tensor]:
    return [p for p in call.module.parameters(recurse=False) if p.dim() == 3 and p.shape[0] > 1]


def _proven_places(call: Call) -> list[int] | None:
    """Places of indices and weights among the arguments; None if they are not proven."""
    args, kwargs = call.arguments
    if kwargs or not isinstance(args[0], torch.Tensor):
        return None
    tokens = args[0].shape[0]
    places: dict[bool, int] = {}
    for place, arg in enumerate(args[1:], 1):
        if isinstance(arg, torch.Tensor) and arg.dim() == 2 and arg.shape[0] == tokens:
            places[arg.is_floating_point()] = place
    if len(places) < 2 or args[places[True]].shape != args[places[False]].shape:
        return None
    some = 1 if sum(p.numel() for p in _arrays_of_experts(call)) > MANY else tokens
    x, chosen, weights = (args[p][:some] for p in (0, places[False], places[True]))

    def given(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        taken = list(args)
        taken[0], taken[places[False]], taken[places[True]] = x, index, weight
        return type(call.module).forward(call.module, *taken)

    try:
        with torch.no_grad():
            whole = given(chosen, weights)
            alone = [
                given(chosen[:, [slot]], torch.ones_like(weights[:, [slot]])) * weights[:, [slot]]
                for slot in range(chosen.shape[1])
            ]
    except Exception:  # experts of another kind
        return None
    return [places[False], places[True]] if same(sum(alone), whole) else None  # type: ignore[arg-type]


def _name_router(
    prefix: str, of_mlp: Sequence[Call], count: int, names: dict[str, str], facts: dict[str, Any]
) -> None:
    """Find the logits by which experts are chosen: a matrix of [expert, d_model] times the input."""
    for call in of_mlp:
        logits = _product(call, count)
        if logits is None:
            continue
        if len(call.given) == 1 and same(call.output, logits):
            names["router"] = call.path.removeprefix(prefix)
            return
        for one in operations(call)[0]:
            value = one.value
            if not isinstance(value, torch.Tensor) or value.shape != logits.shape:
                continue
            if same(value, logits) and _turns(call, one.path):
                names["router"] = call.path.removeprefix(prefix)
                place = {"path": list(one.path), "side": "output"}
                facts.setdefault("operations", {})["router_logits"] = place
                return
    facts["lacks"]["router_logits"] = "no call in the source of this router gives its logits"


def _product(call: Call, count: int) -> torch.Tensor | None:
    """A call's own matrix of [expert, d_model], with its bias, times its input."""
    matrices = [p for p in call.module.parameters(recurse=False) if p.dim() == 2]
    biases = [p for p in call.module.parameters(recurse=False) if tuple(p.shape) == (count,)]
    if call.input is None or len(matrices) != 1 or len(biases) > 1:
        return None
    if tuple(matrices[0].shape) != (count, call.input.shape[-1]):
        return None
    rows = call.input.reshape(-1, call.input.shape[-1]).to(matrices[0].dtype)
    with torch.no_grad():
        found = torch.nn.functional.linear(rows, matrices[0])
        whole = found + biases[0] if biases else found
    listed = [t for t in call.given if t.numel() == found.numel()]
    for tensor in (whole, found):  # a bias may be of the choice alone, and no part of the logits
        if not listed or any(same(tensor, one) for one in listed):
            return tensor
    return whole


def _turns(call: Call, path: tuple[str, ...]) -> bool:
    """Whether other logits change what the router gives besides them."""
    output = operations(call, {path: lambda value: -value})[1]
    own = operations(call)[1]
    if not isinstance(output, (tuple, list)) or not isinstance(own, (tuple, list)):
        return False
    pairs = zip(output, own, strict=True)
    changed = [not torch.equal(new, old) for new, old in pairs if isinstance(new, torch.Tensor)]
    return sum(changed) > 1
