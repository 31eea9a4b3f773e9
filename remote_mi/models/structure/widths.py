"""How wide each site of a layer is, measured on the twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remote_mi.models.structure.observation import Call

#: Site → the portable name of the module that shows its width, and which side of it.
_SHOWN_BY = {
    "attn_in": ("attn_in", "input"),
    "mixer_in": ("mixer_in", "input"),
    "mlp_in": ("mlp_in", "input"),
    "q": ("self_attn.q_proj", "output"),
    "k": ("self_attn.k_proj", "output"),
    "v": ("self_attn.v_proj", "output"),
    "head_z": ("self_attn.o_proj", "input"),
    "mlp_hidden": ("down_proj", "input"),
    "mlp_gate": ("gate_proj", "output"),
    "mlp_up": ("up_proj", "output"),
}


def widths(
    prefix: str, inside: Sequence[Call], names: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, int]:
    """Numbers per position at each site of a layer whose width is not that of the stream.

    Args:
        prefix: of paths of the layer, with a dot. inside: the calls within it.
    """
    by_path = {call.path.removeprefix(prefix): call for call in reversed(inside)}
    found: dict[str, int] = {}
    for site, (name, side) in _SHOWN_BY.items():
        call = by_path.get(names.get(name, ""))
        tensor = None if call is None else getattr(call, side)
        if tensor is not None:
            found[site] = int(tensor.shape[-1])
    heads, keys = facts.get("heads", 0), facts.get("key_heads", 0)
    if "self_attn.qkv_proj" in names and heads:
        d_head = found["head_z"] // heads
        found.update(q=heads * d_head, k=keys * d_head, v=keys * d_head)
    if "gate_up_proj" in names:
        found["mlp_gate"] = found["mlp_up"] = found["mlp_hidden"]
    for which in "qk":
        if which in found:
            found[f"{which}_normed"] = found[f"{which}_rotated"] = found[which]
    if "expert_count" in facts:
        found["router_logits"] = found["expert_weights"] = facts["expert_count"]
    return found
