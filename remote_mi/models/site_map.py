"""Which sites a model has, layer by layer, with their shapes, and why it lacks the others.

Read from a model that was built without weights; the refusals are those of the table itself.
"""

from __future__ import annotations

from typing import Any

#: Site → its dimensions; "head" and "key head" stand before what each of them has.
DIMS = {
    "q": ("position", "head", "d_head"),
    "k": ("position", "key head", "d_head"),
    "v": ("position", "key head", "d_head"),
    "q_normed": ("position", "head", "d_head"),
    "k_normed": ("position", "key head", "d_head"),
    "q_rotated": ("position", "head", "d_head"),
    "k_rotated": ("position", "key head", "d_head"),
    "attn_scores": ("head", "query", "key"),
    "attn_pattern": ("head", "query", "key"),
    "head_z": ("position", "head", "d_head"),
    "head_out": ("position", "head", "d_model"),
    "mlp_gate": ("position", "neuron"),
    "mlp_up": ("position", "neuron"),
    "mlp_hidden": ("position", "neuron"),
    "router_logits": ("position", "expert"),
    "expert_weights": ("position", "expert"),
    "logits": ("position", "vocabulary"),
}
_STREAM = ("position", "d_model")


def site_map(lm: Any) -> dict[str, Any]:
    """What `remote-mi models sites` shows.

    Args:
        lm: nnsight's model with portable names, with or without weights.

    Returns:
        {"architecture", "layer_count", "once": [site, …], "kinds": [{"layers": [index, …],
        "named": text, "sites": [site, …], "adds": [portable name, …]}]}: layers with the same sites and shapes are
        one kind; a site is {"site", "shape", "dims", "width", "missing"}, with `missing` the reason
        why it is not there, or "".
    """
    from remote_mi.interventions.model_info import fact
    from remote_mi.interventions.ports import name_layers
    from remote_mi.interventions.sites import SITES

    once = [site for site, row in SITES.items() if row.once]
    kinds: list[dict[str, Any]] = []
    for layer in range(len(lm.layers)):
        sites = [_described(lm, site, layer) for site in SITES if site not in once]
        adds = list(fact(lm.layers[layer], "adds", ["attn_add", "mlp_add"]))
        alike = next((k for k in kinds if k["sites"] == sites and k["adds"] == adds), None)
        if alike is None:
            kinds.append({"layers": [layer], "adds": adds, "sites": sites})
        else:
            alike["layers"].append(layer)
    for kind in kinds:
        kind["named"] = name_layers(kind["layers"])
    return {
        "architecture": type(lm._module).__name__,
        "layer_count": len(lm.layers),
        "once": [_described(lm, site, 0) for site in once],
        "kinds": kinds,
    }


def _described(lm: Any, site: str, layer: int) -> dict[str, Any]:
    """One site of one layer; sizes that are not known without a run are left to their names."""
    from remote_mi.interventions.model_info import info
    from remote_mi.interventions.sites import row_of

    dims, missing = DIMS.get(site, _STREAM), row_of(site).why_not(lm, layer)
    found: dict[str, Any] = {"site": site, "dims": list(dims), "missing": missing}
    if missing:
        return {**found, "shape": "", "width": None}
    width = _width(lm, site, layer)
    of_model = info(lm)
    heads = _heads(lm, layer, dims)
    if site in ("attn_scores", "attn_pattern"):
        return {**found, "shape": f"[{heads}, query, key]", "width": None}
    if site == "logits":
        width = of_model.vocabulary
    if heads and width:
        return {**found, "shape": f"[position, {heads} × {width // heads}]", "width": width}
    last = f"{width:,}" if width else dims[-1]
    return {**found, "shape": f"[position, {last}]", "width": width}


def _heads(lm: Any, layer: int, dims: tuple[str, ...]) -> int:
    from remote_mi.interventions.model_info import fact, head_count, key_head_count

    block = lm.layers[layer]
    if "key head" in dims:
        return int(fact(block, "key_heads", 0) or key_head_count(lm))
    return int(fact(block, "heads", 0) or head_count(lm)) if "head" in dims else 0


def _width(lm: Any, site: str, layer: int) -> int | None:
    """Numbers per position; None if the structure does not say."""
    from remote_mi.interventions.model_info import fact, has_unembedding, info

    measured = fact(lm.layers[layer], "widths", {}).get(site)
    if measured is not None:
        return int(measured)
    d_model = info(lm).d_model
    if site == "embed":
        return int(lm.embed_tokens.weight.shape[-1])
    if site == "head_out":
        return d_model * _heads(lm, layer, DIMS[site])
    if site == "final_norm" and has_unembedding(lm):
        return int(lm.lm_head.weight.shape[-1])
    return d_model if DIMS.get(site, _STREAM) == _STREAM else None
