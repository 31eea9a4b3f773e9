"""From a final hidden state to numbers, in float32 whatever the model's dtype.

Logits are not read from the model's output: bfloat16 logits near 20 move in steps of 0.125.
The final norm's output is multiplied by the rows of the unembedding that are needed, plus bias
and soft-cap, in float32 and outside any autocast that a server may have switched on.

A sandboxed job has no weights in its process. There the rows come from the embedding, where it
is the same matrix; else the unembedding itself is run, in the model's dtype. On a float32 server
the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from remote_mi.interventions.sites import has_unembedding, skip_unembedding, text_config

#: Rows of the unembedding that are cast to float32 at a time when all are needed.
VOCABULARY_CHUNK = 16384


def no_autocast(tensor: torch.Tensor) -> torch.autocast:
    """A context in which matrix products on the tensor's device keep their dtype."""
    return torch.autocast(tensor.device.type, enabled=False)


def soft_cap(lm: Any, logits: torch.Tensor) -> torch.Tensor:
    """The model's own final soft-cap (Gemma 2), or the logits as they are."""
    cap = getattr(text_config(lm), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def has_weights(lm: Any) -> bool:
    """Whether this process has the weights. A sandboxed job runs in one that has not."""
    module = lm.lm_head if has_unembedding(lm) else lm.embed_tokens
    return not module.weight.is_meta


def where_weights_are(
    lm: Any, compute: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """`compute(x)`, which calls modules of the model, inside a trace or outside.

    Without weights here modules answer only inside a trace, so one of a single token is opened
    where there is none.
    """
    traced = lm.interleaver.interleaving or lm.backbone.interleaver.interleaving
    if has_weights(lm) or traced:
        return compute(x)
    with lm.trace(input_ids=torch.tensor([[0]]), use_cache=False):
        result = compute(x)
        skip_unembedding(lm)
    return result


def answer_logits(lm: Any, hidden: torch.Tensor, tokens: list[int] | slice) -> torch.Tensor:
    """Logits of some tokens.

    Args:
        hidden: output of the final norm, [row, d_model].
        tokens: token ids, or a slice of the vocabulary.

    Returns:
        [row, token], float32.

    Raises:
        ValueError: for a model without an unembedding.
    """
    weight = _rows(lm, tokens)
    if weight is None:
        return soft_cap(lm, _logits_of_the_module(lm, hidden)[:, tokens])
    with no_autocast(hidden):
        logits = hidden.float() @ weight.to(hidden.device).float().T
        bias = getattr(lm.lm_head, "bias", None)
        if bias is not None:
            logits = logits + bias[tokens].to(hidden.device).float()
    return soft_cap(lm, logits)


def _rows(lm: Any, tokens: list[int] | slice) -> torch.Tensor | None:
    """Rows of the unembedding, [token, d_model]; None where they cannot be had."""
    head, table = lm.lm_head, lm.embed_tokens
    if has_weights(lm):
        return head.weight[tokens]
    tied = head.weight is table.weight and getattr(head, "bias", None) is None
    if tied and type(table._module) is torch.nn.Embedding and isinstance(tokens, list):
        return where_weights_are(lm, table, torch.tensor(tokens))
    return None


def _logits_of_the_module(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What the unembedding itself gives, [row, vocabulary], float32.

    In half precision a row's logits are those of the first row plus those of the difference,
    which move in smaller steps: what is rounded in the first row is the same in all of them.
    """
    if hidden.dtype == torch.float32:
        return where_weights_are(lm, lm.lm_head, hidden)
    reference = hidden[:1]
    difference = (hidden.float() - reference.float()).to(hidden.dtype)
    rows = torch.cat([torch.zeros_like(reference), reference, difference])
    logits = where_weights_are(lm, lm.lm_head, rows).float()
    return logits[2:] + logits[1] - logits[0]  # the zeros give the bias, which both others have


def all_logits(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of the whole vocabulary.

    Args:
        hidden: output of the final norm, [row, d_model].

    Returns:
        [row, vocabulary], float32.
    """
    return torch.cat([answer_logits(lm, hidden, piece) for piece in _pieces(lm)], -1)


def _pieces(lm: Any) -> list[slice]:
    """The vocabulary in pieces: of a head whose rows are cast here; another gives all at once."""
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
        total = torch.logaddexp(total, answer_logits(lm, hidden, piece).logsumexp(-1))
    return total


def top_tokens(scores: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of the largest scores.

    Args:
        scores: [..., vocabulary]: logits, probabilities or their logarithms.

    Returns:
        token ids, [..., top], largest first; −1 where a row holds a score that is NaN or infinite,
        beside which nothing is the largest; and their scores.
    """
    best, token = scores.topk(min(top, scores.shape[-1]), dim=-1)
    return token.masked_fill(~scores.isfinite().all(-1, keepdim=True), -1), best


def rank_of(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How many tokens have a larger score than `own`; 0 for the largest.

    Args:
        scores: [..., vocabulary]. own: [..., 1].

    Returns:
        [...], float32; NaN where a row holds a score that is NaN or infinite: nothing is larger
        than NaN, and what is would be of rank 0.
    """
    rank = (scores > own).sum(-1).float()
    return rank.masked_fill(~scores.isfinite().all(-1), torch.nan)


def answer_metric(
    lm: Any, hidden: torch.Tensor, metric: str, answer: int | list[int], wrong: int | list[int]
) -> torch.Tensor:
    """One number a row: how strongly it says the answer.

    Args:
        hidden: output of the final norm at the answer's position, [row, d_model].
        metric: one of `vocabulary.Metric`.
        answer, wrong: token ids, one or several; `wrong` is used by the differences only.

    Returns:
        [row], float32; logits and log-probabilities in nats.

    Raises:
        ValueError: for an unknown metric, or a model without an unembedding.
    """
    right = answer if isinstance(answer, list) else [answer]
    others = wrong if isinstance(wrong, list) else [wrong]
    if metric in ("logit_diff", "logit"):
        logits = answer_logits(lm, hidden, [*right, *others])
        score = logits[:, : len(right)].mean(-1)
        return score if metric == "logit" else score - logits[:, len(right) :].mean(-1)
    if metric not in ("prob", "log_prob", "prob_diff"):
        raise ValueError(f"unknown metric {metric!r}")
    log_probs = answer_logits(lm, hidden, [*right, *others])
    log_probs = log_probs - log_normalizer(lm, hidden)[:, None]
    if metric == "log_prob":
        return log_probs[:, : len(right)].logsumexp(-1)
    prob = log_probs[:, : len(right)].exp().sum(-1)
    return prob if metric == "prob" else prob - log_probs[:, len(right) :].exp().sum(-1)


def unembed(lm: Any, stream: torch.Tensor) -> torch.Tensor:
    """Log-probabilities that the final norm and the unembedding read from the residual stream.

    Args:
        stream: [..., d_model], e.g. of `run_residuals`.

    Returns:
        [..., vocabulary], float32, in nats.

    Raises:
        ValueError: for a model without an unembedding.
    """

    def read_out(stream: torch.Tensor) -> torch.Tensor:
        hidden, weight = lm.ln_final(stream), lm.lm_head.weight
        return lm.lm_head(hidden.to(weight.device, weight.dtype) if has_weights(lm) else hidden)

    with no_autocast(stream):
        logits = where_weights_are(lm, read_out, stream)
    return soft_cap(lm, logits.float()).log_softmax(-1)
