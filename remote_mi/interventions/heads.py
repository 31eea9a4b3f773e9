"""What single components add to the stream, and how much of a logit each addition is.

Everything here is measured by calling the model's own modules inside a trace, so it needs no
weights in this process: an output projection is linear, so each head's share is its output with
the other heads at zero; a norm is linear once its scale at a position is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from remote_mi.interventions.metrics import has_weights, no_autocast
from remote_mi.interventions.sites import head_count, read_site, read_stream, text_config

#: Logits that one call of the unembedding may give where its rows cannot be had.
MODULE_LOGITS = 1 << 25


def attention_weights(layer: Any) -> torch.Tensor:
    """How much each query attends to each key, inside a trace, as the model computed it.

    To be read: they are handed on for this purpose only, and changing them changes nothing. What
    attention gives is changed at its result, the site head_z.

    Returns:
        [row, head, query, key]; each row of keys sums to 1.

    Raises:
        ValueError: if the model does not give them (only eager attention does).
    """
    output = layer.self_attn.output
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if weights is None:
        raise ValueError("the model gives no attention weights: it needs eager attention")
    return weights


def split_heads(layer: Any, z: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What each query head adds to the output of the projection, and the projection's bias.

    Args:
        z: the projection's input at one position, [head × d_head].

    Returns:
        [head, d_model] and [d_model], float32; their sum is the projection's output.
    """
    own = torch.eye(heads, dtype=torch.bool, device=z.device)
    own = own.repeat_interleave(z.shape[-1] // heads, 1)
    rows = torch.cat([z * own, torch.zeros_like(z)[None]])  # of zeros it gives its bias
    with no_autocast(z):
        out = layer.self_attn.o_proj(rows).float()
    return out[:-1] - out[-1], out[-1]


def freeze_norm(
    norm: Any, before: torch.Tensor, after: torch.Tensor
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """A norm as the linear map it is at one position, with the scale it has there.

        norm(x) = scale · weight ∘ (x − mean(x)) + bias        without the mean for an RMS norm

    Weight (Gemma's 1 + w, too), bias and whether the mean is subtracted are found from what the
    norm makes of three vectors: alternating ±1, its negative, and all ones. The scale is the one
    that leads from `before` to `after`.

    Args:
        norm: the module, inside a trace.
        before, after: its input and output at the position, [d_model].

    Returns:
        the map without its bias, [..., d_model] → [..., d_model] in float32; the bias, [d_model].
    """
    sign = torch.ones_like(before)
    sign[1::2] = -1
    with no_autocast(before):
        out = norm(torch.stack([sign, -sign, torch.ones_like(before)])).float()
    bias = (out[0] + out[1]) / 2
    weight = (out[0] - out[1]) / 2 * sign.float()
    kept = ((out[2] - bias) * weight).sum() / (weight * weight).sum()
    centred = 1 - kept.round()  # 1 where a constant vector is lost: its mean is subtracted

    def map_without_scale(x: torch.Tensor) -> torch.Tensor:
        x = x.float().to(weight.device)
        return weight * (x - centred * x.mean(-1, keepdim=True))

    unscaled = map_without_scale(before)
    rest = after.float().to(weight.device) - bias
    scale = (rest * unscaled).sum() / (unscaled * unscaled).sum()
    return lambda x: scale * map_without_scale(x), bias


def stream_parts(lm: Any, position: int) -> dict[str, torch.Tensor]:
    """What every component adds to the final stream at one position of row 0, inside a trace.

    A norm between attention and the stream (Gemma 2) is applied to each head's share with the
    scale it has here; its bias counts to the attention bias.

    Returns:
        "embedding" [d_model]: the stream before the first layer;
        "head" [layer, head, d_model]; "attention_bias" [layer, d_model]; "mlp" [layer, d_model];
        "stream" [d_model]: the stream after the last layer, the sum of all these.
        float32, all on the device of "stream".
    """
    heads = head_count(lm)
    embedding = read_stream(lm, 0)[0, position]
    by_head, biases, mlps = [], [], []
    for layer in lm.layers:
        shares, bias = split_heads(layer, read_site(layer, "head_z")[0, position], heads)
        if not _holds(layer.attn_add, layer.self_attn.o_proj):
            added = read_site(layer, "attn_out")[0, position]
            whole = (shares.sum(0) + bias).to(added.dtype)
            linear, norm_bias = freeze_norm(layer.attn_add, whole, added)
            shares, bias = linear(shares), linear(bias) + norm_bias
        by_head.append(shares)
        biases.append(bias)
        mlps.append(read_site(layer, "mlp_out")[0, position].float())
    stream = read_stream(lm, len(lm.layers))[0, position].float()

    def together(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([part.to(stream.device) for part in parts])

    return {
        "embedding": embedding.float().to(stream.device),
        "head": together(by_head),
        "attention_bias": together(biases),
        "mlp": together(mlps),
        "stream": stream,
    }


def _holds(outer: Any, inner: Any) -> bool:
    """Whether a module is another, or has it inside."""
    return any(module is inner._module for module in outer._module.modules())


def linear_logits(
    lm: Any, vectors: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The unembedding as the linear map it is, before any soft-cap, inside a trace.

    Args:
        vectors: of the size of the final norm's output, [row, d_model].
        tokens: token ids, [token].

    Returns:
        logits without the bias, [row, token]; the bias, [token]. float32.
    """
    head, table = lm.lm_head, lm.embed_tokens
    bias = getattr(head, "bias", None)
    if has_weights(lm):
        here = tokens.to(head.weight.device)
        weight = head.weight[here]
        offset = None if bias is None else bias[here]
    elif head.weight is table.weight and bias is None and _is_plain(table):
        weight, offset = table(tokens), None
    else:
        return _logits_by_the_module(lm, vectors, tokens)
    with no_autocast(vectors):
        logits = vectors.float() @ weight.to(vectors.device).float().T
    if offset is None:
        return logits, torch.zeros_like(logits[0])
    return logits, offset.to(logits.device).float()


def _is_plain(table: Any) -> bool:
    """Whether an embedding gives its own rows; Gemma's are scaled."""
    return type(table._module) is torch.nn.Embedding


def _logits_by_the_module(
    lm: Any, vectors: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where only the module can be asked: what it gives, less what it gives for zeros."""
    size, dtype = lm.lm_head.weight.shape[0], lm.lm_head.weight.dtype

    def read_out(rows: torch.Tensor) -> torch.Tensor:
        logits = lm.lm_head(rows.to(dtype))
        return logits[:, tokens.to(logits.device)].float()

    with no_autocast(vectors):
        offset = read_out(torch.zeros_like(vectors[:1]))[0]
        chunks = vectors.split(max(1, MODULE_LOGITS // size))
        return torch.cat([read_out(rows) - offset for rows in chunks]), offset


def refuse_other_streams(lm: Any) -> None:
    """Refuse models whose final stream is not the sum of what was added, or not unembedded as is.

    Raises:
        ValueError: with the reason.
    """
    name = type(lm._module).__name__
    if hasattr(lm.layers[0], "ln_after_attn"):
        raise ValueError(
            f"{name} normalises its stream in every layer, so its final state is no sum of what "
            "the components added; patch them instead (head_patching)"
        )
    config = text_config(lm)
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise ValueError(
            f"{name} projects the final norm's output before the unembedding, which direct "
            "attribution does not follow; patch the components instead (head_patching)"
        )
