"""Points within attention beside its projections: its input, and queries and keys after norms.

q → (a norm of each head) → q_normed → (rotation by position) → q_rotated → scores → pattern
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.models.structure.attention import Attention, packed_columns
from remote_mi.models.structure.block import LayerParts, SubLayer
from remote_mi.models.structure.mlp import name_entrance
from remote_mi.models.structure.observation import Call, same
from remote_mi.models.structure.scoring import name_scores

Views = dict[str, torch.Tensor]


def name_points(
    block: LayerParts,
    part: SubLayer,
    inside: Sequence[Call],
    attention: Attention,
    names: dict[str, str],
    facts: dict[str, Any],
) -> None:
    """Add the names and facts of an attention's points, and why it lacks what it lacks.

    Args:
        inside: the calls within the layer.
    """
    paths = [
        path
        for path in (attention.q_proj, attention.k_proj, attention.v_proj, attention.qkv_proj)
        if path
    ]
    takers = [c for c in inside if block.relative(c.path) in paths]
    name_entrance("attn_in", block, part, inside, takers, names)
    views = _views(block, inside, attention)
    found = {which: {which: view} for which, view in views.items()}
    for which in "qk":
        normed = _name_norm(which, block, inside, views, names, facts)
        if normed is not None:
            found[which][f"{which}_normed"] = normed
    name_scores(block, inside, attention, found, names, facts)


def _views(block: LayerParts, inside: Sequence[Call], attention: Attention) -> Views:
    """Queries and keys as their projections give them, [1, position, head, d_head]."""
    given = {block.relative(c.path): c.output for c in reversed(inside) if c.output is not None}
    heads, keys = attention.heads, attention.key_heads
    if attention.qkv_proj:
        whole = given[attention.qkv_proj]
        whole = whole.reshape(1, -1, whole.shape[-1])
        columns = packed_columns(whole.shape[-1], attention)
        return {which: whole[..., own] for which, own in zip("qk", columns, strict=False)}
    found = {}
    for which, count in (("q", heads), ("k", keys)):
        path = getattr(attention, f"{which}_proj")
        if path:
            out = given[path]
            found[which] = out.reshape(1, -1, count, out.shape[-1] // count)
    return found


def _name_norm(
    which: str,
    block: LayerParts,
    inside: Sequence[Call],
    views: Views,
    names: dict[str, str],
    facts: dict[str, Any],
) -> torch.Tensor | None:
    """Name the norm that takes queries or keys from their projection; returns what it gives."""
    site, lacks = f"{which}_normed", facts.setdefault("lacks", {})
    word = {"q": "queries", "k": "keys"}[which]
    if which not in views:
        lacks[site] = f"this model has no projection of {word} alone"
        return None
    view = views[which]
    for call in inside:
        taken = call.input
        if not call.is_leaf or taken is None or any(p.dim() > 1 for p in call.module.parameters()):
            continue
        if call.output is None or same(call.output, taken) or call.output.shape != taken.shape:
            continue
        for heads_first in (False, True):
            if same_heads(taken, view, heads_first):
                names[site] = block.relative(call.path)
                facts[f"{site}_heads_first"] = heads_first
                out = call.output.transpose(1, 2) if heads_first else call.output
                return out.reshape(view.shape)
    lacks[site] = f"no norm takes the {word} from their projection"
    return None


def same_heads(tensor: torch.Tensor, view: torch.Tensor, heads_first: bool) -> bool:
    """Whether a tensor holds the numbers of [1, position, head, d_head], heads first or not."""
    if tensor.numel() != view.numel():
        return False
    if heads_first:
        if tensor.dim() != 4 or tensor.shape[1] != view.shape[2]:
            return False
        tensor = tensor.transpose(1, 2)
    elif tensor.shape[-1] not in (view.shape[-1], view.shape[-2] * view.shape[-1]):
        return False
    return same(tensor.reshape(view.shape), view)
