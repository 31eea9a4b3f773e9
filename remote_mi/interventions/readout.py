"""From a final hidden state to numbers, in float32 whatever the model's dtype.

Logits are not read from the model's output: bfloat16 logits near 20 have a resolution of 0.125.
Instead, the final norm's output is multiplied by the rows of the unembedding that are needed, plus
bias and soft-cap, in float32 and outside any autocast that a server may have enabled.

A sandboxed job has no weights in its process. There the rows come from the embedding, if it is the
same matrix; else the unembedding itself is run, in the model's dtype. On a float32 server the
numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from remote_mi.interventions.encoder_decoder import has_decoder, model_inputs
from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.model_info import fact, has_unembedding, text_config

#: Rows of the unembedding that are cast to float32 at a time when all are needed.
VOCABULARY_CHUNK = 16384
#: The share of the memory of a pass that logits may take at a time.
LOGITS_SHARE = 8
#: States that are unembedded at a time: with more, it would hardly be faster.
MOST_STATES = 512


def skip_unembedding(lm: Any) -> None:
    """End a pass at the final norm, inside a trace of `lm`: no logits are computed."""
    if has_unembedding(lm):
        # A model may ask for the shape of its logits; BART adds numbers to them.
        lm.lm_head.skip(torch.zeros(()) if has_decoder(lm) else torch.empty(0, 0, 0))


def no_autocast(tensor: torch.Tensor) -> torch.autocast:
    """A context in which matrix products on the tensor's device keep their dtype."""
    return torch.autocast(tensor.device.type, enabled=False)


def for_unembedding(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The final norm's output as the unembedding reads it: some models scale it (MiniCPM)."""
    scale = fact(lm, "hidden_scale", 1.0)
    return hidden if scale == 1.0 else hidden * scale


def linear_scale(lm: Any) -> float:
    """The number that the unembedding's output is multiplied by (Granite, Cohere)."""
    return fact(lm, "logit_scale", 1.0)


def finished(lm: Any, raw: torch.Tensor) -> torch.Tensor:
    """Logits from the unembedding's output: times the model's own scale, then its own soft-cap."""
    scale, config = linear_scale(lm), text_config(lm)
    raw = raw if scale == 1.0 else raw * scale
    # Of a model whose names were given, nothing is measured.
    cap = fact(lm, "logit_cap", None if "d_model" in lm.__dict__ else _stated_cap(config))
    return torch.tanh(raw / cap) * cap if cap else raw


def _stated_cap(config: Any) -> float | None:
    return getattr(config, "final_logit_softcapping", None)


def has_weights(lm: Any) -> bool:
    """Whether this process has the weights; that of a sandboxed job does not."""
    module = lm.lm_head if has_unembedding(lm) else lm.embed_tokens
    return not module.weight.is_meta


def where_weights_are(
    lm: Any, compute: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """`compute(x)`, which calls modules of the model, inside a trace or outside.

    Without weights in this process, modules only work inside a trace, so one of a single token is
    opened if necessary.
    """
    traced = lm.interleaver.interleaving or lm.backbone.interleaver.interleaving
    if has_weights(lm) or traced:
        return compute(x)
    with lm.trace(**model_inputs(lm, [[0]]), use_cache=False):
        result = compute(x)
        skip_unembedding(lm)
    return result


def logits(lm: Any, hidden: torch.Tensor, tokens: list[int] | None = None) -> torch.Tensor:
    """Logits that the model reads from its final state.

    Args:
        hidden: output of the final norm, [row, d_model].
        tokens: token ids; None for the whole vocabulary.

    Returns:
        [row, token], float32.

    Raises:
        ValueError: for a model without an unembedding.
    """
    pieces = _pieces(lm) if tokens is None else [tokens]
    return torch.cat([_some_logits(lm, hidden, piece) for piece in pieces], -1)


def _some_logits(lm: Any, hidden: torch.Tensor, tokens: list[int] | slice) -> torch.Tensor:
    weight = unembedding_rows(lm, tokens)
    if weight is None:
        return finished(lm, _logits_of_the_module(lm, hidden)[:, tokens])
    with no_autocast(hidden):
        found = for_unembedding(lm, hidden).float() @ weight.to(hidden.device).float().T
        bias = getattr(lm.lm_head, "bias", None)
        if bias is not None:
            found = found + bias[tokens].to(hidden.device).float()
    return finished(lm, found)


def unembedding_rows(lm: Any, tokens: list[int] | slice | torch.Tensor) -> torch.Tensor | None:
    """Rows of the unembedding, [token, d_model]; None if they are not available."""
    head, table = lm.lm_head, lm.embed_tokens
    if has_weights(lm):
        on_device = isinstance(tokens, torch.Tensor)
        return head.weight[tokens.to(head.weight.device) if on_device else tokens]
    tied = head.weight is table.weight and getattr(head, "bias", None) is None
    # An embedding of another class may not return its own rows; Gemma's are scaled.
    if tied and type(table._module) is torch.nn.Embedding and not isinstance(tokens, slice):
        return where_weights_are(lm, table, torch.as_tensor(tokens))
    return None


def _logits_of_the_module(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The output of the unembedding itself, [row, vocabulary], float32.

    In half precision, a row's logits are those of the first row plus those of the difference, which
    have a finer resolution: the rounding error of the first row is common to all rows.
    """
    hidden = for_unembedding(lm, hidden)
    if hidden.dtype == torch.float32:
        return where_weights_are(lm, lm.lm_head, hidden)
    reference = hidden[:1]
    difference = (hidden.float() - reference.float()).to(hidden.dtype)
    rows = torch.cat([torch.zeros_like(reference), reference, difference])
    found = where_weights_are(lm, lm.lm_head, rows).float()
    return found[2:] + found[1] - found[0]  # the zeros give the bias, which both others have


def _pieces(lm: Any) -> list[slice]:
    """The vocabulary in pieces if the head's rows are cast in this process, else in one piece."""
    size = int(lm.lm_head.weight.shape[0])
    step = VOCABULARY_CHUNK if has_weights(lm) else size
    return [slice(start, start + step) for start in range(0, size, step)]  # views; lists would copy


def log_normalizer(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """log Σ exp(logit) over the vocabulary, in chunks of its rows.

    Args:
        hidden: output of the final norm, [row, d_model].

    Returns:
        [row], float32.
    """
    total = torch.full(hidden.shape[:1], -torch.inf, device=hidden.device)
    for piece in _pieces(lm):
        total = torch.logaddexp(total, _some_logits(lm, hidden, piece).logsumexp(-1))
    return total


def token_losses(lm: Any, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """How unlikely one token is at each position, according to the model: −log p.

    Args:
        hidden: output of the final norm, [row, position, d_model].
        tokens: the token that each position should predict, [row, position] or [position].

    Returns:
        [row, position], float32, in nats.
    """
    flat, own = hidden.flatten(0, 1), tokens.expand(hidden.shape[:2]).flatten()
    size = 4 * (int(lm.lm_head.weight.shape[0]) if not has_weights(lm) else VOCABULARY_CHUNK)
    at_once = rows_that_fit(hidden.device, size * LOGITS_SHARE)
    losses = [
        log_normalizer(lm, states) - _own_logits(lm, states, ids)
        for states, ids in zip(flat.split(at_once), own.split(at_once), strict=True)
    ]
    return torch.cat(losses).reshape(hidden.shape[:2])


def _own_logits(lm: Any, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The logit of one token per row, [row], float32."""
    weight = unembedding_rows(lm, tokens)
    if weight is None:
        wanted = tokens.to(hidden.device)[:, None]
        return finished(lm, _logits_of_the_module(lm, hidden).gather(-1, wanted)[:, 0])
    found = (for_unembedding(lm, hidden).float() * weight.to(hidden.device).float()).sum(-1)
    bias = getattr(lm.lm_head, "bias", None)
    if bias is not None:
        found = found + bias[tokens.to(bias.device)].to(hidden.device).float()
    return finished(lm, found)


def top_tokens(scores: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of the largest scores.

    Args:
        scores: [..., vocabulary]: logits, probabilities or their logarithms.

    Returns:
        token ids, [..., top], largest first, or −1 in rows with a NaN or infinite score, where
        nothing is the largest; and their scores.
    """
    best, token = scores.topk(min(top, scores.shape[-1]), dim=-1)
    return token.masked_fill(~_all_finite(scores)[..., None], -1), best


def rank_of(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How many tokens have a larger score than `own`; 0 for the largest.

    Args:
        scores: [..., vocabulary]. own: [..., 1].

    Returns:
        [...], float32; NaN for rows with a NaN or infinite score: nothing is larger than NaN,
        which would therefore get rank 0.
    """
    rank = (scores > own).sum(-1).float()
    return rank.masked_fill(~_all_finite(scores), torch.nan)


def _all_finite(scores: torch.Tensor) -> torch.Tensor:
    """Whether no score of a row is NaN or infinite, [...]: then their sum is not, either."""
    return scores.sum(-1).isfinite()


def predictions(
    lm: Any, hidden: torch.Tensor, target: torch.Tensor, top: int
) -> dict[str, torch.Tensor]:
    """What final states predict: the most probable tokens, and the probability of a target.

    Args:
        hidden: the final norm's output, [..., position, d_model]. target: ids, [position].

    Returns:
        "top_token" and "top_prob" [..., position, top], "target_prob" [..., position]; float32.
    """
    states = hidden.flatten(0, -2)
    wanted = target.to(hidden.device).expand(hidden.shape[:-1]).reshape(-1, 1)
    row = 4 * int(lm.lm_head.weight.shape[0]) * LOGITS_SHARE
    at_once = rows_that_fit(hidden.device, row)
    pieces: dict[str, list[torch.Tensor]] = {}
    for rows, own in zip(states.split(at_once), wanted.split(at_once), strict=True):
        log_p = logits(lm, rows).log_softmax(-1)
        token, best = top_tokens(log_p, top)
        of_target = log_p.gather(1, own)[:, 0]
        found = {"top_token": token, "top_prob": best.exp(), "target_prob": of_target.exp()}
        for name, values in found.items():
            pieces.setdefault(name, []).append(values)
    whole = {name: torch.cat(values) for name, values in pieces.items()}
    return {
        name: values.reshape(*hidden.shape[:-1], *values.shape[1:])
        for name, values in whole.items()
    }


def unembed(lm: Any, stream: torch.Tensor) -> torch.Tensor:
    """Log-probabilities that the final norm and the unembedding read from the residual stream.

    Args:
        stream: [..., d_model], e.g. resid_post of a `run`.

    Returns:
        [..., vocabulary], float32, in nats.

    Raises:
        ValueError: for a model without an unembedding.
    """

    def read_out(stream: torch.Tensor) -> torch.Tensor:
        hidden, weight = for_unembedding(lm, lm.ln_final(stream)), lm.lm_head.weight
        return lm.lm_head(hidden.to(weight.device, weight.dtype) if has_weights(lm) else hidden)

    with no_autocast(stream):
        found = where_weights_are(lm, read_out, stream)
    return finished(lm, found.float()).log_softmax(-1)


def unembed_each(lm: Any, streams: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """`unembed` of each of several streams, in order; of several at a time, which is faster.

    Args:
        streams: each [..., d_model], all of one shape, e.g. resid_post of each layer.

    Returns:
        [..., vocabulary] of each, float32, in nats.
    """
    states = streams[0].numel() // streams[0].shape[-1]
    size = 4 * int(lm.lm_head.weight.shape[0]) * LOGITS_SHARE
    most = min(MOST_STATES, rows_that_fit(streams[0].device, size)) // max(1, states)
    for start in range(0, len(streams), max(1, most)):
        some = streams[start : start + max(1, most)]
        yield from unembed(lm, torch.stack([x.to(some[0].device) for x in some]))
