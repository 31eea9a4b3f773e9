"""Measures: from the end of a run to the number that a technique studies, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.interventions.forward import run
from remote_mi.interventions.metrics import (
    DISTRIBUTION,
    OwnMetric,
    answer_metric,
    distribution_metric,
    own_metric,
)
from remote_mi.interventions.model_info import is_causal
from remote_mi.interventions.prompts import Pair, Prompt
from remote_mi.interventions.readout import logits, token_losses
from remote_mi.interventions.vocabulary import METRICS


class Measure:
    """Computes metrics of each row from the final norm's output; made by `measure`.

    Called with [row, position, d_model], whose last position is the prompt's last (early ones may
    be left out), it returns [row], or [row, metric] for several metrics.

    Attributes:
        last: how many of the last positions it uses; 0 for all.
        clean: the clean run's log-probabilities, [vocabulary], for metrics against it, and
            clean_logits, for those of the project's own.
        of: the pair or prompt that it was made for.
    """

    def __init__(
        self,
        lm: Any,
        metrics: Sequence[str | OwnMetric],
        of: Pair | Prompt,
        answers: list[int],
        wrongs: list[int],
    ) -> None:
        self.lm, self.metrics, self.of = lm, metrics, of
        prompt = of.clean if isinstance(of, Pair) else of
        self.answers, self.wrongs = answers, wrongs
        self.ids, self.beyond = prompt.ids[: prompt.own], len(prompt.ids) - prompt.own
        self.end = prompt.end - len(prompt.ids)  # from the last position
        #: Position, from the last one → token, of an answer of several tokens, but where it is read.
        self.others = {
            prompt.start + i - len(prompt.ids): token
            for i, token in enumerate(prompt.whole)
            if prompt.start + i != prompt.end
        }
        self.clean: torch.Tensor | None = None
        self.clean_logits: torch.Tensor | None = None
        whole = "prob" in metrics or "log_prob" in metrics
        first = min([self.end, *self.others]) if whole else self.end
        self.last = 0 if "loss" in metrics else -first

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        numbers = [
            self._loss(hidden) if metric == "loss" else self._of_answers(hidden, metric)
            for metric in self.metrics
        ]
        return torch.stack(numbers, -1) if len(numbers) > 1 else numbers[0]

    def answer_prob(self, hidden: torch.Tensor) -> torch.Tensor:
        """The probability of right and wrong answers together, [row]: whether they are likely."""
        tokens = [*self.answers, *self.wrongs]
        return answer_metric(self.lm, hidden[:, self.end], "prob", tokens, [])

    def _of_answers(self, hidden: torch.Tensor, metric: str | OwnMetric) -> torch.Tensor:
        at_end = hidden[:, self.end]
        if isinstance(metric, OwnMetric):
            clean = self.clean_logits if metric.against_clean else None
            return own_metric(self.lm, at_end, metric, self.of, clean)
        if metric in DISTRIBUTION:
            return distribution_metric(self.lm, at_end, metric, self.answers, self.clean)
        if metric not in ("prob", "log_prob") or not self.others:
            return answer_metric(self.lm, at_end, metric, self.answers, self.wrongs)
        log_prob = answer_metric(self.lm, at_end, "log_prob", self.answers, self.wrongs)
        tokens = torch.tensor(list(self.others.values()))
        log_prob = log_prob - token_losses(self.lm, hidden[:, list(self.others)], tokens).sum(-1)
        return log_prob if metric == "log_prob" else log_prob.exp()

    def _loss(self, hidden: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of the prompt's tokens, or the last positions' share of it.

        An encoder does not predict its own tokens, so its loss is that of the answer.
        """
        if not is_causal(self.lm):
            return -self._of_answers(hidden, "log_prob")
        length = len(self.ids)
        hidden = hidden[:, : hidden.shape[1] - self.beyond]
        follow = torch.tensor(self.ids[length - hidden.shape[1] + 1 :], dtype=torch.long)
        return token_losses(self.lm, hidden[:, :-1], follow).sum(-1) / max(1, length - 1)


def measure(
    lm: Any,
    metric: str | OwnMetric | Sequence[str | OwnMetric],
    of: Pair | Prompt,
    otherwise: int | None = None,
) -> Measure:
    """A measure of how strongly the end of a run favours the answer.

    Args:
        metric: one of `vocabulary.Metric`, or several of them; the parameter `metric` of a recipe
            may also be a metric of the project's own. Of an answer of several tokens,
            log_prob and prob are those of the whole answer, the others those of its first token
            that a wrong answer does not share. kl and js take one more pass, of the clean prompt.
        of: a pair, whose answers and wrong answers are used for either of its prompts; or a
            prompt, whose target is used.
        otherwise: the token to use if the prompt has no target.

    Raises:
        ValueError: for an unknown metric, or a prompt without a target.
    """
    metrics = [metric] if isinstance(metric, (str, OwnMetric)) else list(metric)
    for name in metrics:
        if not isinstance(name, OwnMetric) and name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
    if isinstance(of, Pair):
        found = Measure(lm, metrics, of, of.answers, of.wrongs)
    else:
        target = otherwise if of.target is None else of.target
        if target is None:
            raise ValueError("this follows one answer: give target, the text of its token")
        found = Measure(lm, metrics, of, [target], [])
    facts = [name if isinstance(name, OwnMetric) else METRICS[name] for name in metrics]
    if any(known.against_clean for known in facts):
        clean = of.clean if isinstance(of, Pair) else of
        with torch.no_grad():
            at_end = run(lm, clean).hidden[:, clean.end].detach()
            found.clean_logits = logits(lm, at_end)[0]
            found.clean = found.clean_logits.log_softmax(-1)
    return found


def choice_log_probs(lm: Any, pair: Pair, known: torch.Tensor) -> torch.Tensor:
    """The log-probability of each answer after the clean prompt, all its tokens together.

    One more forward pass, with a row for each answer, if any has several tokens.

    Args:
        known: the log-probabilities of all tokens where the answer is read, [vocabulary].

    Returns:
        [choice], right answers first, as in `Pair.choices`; float32, in nats.
    """
    prompt = pair.clean
    if all(len(tokens) == 1 for tokens in pair.choices):
        return known[[tokens[0] for tokens in pair.choices]]
    own, longest = prompt.ids[: prompt.own], max(len(tokens) for tokens in pair.choices)
    # What follows a row's own tokens changes nothing that is read: only causal models have these.
    padded = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in pair.choices]
    rows = [Prompt(own + tokens[:-1], {}, None) for tokens in padded]
    hidden = run(lm, rows).hidden[:, prompt.start :]
    losses = token_losses(lm, hidden, torch.tensor(padded))
    counts = torch.tensor([[len(tokens)] for tokens in pair.choices], device=losses.device)
    inside = torch.arange(longest, device=losses.device) < counts
    return -(losses * inside).sum(-1)
