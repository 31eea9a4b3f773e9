"""Baseline: whether the model does the task at all."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Bars, Range, Share, Table, Tokens, recipe
from remote_mi.interventions import (
    Metric,
    Pair,
    choice_log_probs,
    end_logits,
    rank_of,
    top_tokens,
)


@recipe(
    over="pair",
    returns={
        "accuracy": Share(),
        "logit_diff": (),
        "prob_diff": (),
        "prob": (),
        "top1": Share(),
        "rank": (),
        "top_token": Tokens("top"),
        "top_prob": ("top",),
        "log_prob": (),
        "log_prob_per_token": (),
        "wrong_log_prob": (),
        "wrong_log_prob_per_token": (),
        "whole_accuracy": Share(),
        "corrupt_accuracy": Share(),
        "corrupt_logit_diff": (),
        "corrupt_prob_diff": (),
        "corrupt_prob": (),
        "corrupt_top1": Share(),
        "corrupt_rank": (),
        "corrupt_top_token": Tokens("top"),
        "corrupt_top_prob": ("top",),
        "prior_logit_diff": (),
        "prior_prob_diff": (),
        "answer_prob": (),
    },
    behaviour="accuracy",
    controls={
        "accuracy": "corrupt_accuracy",
        "logit_diff": "prior_logit_diff",
        "prob_diff": "prior_prob_diff",
        "prob": "corrupt_prob",
        "top1": "corrupt_top1",
    },
    evidence="observational",
    figures=[
        Bars("accuracy", title="accuracy"),
        Bars("top1", title="top-1 accuracy"),
        Bars("logit_diff", title="logit difference", unit="nats"),
        Bars("prob", title="probability of the answer"),
        Table(
            "logit_diff",
            title="pairs",
            columns=("accuracy", "prob", "rank", "top_token", "corrupt_top_token"),
        ),
    ],
    needs=("unembedding",),
    lengths="any",
    references=["wang2022ioi", "zhang2023patching"],
)
def baseline(
    lm: Any, pair: Pair, *, metric: Metric = "logit_diff", top: Annotated[int, Range(1, 50)] = 5
) -> dict[str, Any]:
    """Whether the model gives the right answer, and how clearly: the first step of any study.

    Run both prompts and read the next-token distribution p = softmax(logits) where the answer is
    read (with several answers A or wrong answers B: mean logits, summed probabilities):

        logit_diff = mean logit(A) − mean logit(B)
        prob       = Σ p(A)                   prob_diff = Σ p(A) − Σ p(B)
        accuracy   = 1 if the difference is > 0, else 0: prob_diff with the metric prob_diff,
                     logit_diff with any other
        top1       = 1 if the most probable of all tokens is in A, else 0
        rank       = how many tokens are more probable than the best of A (0: none)

    Of answers of several tokens these are read at the first token in which right and wrong ones
    differ, after the tokens that they share. The whole answers, of k tokens each, are judged by

        log_prob           = log Σ_A Π p(token of A)        wrong_log_prob: the same for B
        log_prob_per_token = max_A (1/k) Σ log p(token of A)
        whole_accuracy     = 1 if log_prob > wrong_log_prob, else 0

    Their means over the pairs are the model's accuracy and so on. Logits in nats, with the
    model's own soft-cap. Pairs with accuracy 0 are the failures: the table shows what the model
    predicts instead.
    Control: `corrupt_…` is the same, with the same A and B, on the corrupt prompt. There the
    wrong answer is the right one: a model that reads the prompt has a negative difference and an
    accuracy near 0. A difference has a control that keeps its sign: the mean of both prompts,

        prior_logit_diff = (logit_diff + corrupt_logit_diff) / 2

    which is how much the model prefers A regardless of which of the two prompts it gets.
    Cost: 2 forward passes, in batches with those of other pairs; with answers of several tokens one
    of each answer more.
    What this does not show: how the model does it, nor that it does it for the reason you have in
    mind: a right answer can come from word frequency or from a cue that the template gives away. It
    holds for these prompts and templates.
    Not implemented: whole answers after the corrupt prompt; answers weighted by how probable they
    are without the prompt.

    Args:
        metric: which difference determines accuracy: prob_diff, or else logit_diff.
        top: how many of the most probable tokens to keep.
    """
    of_all = end_logits(lm, [pair.clean, pair.corrupt])  # [prompt, vocabulary]
    probs = of_all.softmax(-1)
    logit_diff = of_all[:, pair.answers].mean(-1) - of_all[:, pair.wrongs].mean(-1)
    prob = probs[:, pair.answers].sum(-1)
    prob_diff = prob - probs[:, pair.wrongs].sum(-1)
    top_token, top_prob = top_tokens(probs, top)
    rank = rank_of(of_all, of_all[:, pair.answers].amax(-1, keepdim=True))
    difference = prob_diff if metric == "prob_diff" else logit_diff
    unknown = rank.isnan()  # the logits are NaN or infinite: neither right nor wrong
    outputs = {
        "accuracy": (difference > 0).float().masked_fill(unknown, torch.nan),
        "logit_diff": logit_diff,
        "prob_diff": prob_diff,
        "prob": prob,
        "top1": (rank == 0).float().masked_fill(unknown, torch.nan),
        "rank": rank,
        "top_token": top_token,
        "top_prob": top_prob,
    }
    whole = choice_log_probs(lm, pair, of_all[0].log_softmax(-1))
    per_token = whole / torch.tensor([len(tokens) for tokens in pair.choices]).to(whole)
    right, wrong = whole.split([len(pair.answers), len(pair.wrongs)])
    right_each, wrong_each = per_token.split([len(pair.answers), len(pair.wrongs)])
    log_prob, wrong_log_prob = right.logsumexp(0), wrong.logsumexp(0)
    higher = (log_prob > wrong_log_prob).float()
    return {
        "log_prob": log_prob,
        "log_prob_per_token": right_each.max(),
        "wrong_log_prob": wrong_log_prob,
        "wrong_log_prob_per_token": wrong_each.max(),
        "whole_accuracy": higher.masked_fill(unknown[0], torch.nan),
        **{name: values[0] for name, values in outputs.items()},
        **{f"corrupt_{name}": values[1] for name, values in outputs.items()},
        "prior_logit_diff": logit_diff.mean(),
        "prior_prob_diff": prob_diff.mean(),
        "answer_prob": (2 * prob - prob_diff)[0],
    }
