"""Measures: from the end of a run to the number that a technique studies, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.interventions.model_info import is_causal
from remote_mi.interventions.prompts import Pair, Prompt
from remote_mi.interventions.readout import log_normalizer, logits, token_losses


class Measure:
    """Computes metrics of each row from the final norm's output; made by `measure`.

    Called with [row, position, d_model], whose last position is the prompt's last (early ones may
    be left out), it returns [row], or [row, metric] for several metrics.

    Attributes:
        last: how many of the last positions it uses; 0 for all.
    """

    def __init__(
        self, lm: Any, metrics: Sequence[str], prompt: Prompt, answers: list[int], wrongs: list[int]
    ) -> None:
        self.lm, self.metrics, self.ids = lm, metrics, prompt.ids
        self.answers, self.wrongs = answers, wrongs
        self.end = prompt.end - len(prompt.ids)  # from the last position
        self.last = 0 if "loss" in metrics else -self.end

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        at_end = hidden[:, self.end]
        numbers = [
            self._loss(hidden) if metric == "loss" else self._of_answers(at_end, metric)
            for metric in self.metrics
        ]
        return torch.stack(numbers, -1) if len(numbers) > 1 else numbers[0]

    def answer_prob(self, hidden: torch.Tensor) -> torch.Tensor:
        """The probability of right and wrong answers together, [row]: whether they are likely."""
        tokens = [*self.answers, *self.wrongs]
        return answer_metric(self.lm, hidden[:, self.end], "prob", tokens, [])

    def _of_answers(self, at_end: torch.Tensor, metric: str) -> torch.Tensor:
        return answer_metric(self.lm, at_end, metric, self.answers, self.wrongs)

    def _loss(self, hidden: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of the prompt's tokens, or the last positions' share of it.

        An encoder does not predict its own tokens, so its loss is that of the answer.
        """
        if not is_causal(self.lm):
            return -self._of_answers(hidden[:, self.end], "log_prob")
        length = len(self.ids)
        follow = torch.tensor(self.ids[length - hidden.shape[1] + 1 :], dtype=torch.long)
        return token_losses(self.lm, hidden[:, :-1], follow).sum(-1) / max(1, length - 1)


def measure(
    lm: Any, metric: str | Sequence[str], of: Pair | Prompt, otherwise: int | None = None
) -> Measure:
    """A measure of how strongly the end of a run favours the answer.

    Args:
        metric: one of `vocabulary.Metric`, or "loss", the mean next-token cross-entropy of the
            (clean) prompt in nats; or several of them.
        of: a pair, whose answers and wrong answers are used for either of its prompts; or a
            prompt, whose target is used.
        otherwise: the token to use if the prompt has no target.

    Raises:
        ValueError: for an unknown metric, or a prompt without a target.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    for name in metrics:
        if name not in ("logit_diff", "logit", "prob", "log_prob", "prob_diff", "loss"):
            raise ValueError(f"unknown metric {name!r}")
    if isinstance(of, Pair):
        return Measure(lm, metrics, of.clean, of.answers, of.wrongs)
    target = otherwise if of.target is None else of.target
    if target is None:
        raise ValueError("this follows one answer: give target, the text of its token")
    return Measure(lm, metrics, of, [target], [])


def answer_metric(
    lm: Any, hidden: torch.Tensor, metric: str, answers: list[int], wrongs: list[int]
) -> torch.Tensor:
    """One number per row: how strongly it favours the answer.

    Args:
        hidden: output of the final norm at the answer's position, [row, d_model].
        metric: one of `vocabulary.Metric`.
        answers, wrongs: token ids; the wrong ones are only used by the differences.

    Returns:
        [row], float32; logits and log-probabilities in nats.
    """
    of_tokens = logits(lm, hidden, [*answers, *wrongs])
    if metric in ("logit_diff", "logit"):
        right = of_tokens[:, : len(answers)].mean(-1)
        return right if metric == "logit" else right - of_tokens[:, len(answers) :].mean(-1)
    log_probs = of_tokens - log_normalizer(lm, hidden)[:, None]
    if metric == "log_prob":
        return log_probs[:, : len(answers)].logsumexp(-1)
    prob = log_probs[:, : len(answers)].exp().sum(-1)
    return prob if metric == "prob" else prob - log_probs[:, len(answers) :].exp().sum(-1)
