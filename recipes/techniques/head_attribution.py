"""Attribution patching of attention heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Heatmap, Range, Ratio, recipe
from remote_mi.interventions import (
    Direction,
    Metric,
    Pair,
    by_layer,
    changes,
    correlation,
    gradients,
    info,
    measure,
    random_like,
    run,
    sweep,
)


@recipe(
    over="pair",
    returns={
        "effect": ("layer", "head"),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
        "correlation": ("draw",),
    },
    summaries={"recovery": Ratio("effect", gap="gap")},
    controls={"effect": "control"},
    evidence="observational",
    figures=[Heatmap("recovery", center=0), Bars("recovery")],
    needs=("gradients", "unembedding"),
    lengths="any",
    references=["nanda2023attribution", "syed2023attribution", "kramar2024atp"],
)
def head_attribution(
    lm: Any,
    pair: Pair,
    *,
    direction: Direction = "denoise",
    metric: Metric = "logit_diff",
    compare: Literal["none", "exact"] = "none",
    control_draws: Annotated[int, Range(0, 1000)] = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """An estimate of which attention head carries what distinguishes clean from corrupt.

    The first-order estimate of head_patching, for all heads at once. z[l, h] is one head's
    output (head_z: what that query head hands to the output projection) at all positions p, m
    the metric where the answer is read:

        effect[l, h] = Σ_p (z_other[l, h, p] − z_base[l, h, p]) · ∂m/∂z[l, h, p] in the base run
        gap          = m(clean run) − m(corrupt run)
        recovery     = Σ effect / Σ gap over the pairs (a ratio of means)

    denoise: the base is the corrupt run, the other the clean run; noise: the other way round.
    Of prompts of unequal length, the sum is over the positions that have a counterpart.
    Sign and units as in head_patching, which is exact. Heads of late layers, whose output is
    read by the norm and little else, are estimated well; a head whose effect saturates is not.
    Control: Σ_p r[p] · ∂m/∂z[p], the same estimate for random directions r[p] of the lengths of
    z_other − z_base, for each pair and head. An effect that is not told from it shows that the
    head's outputs differ and that the metric is sensitive to it, not that they differ in what it
    reads.
    correlation: Pearson's, of effect with the exact effect over all heads; not a number unless
    compare is "exact".
    Cost: 2 forward passes and 1 backward pass; comparing adds an exact sweep.
    What this does not show: the effect itself: it is the first order of one, at one point, and was
    never carried out. Heads with a small estimate can have a large effect, and the other way round;
    patch those that matter. As in head_patching, everything is relative to the corrupt prompt.
    Not implemented: the corrections of AtP* (attention saturation, cancellation in backward
    paths); heads by position; queries, keys and values apart.

    Args:
        direction: put clean into corrupt (denoise) or corrupt into clean (noise).
        metric: what is measured where the answer is read, in nats, or a probability.
        compare: "exact" also runs head_patching and computes the correlation with it.
        control_draws: random directions of the control.
        seed: of the random directions.
    """
    of_base, of_other = pair.base_and_other(direction)
    of_answer = measure(lm, metric, pair)
    base, other = gradients(lm, of_base, "head_z", of_answer), run(lm, of_other, "head_z")
    generator = torch.Generator().manual_seed(seed)
    moved = changes(lm, base, other), base.gradients

    def by_head(activation: torch.Tensor) -> torch.Tensor:  # [position, head, d_head]
        return activation[0, of_base.matched].unflatten(-1, (info(lm).heads, -1))

    def of_random(change: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        random = random_like(by_head(change), control_draws, generator)
        return (random * by_head(gradient)).sum((1, 3))

    effect = by_layer(lambda change, slope: (by_head(change) * by_head(slope)).sum((0, 2)), *moved)
    compared = torch.zeros(0)  # nothing to compare with
    if compare == "exact":
        exact = sweep(lm, of_base, "head_z", other, of_answer, by="head").effect
        compared = correlation(effect, exact)[None]
    ends = pair.ends(direction, of_answer(base.hidden)[0], of_answer(other.hidden)[0])
    return {
        "effect": effect,
        "control": by_layer(of_random, *moved, dim=1),
        "answer_prob": of_answer.answer_prob(other.hidden)[0],
        "correlation": compared,
        **ends,
    }
