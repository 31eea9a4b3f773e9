"""What single components add to the stream, and how much each adds to a logit.

Everything here is measured by calling the model's own modules inside a trace, so it needs no
weights in this process: an output projection is linear, so each head's share is its output with
the other heads at zero; a norm is linear once its scale at a position is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from remote_mi.interventions.forward import stack
from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.model_info import head_count
from remote_mi.interventions.ports import (
    added_times,
    adds,
    ends_multiplied,
    own_output,
    read_stream,
    times,
)
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.readout import (
    LOGITS_SHARE,
    for_unembedding,
    linear_scale,
    no_autocast,
    skip_unembedding,
    unembedding_rows,
)
from remote_mi.interventions.sites import chosen_layers, read


def direct_logits(
    lm: Any, prompt: Prompt, tokens: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """How much each component adds directly to logits where the answer is read, in one pass.

    The final norm is treated as linear, with the scale that it has in this run, and the
    unembedding is taken before any soft-cap.

    Args:
        tokens: ids of the tokens whose logits to decompose, [token].

    Returns:
        what each component adds to the logits: "embedding" [token]: the stream before the first
        layer; "head" [layer, head, token]; "attention_bias" [layer, token]; "mlp" [layer, token],
        NaN in layers without one; "other" [layer, token]: what further parts of the layer add, 0
        without any; "final_norm_bias" [token]; "unembedding_bias" [token].
        Their sum as the model computes it: the logits, [token]. All float32.

    Raises:
        ValueError: for a model whose final stream is not the sum of what its components added.
    """
    at = prompt.end
    with lm.trace(input_ids=torch.tensor([prompt.ids]), use_cache=False):
        added = _added_to_stream(lm, at)
        hidden = lm.ln_final.output[0, at]
        linear, norm_bias = freeze_norm(lm.ln_final, added.pop("stream").to(hidden.dtype), hidden)
        vectors = {name: linear(vector) for name, vector in added.items()}
        vectors |= {"final_norm_bias": norm_bias, "whole": hidden.float()}
        flat = torch.cat([vector.reshape(-1, len(norm_bias)) for vector in vectors.values()])
        found, bias = _linear_logits(lm, flat, tokens)
        skip_unembedding(lm)
    sizes = [vector.shape[:-1].numel() for vector in vectors.values()]
    parts = zip(vectors, found.split(sizes), strict=True)
    logits = {name: part.reshape(*vectors[name].shape[:-1], -1) for name, part in parts}
    whole = logits.pop("whole") + bias
    return {**logits, "unembedding_bias": bias}, whole


def _added_to_stream(lm: Any, position: int) -> dict[str, torch.Tensor]:
    """What every component adds to the final stream at one position of row 0, inside a trace.

    A norm between attention and the stream (Gemma 2) is applied to each head's share with the
    scale it has here; its bias counts as part of the attention bias.

    Returns:
        "embedding" [d_model], "head" [layer, head, d_model], "attention_bias" [layer, d_model],
        "mlp" [layer, d_model], all three NaN in layers without one, "other" [layer, d_model]; and
        their sum, "stream" [d_model]: the stream after the last layer. float32, all on the device
        of "stream".
    """
    with_heads = chosen_layers(lm, "head_z", None)
    embedding = read_stream(lm, 0)[0, position].float()
    none = torch.full_like(embedding, float("nan"))
    so_far, after, layers = embedding, None, []
    for index, layer in enumerate(lm.layers):
        one = {"head": none.expand(head_count(lm), -1), "attention_bias": none, "mlp": none}
        one["other"] = torch.zeros_like(embedding)
        for name in adds(layer):
            if name == "attn_add" and index in with_heads:
                one["head"], one["attention_bias"] = _of_heads(lm, index, position)
                continue
            added = _added(layer, name, position).float()
            if name == "mlp_add":
                one["mlp"] = added
            else:
                one["other"] = one["other"] + added.to(one["other"].device)
        layers.append(one)
        if not any(map(ends_multiplied, lm.layers)):
            continue
        for vector in one.values():  # so_far is what the layer's number multiplies
            so_far = so_far.to(vector.device) + vector.reshape(-1, len(none)).nansum(0)
        after = read_stream(lm, index + 1)[0, position].float()
        number = (after * so_far).sum() / (so_far * so_far).sum()
        embedding, so_far = (x.to(number.device) * number for x in (embedding, so_far))
        layers = [{k: v.to(number.device) * number for k, v in one.items()} for one in layers]
    stream = read_stream(lm, len(lm.layers))[0, position].float() if after is None else after
    parts = {name: stack([one[name] for one in layers]) for name in layers[0]}
    parts = {"embedding": embedding, **parts}
    return {**{name: part.to(stream.device) for name, part in parts.items()}, "stream": stream}


def _of_heads(lm: Any, index: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer's heads add to the stream at one position, [head, d_model], and their bias."""
    layer = lm.layers[index]
    z = read(lm, index, "head_z")[0, position]
    shares, bias = _split_heads(layer, z, head_count(lm))
    if not _holds(layer.attn_add, layer.self_attn.o_proj):
        normed = layer.attn_add.output[0, position]
        whole = (shares.sum(0) + bias).to(normed.dtype)
        linear, norm_bias = freeze_norm(layer.attn_add, whole, normed)
        shares, bias = linear(shares), linear(bias) + norm_bias
    factor = added_times(layer, "attn_add")
    return shares * factor, bias * factor


def _added(layer: Any, name: str, position: int) -> torch.Tensor:
    """What a module of a layer adds to the stream of row 0 at one position."""
    output = own_output(layer, name, getattr(layer, name))
    rows = output.reshape(-1, output.shape[-1])  # row 0 comes first, merged with others or not
    return times(rows[position], added_times(layer, name))


def _split_heads(layer: Any, z: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What each query head adds to the output of the projection, and the projection's bias.

    Args:
        z: the projection's input at one position, [head × d_head].

    Returns:
        [head, d_model] and [d_model], float32; their sum is the projection's output.
    """
    own = torch.eye(heads, dtype=torch.bool, device=z.device)
    own = own.repeat_interleave(z.shape[-1] // heads, 1)
    rows = torch.cat([z * own, torch.zeros_like(z)[None]])  # for zeros it returns its bias
    with no_autocast(z):
        out = layer.self_attn.o_proj(rows).float()
    return out[:-1] - out[-1], out[-1]


def freeze_norm(
    norm: Any, before: torch.Tensor, after: torch.Tensor
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """A norm as a linear map at one position, with the scale it has there.

        norm(x) = scale · weight ∘ (x − mean(x)) + bias        without the mean for an RMS norm

    The weight (also Gemma's 1 + w), the bias and whether the mean is subtracted are determined
    from the norm's output for three vectors: alternating ±1, its negative, and all ones. The scale
    is the one that turns `before` into `after`.

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


def _holds(outer: Any, inner: Any) -> bool:
    """Whether a module is, or contains, another."""
    return any(module is inner._module for module in outer._module.modules())


def _linear_logits(
    lm: Any, vectors: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The unembedding as a linear map, before any soft-cap, inside a trace.

    Args:
        vectors: with the width of the final norm's output, [row, d_model].
        tokens: token ids, [token].

    Returns:
        logits without the bias, [row, token]; the bias, [token]. float32.
    """
    vectors, scale = for_unembedding(lm, vectors), linear_scale(lm)
    weight, bias = unembedding_rows(lm, tokens), getattr(lm.lm_head, "bias", None)
    if weight is None:
        found, offset = _logits_by_the_module(lm, vectors, tokens)
        return found * scale, offset * scale
    with no_autocast(vectors):
        found = vectors.float() @ weight.to(vectors.device).float().T
    if bias is None:
        return found * scale, torch.zeros_like(found[0])
    return found * scale, bias[tokens.to(bias.device)].to(found.device).float() * scale


def _logits_by_the_module(
    lm: Any, vectors: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by calling the module: its output minus its output for zeros."""
    size, dtype = lm.lm_head.weight.shape[0], lm.lm_head.weight.dtype

    def read_out(rows: torch.Tensor) -> torch.Tensor:
        of_all = lm.lm_head(rows.to(dtype))
        return of_all[:, tokens.to(of_all.device)].float()

    with no_autocast(vectors):
        bias = read_out(torch.zeros_like(vectors[:1]))[0]
        rows = vectors.split(rows_that_fit(vectors.device, 4 * size * LOGITS_SHARE))
        return torch.cat([read_out(some) - bias for some in rows]), bias
