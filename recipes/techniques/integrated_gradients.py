"""Integrated gradients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Range, Table, recipe
from remote_mi.interventions import (
    Metric,
    Pair,
    embeddings,
    input_gradients,
    measure,
    random_scores,
    run,
)


@recipe(
    over="pair",
    returns={
        "attribution": ("position",),
        "control": ("draw", "position"),
        "clean": (),
        "at_baseline": (),
        "completeness_error": (),
        "answer_prob": (),
    },
    behaviour="clean",
    controls={"attribution": "control"},
    evidence="observational",
    figures=[Bars("attribution"), Table("clean", columns=("at_baseline", "completeness_error"))],
    needs=("gradients", "unembedding"),
    lengths={"baseline": "zero"},
    references=["sundararajan2017axiomatic", "adebayo2018sanity"],
)
def integrated_gradients(
    lm: Any,
    pair: Pair,
    *,
    baseline: Literal["corrupt", "zero"] = "corrupt",
    metric: Metric = "logit_diff",
    steps: Annotated[int, Range(1, 10000)] = 64,
    control_draws: Annotated[int, Range(0, 100)] = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """How much each token of the clean prompt adds to the answer, relative to a baseline input.

    x are the token embeddings of the clean prompt, x′ those of the baseline, m the metric where
    the answer is read. Along the straight line from x′ to x:

        attribution[p] = (x[p] − x′[p]) · ∫ ∂m/∂x[p] (x′ + α (x − x′)) dα,  α from 0 to 1
        completeness_error = Σ_p attribution[p] − (m(x) − m(x′))
        clean = m(x), at_baseline = m(x′)

    Sign: positive supports the answer, relative to the baseline; in the unit of the metric.
    The integral is a Gauss–Legendre sum of `steps` points, which converges faster than midpoint
    or trapezoid sums. The error shows whether it has converged: if it is not small, add steps.
    The baseline "corrupt" is the other prompt: tokens that both prompts share get exactly 0, and
    a pair that differs in one token gives that token all of m(x) − m(x′). "zero" is the vector
    of zeros at every position (the paper's choice for text): it compares tokens of one prompt,
    but lies far from all text, and models that normalise the embeddings first change abruptly
    along the line, so that even hundreds of steps may not suffice.
    The input is the output of the token embedding (Gemma's scale included); position embeddings
    (GPT-2, OPT, BERT) are those of the prompt throughout.
    Control: the attribution of random metrics, in each pair: the logit of one random token minus
    that of another, scaled to be as sensitive to the final state as m. A token that does not
    exceed it affects any output as much as this one.
    Cost: 1 forward pass for both ends; for each step 1 forward and 1 + control_draws backward
    passes, many steps at a time as rows of a batch.
    What this does not show: what would happen without the token: it divides a difference to one
    baseline among the tokens, and another baseline divides it otherwise. Interactions of tokens are
    shared out by the path, not shown; and an attribution to an input says nothing about where
    inside the model it comes about.
    Not implemented: a corrupt prompt of another length, from which there is no straight line; other
    paths and baselines (blur, expected gradients), layers other than the input.

    Args:
        baseline: the input that counts as the absence of the prompt.
        metric: what is measured where the answer is read, in nats, or a probability.
        steps: points of the integral.
        control_draws: pairs of random tokens of the control; 0 omits it and its cost.
        seed: of the random tokens.
    """
    x, of_answer = embeddings(lm, pair.clean), measure(lm, metric, pair)
    other = embeddings(lm, pair.corrupt) if baseline == "corrupt" else torch.zeros_like(x)
    ends = run(lm, pair.clean, inputs=torch.cat([x, other])).hidden
    clean, at_baseline = of_answer(ends)
    measures = [of_answer, *random_scores(lm, of_answer, ends[:1], control_draws, seed)]
    mean_gradient = input_gradients(lm, pair.clean, other, measures, steps)
    attributed = ((x - other) * mean_gradient).sum(-1)  # [measure, position]
    return {
        "attribution": attributed[0],
        "control": attributed[1:],
        "clean": clean,
        "at_baseline": at_baseline,
        "completeness_error": attributed[0].sum() - (clean - at_baseline).to(attributed.device),
        "answer_prob": of_answer.answer_prob(ends[:1])[0],
    }
