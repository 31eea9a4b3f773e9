"""The metrics: how the end of a run becomes one number.

Three kinds differ in what they read: logits of the answers (`answer_metric`), the distribution over
all tokens where the answer is read (a function in `DISTRIBUTION`), or the prompt's own tokens (the
loss, in `measures`). What each means is a row of `vocabulary.METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.readout import (
    LOGITS_SHARE,
    has_weights,
    log_normalizer,
    logits,
    rank_of,
)


def _kl(log_p: torch.Tensor, _answers: Sequence[int], clean: torch.Tensor) -> torch.Tensor:
    """KL(clean ‖ run) = Σ p_clean · (log p_clean − log p), as ACDC takes it."""
    return torch.nn.functional.kl_div(
        log_p, clean.expand_as(log_p), reduction="none", log_target=True
    ).sum(-1)


def _js(log_p: torch.Tensor, _answers: Sequence[int], clean: torch.Tensor) -> torch.Tensor:
    """Jensen–Shannon divergence: the mean KL of both from their mixture; at most log 2."""
    mixture = torch.logaddexp(log_p, clean) - math.log(2)
    return (_kl(mixture, _answers, log_p) + _kl(mixture, _answers, clean)) / 2


def _entropy(log_p: torch.Tensor, *_: Any) -> torch.Tensor:
    """−Σ p · log p."""
    return torch.special.entr(log_p.exp()).sum(-1)


def _rank(log_p: torch.Tensor, answers: Sequence[int], _clean: Any) -> torch.Tensor:
    """How many tokens are more probable than the best answer; 0 for none."""
    return rank_of(log_p, log_p[:, list(answers)].amax(-1, keepdim=True))


def _top1(log_p: torch.Tensor, answers: Sequence[int], _clean: Any) -> torch.Tensor:
    """1 if no token is more probable than the best answer, else 0; NaN where the rank is."""
    rank = _rank(log_p, answers, None)
    return torch.where(rank.isnan(), rank, (rank == 0).float())


#: From log-probabilities of all tokens, [row, vocabulary], the answers' ids and the clean run's
#: log-probabilities, [vocabulary], to numbers, [row].
DISTRIBUTION: dict[str, Callable[..., torch.Tensor]] = {
    "kl": _kl,
    "js": _js,
    "entropy": _entropy,
    "rank": _rank,
    "top1": _top1,
}


def distribution_metric(
    lm: Any, hidden: torch.Tensor, metric: str, answers: list[int], clean: torch.Tensor | None
) -> torch.Tensor:
    """A metric of the distribution over all tokens.

    Args:
        hidden: output of the final norm where the answer is read, [row, d_model].
        clean: the clean run's log-probabilities, [vocabulary], for metrics against it.

    Returns:
        [row], float32.
    """
    found = []
    for states in _in_parts(lm, hidden):
        log_p = logits(lm, states).log_softmax(-1)
        reference = None if clean is None else clean.to(log_p.device)
        found.append(DISTRIBUTION[metric](log_p, answers, reference))
    return torch.cat(found)


class OwnMetric:
    """A metric of the project's own, as a recipe's body gets it; see `remote_mi.metric`.

    Attributes:
        name: as errors name it. function: of logits [row, vocabulary] and a pair or prompt, and of
            the clean run's logits [vocabulary] if the metric is `against_clean`.
    """

    def __init__(self, name: str, function: Callable[..., Any], against_clean: bool) -> None:
        self.name, self.function, self.against_clean = name, function, against_clean

    def __call__(self, of_all: torch.Tensor, of: Any, clean: torch.Tensor | None) -> torch.Tensor:
        """The metric of each row, [row], float32.

        Raises:
            ValueError: naming the metric, if it fails, or gives anything but a number for each row.
        """
        given = [of_all, of] if clean is None else [of_all, of, clean.to(of_all.device)]
        try:
            found = self.function(*given)
        except Exception as error:
            raise ValueError(
                f"metric {self.name} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, torch.Tensor):
            raise ValueError(
                f"metric {self.name} returned {type(found).__name__}, not a tensor with a number "
                "for each row"
            )
        if found.shape != of_all.shape[:1]:
            raise ValueError(
                f"metric {self.name} returned the shape {list(found.shape)} for {len(of_all)} "
                f"rows, not [{len(of_all)}]"
            )
        if of_all.requires_grad and not found.requires_grad:
            raise ValueError(
                f"metric {self.name} has no gradient: declare it differentiable=False, or leave "
                "its numbers attached to the logits"
            )
        found = found.float()
        # Without numbers (a dry run) nothing can be checked.
        known = type(found) is torch.Tensor and not found.is_meta
        if known and found.isnan().any() and of_all.isfinite().all():
            raise ValueError(f"metric {self.name} gave NaN, which is not a number")
        return found


def own_metric(
    lm: Any, hidden: torch.Tensor, metric: OwnMetric, of: Any, clean: torch.Tensor | None
) -> torch.Tensor:
    """A metric of the project's own, [row]; arguments like `distribution_metric`.

    Args:
        of: the pair or prompt. clean: the clean run's logits, [vocabulary], if it needs them.
    """
    return torch.cat([metric(logits(lm, rows), of, clean) for rows in _in_parts(lm, hidden)])


def _in_parts(lm: Any, hidden: torch.Tensor) -> Sequence[torch.Tensor]:
    """Rows at a time: logits of a whole sweep need not fit into memory."""
    row = 4 * int(lm.lm_head.weight.shape[0]) * LOGITS_SHARE
    at_once = rows_that_fit(hidden.device, row) if has_weights(lm) else len(hidden)
    return hidden.split(max(1, at_once))


def answer_metric(
    lm: Any, hidden: torch.Tensor, metric: str, answers: list[int], wrongs: list[int]
) -> torch.Tensor:
    """One number per row: how strongly it favours the answer.

    Args:
        hidden: output of the final norm at the answer's position, [row, d_model].
        metric: one of those that only read the answers.
        answers, wrongs: token ids; the wrong ones are only used by the differences.

    Returns:
        [row], float32; logits and log-probabilities in nats.
    """
    of_tokens = logits(lm, hidden, [*answers, *wrongs])
    right, wrong = of_tokens.split([len(answers), len(wrongs)], -1)
    if metric == "logit":
        return right.mean(-1)
    if metric in ("logit_diff", "logit_diff_max"):
        return right.mean(-1) - (wrong.mean(-1) if metric == "logit_diff" else wrong.amax(-1))
    normalizer = log_normalizer(lm, hidden)[:, None]
    log_probs = right - normalizer
    if metric == "log_prob":
        return log_probs.logsumexp(-1)
    prob = log_probs.exp().sum(-1)
    return prob if metric == "prob" else prob - (wrong - normalizer).exp().sum(-1)
