"""Ablation of attention heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from remote_mi import Bars, Heatmap, Range, Ratio, Table, recipe
from remote_mi.interventions import Metric, Pair, shared_base
from remote_mi.interventions.ablations import (
    ablate_whole,
    ablation_values,
    metric_and_loss,
    site_means,
)
from remote_mi.interventions.sweeps import first_changed


@recipe(
    over="pairs",
    returns={
        "effect": ("pair", "layer", "head"),
        "loss_change": ("pair", "layer", "head"),
        "clean": ("pair",),
        "clean_loss": ("pair",),
        "control": ("pair", "draw", "layer", "head"),
        "loss_control": ("pair", "draw", "layer", "head"),
    },
    summaries={
        "share": Ratio("effect", gap="clean"),
        "control_share": Ratio("control", gap="clean"),
    },
    controls={"share": "control_share", "loss_change": "loss_control"},
    figures=[
        Heatmap("share", center=0),
        Bars("share"),
        Bars("loss_change", unit="nats"),
        Table("clean", columns=("clean_loss",)),
    ],
    references=["wang2022ioi", "chan2022scrubbing", "zhang2023patching"],
)
def head_ablation(
    lm: Any,
    pairs: list[Pair],
    *,
    kind: Literal["mean", "zero", "resample"] = "mean",
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer, and the prompt's loss, depend on each attention head.

    Run the clean prompt with one head's output (head_z: what that query head hands to the output
    projection) replaced by v at all positions, and read the metric m at the answer's position and
    the loss of the prompt.

        mean:      v[l, h]    = mean of the head over all positions of all clean prompts of the set
        zero:      v          = 0
        resample:  v[l, h, p] = the head in the corrupt prompt of the pair, at the same position

        effect[l, h]      = m(head l.h replaced by v) − m(clean run)
        loss_change[l, h] = loss(head l.h replaced by v) − loss(clean run)
        share             = Σ effect / Σ clean over the pairs (a ratio of means)

    Variant: Wang et al. 2023 average, position by position, over a set of other prompts of the
    same template. Here the set is that of the clean prompts themselves, and one mean serves all
    positions. Resampling is the noising of `head_patching`.
    Sign: a head that the answer needs has a negative effect; share −1 removes all of m. A positive
    loss_change is a worse model.
    Units: those of the metric (nats, or a probability). The loss is the mean next-token
    cross-entropy over the prompt, in nats; for an encoder, that of the answer.
    Control: the head's output x becomes x + ‖v − x‖·u, with u a random direction of length 1 for
    each pair, head and position: as large a change, without the content.
    Exact. Cost per pair: one forward pass of each head from its layer on, and as many for each
    control draw; mean and resample take 1 more. With mean, the result depends on the set.
    Not implemented: means by position, several heads at once, single positions of a head.

    Args:
        kind: what is put in place of the head's output.
        metric: what is measured at the answer's position.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    means = site_means(lm, [pair.clean.ids for pair in pairs], "head_z") if kind == "mean" else []
    found: dict[str, list[Any]] = {}
    for pair in pairs:
        base, hidden = shared_base(lm, pair.clean.ids)
        clean = metric_and_loss(lm, pair, metric)(hidden)[0]
        values = ablation_values(lm, pair, "head_z", kind, means)
        # Until the first difference the corrupt prompt has the same activations.
        first = first_changed(lm, pair) if kind == "resample" else 0
        given = ("head_z", values, metric, first, control_draws, seed)
        runs = ablate_whole(lm, pair, base, *given)
        outputs = {
            "effect": runs["effect"][..., 0],
            "loss_change": runs["effect"][..., 1],
            "clean": clean[0],
            "clean_loss": clean[1],
            "control": runs["control"][..., 0],
            "loss_control": runs["control"][..., 1],
        }
        for name, value in outputs.items():
            found.setdefault(name, []).append(value)
    return found
