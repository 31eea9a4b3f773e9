"""Reading and writing activations by their names, the same on every architecture.

`lm` is the nnsight model with portable names: `lm.backbone`, `lm.layers[i]`, `lm.ln_final`,
`lm.embed_tokens`, `lm.lm_head`; on a layer `self_attn`, `self_attn.o_proj`, `mlp`, `ln_mlp` (its
input is resid_mid), `attn_add` and `mlp_add` (their outputs are what is added to the stream).

Where the stream is normalised after each addition (BERT), `ln_after_attn` and `ln_after_mlp` are
the norms that do it. `mlp_flat` is another name of `mlp_add` where the model runs the MLP on rows
and positions in one dimension (OPT).
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
        ValueError: for an unknown site, or resid_mid where it does not exist.
    """
    if site == "resid_pre":
        return layer.input
    if site == "head_z":
        return layer.self_attn.o_proj.input
    if site == "attn_out":
        return _first(layer.attn_add.output)
    if site == "resid_mid":
        norm = _norm_before_mlp(layer)
        if hasattr(layer, "mlp_flat"):
            shape = _first(layer.attn_add.output).shape
            return norm.input.reshape(shape)
        return norm.input
    if site == "mlp_out":
        added = _first(layer.mlp_add.output)
        if hasattr(layer, "mlp_flat"):
            return added.reshape(_first(layer.output).shape)
        return added
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
        ValueError: for an unknown site, or resid_mid where it does not exist.
    """
    if site == "resid_pre":
        layer.input = edit(layer.input if resid_pre is None else resid_pre)
    elif site == "resid_mid":
        _norm_before_mlp(layer)
        before = layer.input if resid_pre is None else resid_pre
        _edit_output(layer.attn_add, lambda added: edit(before + added) - before)
    elif site == "attn_out":
        _edit_output(layer.attn_add, edit)
    elif site == "mlp_out":
        if hasattr(layer, "mlp_flat"):
            shape = _first(layer.attn_add.output).shape
            _edit_output(
                layer.mlp_add, lambda added: edit(added.reshape(shape)).reshape(added.shape)
            )
        else:
            _edit_output(layer.mlp_add, edit)
    elif site == "head_z":
        layer.self_attn.o_proj.input = edit(layer.self_attn.o_proj.input)
    else:
        raise ValueError(f"unknown site {site!r}")


def _first(output: Any) -> torch.Tensor:
    """A module's activation, where its output may be a tuple that begins with it."""
    return output[0] if isinstance(output, tuple) else output


def _edit_output(module: Any, edit: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Replace what a module gives by `edit` of it; returns the replacement."""
    output = module.output
    edited = edit(_first(output))
    module.output = (edited, *output[1:]) if isinstance(output, tuple) else edited
    return edited


def _norm_before_mlp(layer: Any) -> Any:
    try:
        return layer.ln_mlp
    except AttributeError:
        why = "attention and MLP of this model run in parallel"
        if hasattr(layer, "ln_after_attn"):
            why = "this model normalises the stream after each addition"
        raise ValueError(
            f"resid_mid does not exist here: {why}; use resid_pre, attn_out or mlp_out"
        ) from None


def head_count(lm: Any) -> int:
    """Number of query heads a layer has."""
    return int(text_config(lm).num_attention_heads)


def text_config(lm: Any) -> Any:
    """The configuration of the language model proper."""
    return lm.config.get_text_config() if hasattr(lm.config, "get_text_config") else lm.config


def is_causal(lm: Any) -> bool:
    """Whether a position attends to those before it only. Encoders attend to all."""
    for module in lm.layers[0]._module.modules():
        causal = getattr(module, "is_causal", None)
        if causal is not None:
            return bool(causal)
    return True


class NoUnembedding:
    """Stands for `lm.lm_head` in a model that gives no logits; whatever is asked of it is refused.

    An encoder may come without a language-model head.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by Python, not by a recipe
            raise AttributeError(name)
        raise ValueError(
            "this model has no unembedding: it gives representations and no logits, so nothing "
            "can be read from it as tokens; take a model with a language-model head"
        )

    def __call__(self, *_: Any) -> Any:
        return self.forward


def has_unembedding(lm: Any) -> bool:
    """Whether the model gives logits."""
    return not isinstance(lm.lm_head, NoUnembedding)


def require_unembedding(lm: Any) -> None:
    """Refuse a model that gives no logits, before anything is run.

    Raises:
        ValueError: with the reason.
    """
    _ = lm.lm_head.weight


#: Rotary embeddings whose angles are the same however long the text is.
_STEADY_ROPES = ("default", "linear", "yarn", "llama3", "proportional")


def context_length(lm: Any) -> int:
    """The longest text that a model takes, in tokens.

    Where the angles of its rotary embedding grow with the longest text so far ("dynamic"), that is
    the length up to which they do not: beyond it a text's numbers depend on earlier texts.
    """
    config = text_config(lm)
    given = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limits = [limit for kind, limit in _ropes(config) if "dynamic" in kind]
    return min([int(given or 1 << 20), *limits])


def steady_length(lm: Any) -> int:
    """Up to how many tokens a text's keys and values do not depend on how long it is.

    Longer texts may have other angles in their rotary embedding, from the first token on: "longrope"
    has two sets of them. A model that was proved otherwise when it was loaded has none (0).
    """
    limits = [limit for kind, limit in _ropes(text_config(lm)) if kind not in _STEADY_ROPES]
    return min([1 << 30, *limits]) if getattr(lm, "prefix_proved", True) else 0


def _ropes(config: Any) -> list[tuple[str, int]]:
    """Kind of each rotary embedding, and the length up to which it is as it begins."""
    given = getattr(config, "rope_parameters", None) or {}
    tables = [table for table in given.values() if isinstance(table, dict)] or [given]
    found = []
    for table in tables:
        kind = str(table.get("rope_type") or "default")
        limit = (
            table.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or getattr(config, "max_position_embeddings", None)
        )
        known = kind in ("longrope", "dynamic", *_STEADY_ROPES)
        found.append((kind, int(limit or 1 << 30) if known else 0))
    return found


def reuses_prefix(lm: Any) -> bool:
    """Whether keys and values of a shared prefix can be computed once and used by every row.

    They are to come from a run of the whole text, or of one within `steady_length`. It holds for
    causal models whose every layer attends to the full context, and is tried out when a model is
    loaded. In an encoder the prefix depends on what follows it; sliding-window and hybrid caches
    are run in full instead (same numbers, more work).
    """
    if not is_causal(lm) or not getattr(lm, "prefix_proved", True):
        return False
    config = text_config(lm)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) if not hasattr(config, "layer_types") else 0
    return kinds == {"full_attention"} and not sliding


def read_stream(lm: Any, index: int) -> torch.Tensor:
    """The stream before layer `index`, or after the last one, inside a trace.

    Index 0 is what the first layer reads: the embeddings of tokens with whatever a family adds to
    them (positions, a scale, a norm), so not always `lm.embed_tokens.output`.
    It is taken where it leaves the layer before. A layer's input comes with all its arguments,
    the keys and values of every layer among them, and where a job runs in a process of its own
    they would be copied along.

    Returns:
        [row, position, d_model].
    """
    if index == 0:
        return lm.layers[0].input
    return _first(lm.layers[index - 1].output)


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
    return _edit_output(lm.layers[index - 1], edit)


def skip_unembedding(lm: Any) -> None:
    """End a pass at the final norm, inside a trace: no logits are computed."""
    if has_unembedding(lm):
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
