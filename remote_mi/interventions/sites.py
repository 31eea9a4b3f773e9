"""The table of sites: one row per site, which defines how to read, edit and differentiate it.

`lm` is the nnsight model with portable names: `lm.backbone`, `lm.layers[i]`, `lm.ln_final`,
`lm.embed_tokens`, `lm.lm_head`; on a layer `self_attn`, `self_attn.o_proj`, `mlp`, `ln_mlp` (its
input is resid_mid), `attn_add` and `mlp_add` (their outputs are what is added to the stream),
`down_proj` (its input is mlp_hidden), and on `self_attn` the projections of queries, keys and
values: `q_proj`, `k_proj`, `v_proj`, or `qkv_proj` for all three.

Within a trace each value can be accessed once, in the order in which the model computes them.
"""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions.attention_sites import VALUES, Pattern, Projection
from remote_mi.interventions.model_info import head_count, key_head_count
from remote_mi.interventions.ports import Change, Middle, Port, Stream


def read(lm: Any, layer: int, site: str | Stream) -> torch.Tensor:
    """The activation at a site of one layer, inside a trace.

    Returns:
        [row, position, width]; for "attn_pattern" [row, head, query, key], whose sum over keys is
        1.

    Raises:
        ValueError: for an unknown site, or one that does not exist in this model.
    """
    return row_of(site).read(lm, layer)


def edit(lm: Any, layer: int, site: str | Stream, change: Change) -> None:
    """Replace the activation at a site of one layer by `change(activation)`, inside a trace.

    Args:
        change: from the activation (in the shapes of `read`) to a replacement of the same shape.

    Raises:
        ValueError: for an unknown site, or one that does not exist in this model.
    """
    row_of(site).edit(lm, layer, change)


#: Site → how it is read, edited and differentiated; `vocabulary` describes each.
SITES: dict[str, Any] = {
    "resid_pre": Stream(0),
    "resid_mid": Middle(),
    "resid_post": Stream(1),
    "q": Projection("q", "query"),
    "k": Projection("k", "key"),
    "v": VALUES,
    "head_z": Port("self_attn.o_proj", "input", "query"),
    "attn_out": Port("attn_add", "output"),
    "mlp_hidden": Port(
        "down_proj",
        "input",
        why_not="mlp_hidden does not exist here: this MLP is no matrix after another",
    ),
    "mlp_out": Port("mlp_add", "output"),
    "mixer_out": Port("mixer_add", "output"),
    "attn_pattern": Pattern(),
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
