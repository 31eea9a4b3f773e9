"""From a final hidden state to numbers, in float32 whatever the model's dtype.

Logits are not read from the model's output: bfloat16 logits near 20 move in steps of 0.125.
The final norm's output is multiplied by the rows of the unembedding that are needed, plus bias
and soft-cap, in float32 and outside any autocast that a server may have switched on.
"""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions.sites import text_config

#: Rows of the unembedding that are cast to float32 at a time when all are needed.
VOCABULARY_CHUNK = 16384


def no_autocast(tensor: torch.Tensor) -> torch.autocast:
    """A context in which matrix products on the tensor's device keep their dtype."""
    return torch.autocast(tensor.device.type, enabled=False)


def soft_cap(lm: Any, logits: torch.Tensor) -> torch.Tensor:
    """The model's own final soft-cap (Gemma 2), or the logits as they are."""
    cap = getattr(text_config(lm), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def answer_logits(lm: Any, hidden: torch.Tensor, tokens: list[int] | slice) -> torch.Tensor:
    """Logits of some tokens.

    Args:
        hidden: output of the final norm, [row, d_model].
        tokens: token ids, or a slice of the vocabulary.

    Returns:
        [row, token], float32.
    """
    head = lm.lm_head
    with no_autocast(hidden):
        weight = head.weight[tokens].to(hidden.device).float()
        logits = hidden.float() @ weight.T
        bias = getattr(head, "bias", None)
        if bias is not None:
            logits = logits + bias[tokens].to(hidden.device).float()
    return soft_cap(lm, logits)


def log_normalizer(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """log Σ exp(logit) over the vocabulary, in chunks of its rows.

    Args:
        hidden: output of the final norm, [row, d_model].

    Returns:
        [row], float32.
    """
    size = lm.lm_head.weight.shape[0]
    total = torch.full(hidden.shape[:1], -torch.inf, device=hidden.device)
    for start in range(0, size, VOCABULARY_CHUNK):
        tokens = slice(start, start + VOCABULARY_CHUNK)  # a view; a list would copy
        total = torch.logaddexp(total, answer_logits(lm, hidden, tokens).logsumexp(-1))
    return total


def answer_metric(
    lm: Any, hidden: torch.Tensor, metric: str, answer: int, wrong: int
) -> torch.Tensor:
    """One number a row: how strongly it says the answer.

    Args:
        hidden: output of the final norm at the answer's position, [row, d_model].
        metric: "logit_diff", "logit", "prob" or "log_prob" (see `vocabulary.Metric`).
        answer, wrong: token ids; `wrong` is used by logit_diff only.

    Returns:
        [row], float32; logits and log-probabilities in nats.

    Raises:
        ValueError: for an unknown metric.
    """
    if metric == "logit_diff":
        logits = answer_logits(lm, hidden, [answer, wrong])
        return logits[:, 0] - logits[:, 1]
    logit = answer_logits(lm, hidden, [answer])[:, 0]
    if metric == "logit":
        return logit
    log_prob = logit - log_normalizer(lm, hidden)
    if metric == "log_prob":
        return log_prob
    if metric == "prob":
        return log_prob.exp()
    raise ValueError(f"unknown metric {metric!r}")


def unembed(lm: Any, stream: torch.Tensor) -> torch.Tensor:
    """Log-probabilities that the final norm and the unembedding read from the residual stream.

    Args:
        stream: [..., d_model], e.g. of `run_residuals`.

    Returns:
        [..., vocabulary], float32, in nats.
    """
    with no_autocast(stream):
        hidden = lm.ln_final(stream)
        logits = lm.lm_head(hidden.to(lm.lm_head.weight.device, lm.lm_head.weight.dtype))
    return soft_cap(lm, logits.float()).log_softmax(-1)
