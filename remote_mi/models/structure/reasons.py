"""Why a layer does not have the sites that it lacks, where no search has said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Sites of attention → the portable name without which they do not exist, and why that is missing.
_OF_ATTENTION = {
    "attn_in": ("attn_in", "no module takes attention's input alone"),
    "q": ("self_attn.q_proj", "no matrix gives the queries of every head"),
    "k": ("self_attn.k_proj", "no matrix gives the keys of every head"),
    "v": ("self_attn.v_proj", "the pattern times no matrix's output is head_z"),
    "q_normed": ("q_normed", "no matrix gives the queries of every head"),
    "k_normed": ("k_normed", "no matrix gives the keys of every head"),
    "q_rotated": ("scoring", "where the scores are computed is not known"),
    "k_rotated": ("scoring", "where the scores are computed is not known"),
    "attn_scores": ("scoring", "where the scores are computed is not known"),
    "attn_pattern": ("self_attn", "there is no attention with weights of its own"),
    "head_z": ("self_attn.o_proj", "no matrix gives what attention adds"),
    "head_out": ("self_attn.o_proj", "no matrix gives what attention adds"),
    "attn_out": ("attn_add", "no module gives what attention adds"),
}
_OF_MIXER = {
    "mixer_in": ("mixer_in", "no module takes the input of what mixes the positions alone"),
    "mixer_out": ("mixer_add", "no module gives what mixes the positions"),
}
_OF_MLP = {
    "mlp_in": ("mlp_in", "no module takes the MLP's input alone"),
    "mlp_gate": ("gate_proj", "this MLP has no gate"),
    "mlp_up": ("up_proj", "this MLP is no matrix after another"),
    "mlp_hidden": ("down_proj", "this MLP is no matrix after another"),
    "router_logits": ("router", "this MLP is no mixture of experts"),
    "expert_weights": ("experts", "this MLP is no mixture of experts"),
    "mlp_out": ("mlp_add", "no module gives what the MLP adds"),
}
_OF_OTHER = {"other_out": ("other_add", "nothing else in this layer adds to its stream")}
#: One matrix for several: the names that it stands for.
_FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "self_attn.pattern": ("self_attn",),
}


def refuse(name: str, why: str, facts: dict[str, Any]) -> None:
    """Note why a layer lacks what a portable name stands for, at every site that needs it.

    Args:
        facts: of the layer; the first reason for a site stays.
    """
    names = {name, *_FUSED.get(name, ())}
    for group in (_OF_ATTENTION, _OF_MIXER, _OF_MLP, _OF_OTHER):
        for site, (needed, _) in group.items():
            if needed in names:
                facts["lacks"].setdefault(site, why)


def reasons(names: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, str]:
    """Site → why a layer does not have it, for every site that it lacks.

    Args:
        names, facts: of the layer; what a search said stands in `facts["lacks"]`.
    """
    there = {*names, *(one for whole in _FUSED if whole in names for one in _FUSED[whole])}
    said = facts.get("lacks", {})
    found = dict(said)
    for group, part, why in (
        (_OF_ATTENTION, "attn_add", _without_attention(names)),
        (_OF_MIXER, "mixer_add", "nothing in this layer mixes the positions"),
        (_OF_MLP, "mlp_add", "this layer has no MLP"),
        (_OF_OTHER, "other_add", _OF_OTHER["other_out"][1]),
    ):
        for site, (name, reason) in group.items():
            if part not in names:
                found[site] = why
            elif name not in there and site not in found:
                found[site] = reason
    return found


def _without_attention(names: Mapping[str, str]) -> str:
    if "mixer_add" in names:
        return "this layer mixes the positions without attention: use mixer_in or mixer_out"
    return "this layer has no attention"
