"""Reading and writing activations by their names, the same on every architecture.

`lm` is the nnsight model with portable names: `lm.backbone`, `lm.layers[i]`, `lm.ln_final`,
`lm.embed_tokens`, `lm.lm_head`; on a layer `self_attn`, `self_attn.o_proj`, `mlp`, `ln_mlp` (its
input is resid_mid), `attn_add` and `mlp_add` (their outputs are what is added to the stream).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def read_site(layer: Any, site: str) -> torch.Tensor:
    """The activation at a site of one layer, inside a trace.

    Returns:
        [row, position, d_model], or [row, position, head × d_head] for "head_z".

    Raises:
        ValueError: for an unknown site, or resid_mid where blocks are parallel.
    """
    if site == "resid_pre":
        return layer.input
    if site == "head_z":
        return layer.self_attn.o_proj.input
    if site == "attn_out":
        added = layer.attn_add.output
        return added[0] if isinstance(added, tuple) else added
    if site == "resid_mid":
        return _norm_before_mlp(layer).input
    if site == "mlp_out":
        return layer.mlp_add.output
    raise ValueError(f"unknown site {site!r}")


def edit_site(
    layer: Any,
    site: str,
    edit: Callable[[torch.Tensor], torch.Tensor],
    resid_pre: torch.Tensor | None = None,
) -> None:
    """Replace the activation at a site of one layer by `edit(activation)`, inside a trace.

    resid_mid is a sum that both the MLP and the stream read, so it is written through what was
    added to it: attn_out becomes edit(resid_mid) − resid_pre.

    Args:
        edit: from the activation (shapes of `read_site`) to its replacement, of the same shape.
        resid_pre: the layer's input, when it was already read or written in this trace.

    Raises:
        ValueError: for an unknown site, or resid_mid where blocks are parallel.
    """
    if site == "resid_pre":
        layer.input = edit(layer.input if resid_pre is None else resid_pre)
    elif site == "resid_mid":
        _norm_before_mlp(layer)
        before = layer.input if resid_pre is None else resid_pre
        added = layer.attn_add.output
        if isinstance(added, tuple):
            layer.attn_add.output = (edit(before + added[0]) - before, *added[1:])
        else:
            layer.attn_add.output = edit(before + added) - before
    elif site == "attn_out":
        added = layer.attn_add.output
        if isinstance(added, tuple):
            layer.attn_add.output = (edit(added[0]), *added[1:])
        else:
            layer.attn_add.output = edit(added)
    elif site == "mlp_out":
        layer.mlp_add.output = edit(layer.mlp_add.output)
    elif site == "head_z":
        layer.self_attn.o_proj.input = edit(layer.self_attn.o_proj.input)
    else:
        raise ValueError(f"unknown site {site!r}")


def _norm_before_mlp(layer: Any) -> Any:
    try:
        return layer.ln_mlp
    except AttributeError:
        raise ValueError(
            "resid_mid does not exist here: attention and MLP of this model run in parallel; "
            "use resid_pre, attn_out or mlp_out"
        ) from None


def head_count(lm: Any) -> int:
    """Number of query heads a layer has."""
    return int(text_config(lm).num_attention_heads)


def text_config(lm: Any) -> Any:
    """The configuration of the language model proper."""
    return lm.config.get_text_config() if hasattr(lm.config, "get_text_config") else lm.config


def reuses_prefix(lm: Any) -> bool:
    """Whether keys and values of a shared prefix can be computed once and used by every row.

    It holds for causal models whose every layer attends to the full context; sliding-window and
    hybrid caches are run in full instead (same numbers, more work).
    """
    config = text_config(lm)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) if not hasattr(config, "layer_types") else 0
    return kinds == {"full_attention"} and not sliding


def read_stream(lm: Any, index: int) -> torch.Tensor:
    """The stream before layer `index`, or after the last one, inside a trace.

    It is taken where it leaves the layer before. A layer's input comes with all its arguments,
    the keys and values of every layer among them, and where a job runs in a process of its own
    they would be copied along.

    Returns:
        [row, position, d_model].
    """
    if index == 0:
        return lm.layers[0].input
    after = lm.layers[index - 1].output
    return after[0] if isinstance(after, tuple) else after


def edit_stream(lm: Any, index: int, edit: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Replace the stream before layer `index` by `edit(stream)`, inside a trace.

    Args:
        edit: may change the number of rows.

    Returns:
        The new stream.
    """
    if index == 0:
        stream = edit(lm.layers[0].input)
        lm.layers[0].input = stream
        return stream
    layer = lm.layers[index - 1]
    after = layer.output
    if isinstance(after, tuple):
        stream = edit(after[0])
        layer.output = (stream, *after[1:])
    else:
        stream = edit(after)
        layer.output = stream
    return stream


def skip_unembedding(lm: Any) -> None:
    """End a pass at the final norm, inside a trace: no logits are computed."""
    lm.lm_head.skip(torch.empty(0))


def run_residuals(lm: Any, ids: list[int]) -> list[torch.Tensor]:
    """One forward pass of one prompt: the stream before each layer and after the last.

    Returns:
        n_layers + 1 tensors of [position, d_model].
    """
    with lm.trace(input_ids=torch.tensor([ids]), use_cache=False):
        stream = [read_stream(lm, index)[0] for index in range(len(lm.layers) + 1)]
        skip_unembedding(lm)
    return stream
