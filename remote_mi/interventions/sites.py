"""The table of sites: one row per site, which defines how to read, edit and differentiate it.

`lm` is the nnsight model with portable names: `lm.backbone`, `lm.layers[i]`, `lm.ln_final`,
`lm.embed_tokens`, `lm.lm_head`; on a layer `self_attn`, `self_attn.o_proj`, `mlp`, `ln_mlp` (its
input is resid_mid), `attn_add` and `mlp_add` (their outputs are what is added to the stream),
`down_proj` (its input is mlp_hidden), and on `self_attn` the projections of queries, keys and
values: `q_proj`, `k_proj`, `v_proj`, or `qkv_proj` for all three.

Within a trace each value can be accessed once, in the order in which the model computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.interventions.attention_sites import (
    PROJECTIONS,
    HeadNorm,
    HeadOut,
    Pattern,
)
from remote_mi.interventions.mlp_sites import ExpertWeights, GateOrUp, Inlet
from remote_mi.interventions.model_info import head_count, info, key_head_count
from remote_mi.interventions.model_sites import Logits, Once
from remote_mi.interventions.operation_sites import Operation, RouterLogits, Scores
from remote_mi.interventions.ports import Change, Middle, Port, Stream, require


def read(lm: Any, layer: int, site: str | Stream) -> torch.Tensor:
    """The activation at a site of one layer, inside a trace.

    Returns:
        [row, position, width]; for "attn_pattern" [row, head, query, key], whose sum over keys is
        1.

    Raises:
        ValueError: for an unknown site, or one that does not exist in this model.
    """
    row = row_of(site)
    require(lm, str(site), row, [layer])
    return row.read(lm, layer)


def edit(lm: Any, layer: int, site: str | Stream, change: Change) -> None:
    """Replace the activation at a site of one layer by `change(activation)`, inside a trace.

    Args:
        change: from the activation (in the shapes of `read`) to a replacement of the same shape.

    Raises:
        ValueError: for an unknown site, or one that does not exist in this model.
    """
    row = row_of(site)
    require(lm, str(site), row, [layer])
    row.edit(lm, layer, change)


#: Site → how it is read, edited and differentiated; `vocabulary` describes each.
SITES: dict[str, Any] = {
    "embed": Once("embed", "embed_tokens", late=False),
    "resid_pre": Stream(0),
    "attn_in": Inlet("attn_in", prefix=False),
    "mixer_in": Inlet("mixer_in", prefix=False),
    "q": PROJECTIONS["q"],
    "k": PROJECTIONS["k"],
    "v": PROJECTIONS["v"],
    "q_normed": HeadNorm("q_normed", "query"),
    "k_normed": HeadNorm("k_normed", "key"),
    "q_rotated": Operation("q_rotated", "scoring", "query"),
    "k_rotated": Operation("k_rotated", "scoring", "key"),
    "attn_scores": Scores(),
    "attn_pattern": Pattern(),
    "head_z": Port("self_attn.o_proj", "input", "query", "head_z"),
    "head_out": HeadOut(),
    "attn_out": Port("attn_add", "output", site="attn_out"),
    "mixer_out": Port("mixer_add", "output", site="mixer_out"),
    "resid_mid": Middle(),
    "mlp_in": Inlet("mlp_in"),
    "mlp_gate": GateOrUp("gate"),
    "mlp_up": GateOrUp("up"),
    "mlp_hidden": Port("down_proj", "input", site="mlp_hidden"),
    "router_logits": RouterLogits(),
    "expert_weights": ExpertWeights(),
    "mlp_out": Port("mlp_add", "output", site="mlp_out"),
    "other_out": Port("other_add", "output", site="other_out"),
    "resid_post": Stream(1),
    "final_norm": Once("final_norm", "ln_final", late=True),
    "logits": Logits(),
}


def row_of(site: str | Stream) -> Any:
    """The row of a site: from the table, or one that a recipe brings along.

    Raises:
        ValueError: for an unknown site.
    """
    if isinstance(site, Stream):
        return site
    if site not in SITES:
        raise ValueError(f"unknown site {site!r}; there are {', '.join(SITES)}")
    return SITES[site]


def part_count(lm: Any, site: str | Stream) -> int:
    """How many heads a site's width divides into; 1 for none."""
    parts = row_of(site).parts
    return 1 if not parts else head_count(lm) if parts == "query" else key_head_count(lm)


def having(lm: Any, row: Stream) -> list[int]:
    """The layers that have a site."""
    return [layer for layer in range(len(lm.layers)) if not row.why_not(lm, layer)]


def chosen_layers(
    lm: Any, site: str | Stream, layers: Sequence[int] | None, asked: str = "read"
) -> list[int]:
    """The layers named by a parameter; for None all that have the site.

    Args:
        asked: "read"; or "measured", for what is measured at the end of a run.

    Raises:
        ValueError: for a layer that does not exist or lacks the site, with the layers that have it;
            for a site that no layer has.
    """
    row = row_of(site)
    if layers is not None:
        chosen = list(layers) if row.once else info(lm).chosen(layers)
    else:
        chosen = [0] if row.once else having(lm, row) or info(lm).chosen(None)
    require(lm, str(site), row, chosen)
    if asked == "measured" and isinstance(row, Logits):
        raise ValueError(
            "logits can be read and edited, but nothing is measured after them: metrics are read "
            "from final_norm; use that"
        )
    return chosen
