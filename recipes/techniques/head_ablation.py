"""Ablation of attention heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from remote_mi import Bars, Heatmap, Range, Ratio, Table, recipe
from remote_mi.interventions import (
    Average,
    Metric,
    Pair,
    Prompts,
    mean_activations,
    measure,
    run,
    sweep,
)


@recipe(
    over="pair",
    setup="means_of_set",
    returns={
        "effect": ("layer", "head"),
        "loss_change": ("layer", "head"),
        "clean": (),
        "clean_loss": (),
        "answer_prob": (),
    },
    summaries={"share": Ratio("effect", gap="clean")},
    controls={"effect": "control", "loss_change": "loss_control"},
    evidence="interventional",
    figures=[
        Heatmap("share", center=0),
        Bars("share"),
        Bars("loss_change", unit="nats"),
        Table("clean", columns=("clean_loss",)),
    ],
    needs=("unembedding",),
    lengths="any",
    references=["wang2022ioi", "chan2022scrubbing", "zhang2023patching"],
)
def head_ablation(
    lm: Any,
    pair: Pair,
    means: Any,
    *,
    kind: Literal["mean", "zero", "resample"] = "mean",
    reference: Prompts | None = None,
    average: Average = "all",
    layers: list[int] | None = None,
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer, and the prompt's loss, depend on each attention head.

    Run the clean prompt with one head's output (head_z: what that query head hands to the output
    projection) replaced by v at all positions, and read the metric m at the answer's position and
    the loss of the prompt.

        mean:      v[l, h]    = mean of the head over all positions of all reference prompts, or
                                over all but the first (average=after_first), or
                   v[l, h, p] = their mean at each position (average=each; Wang et al. 2023)
        zero:      v          = 0
        resample:  v[l, h, p] = the head in the corrupt prompt of the pair, at the same position
                   (of prompts of unequal length: at its counterpart; without one, z stays)

        effect[l, h]      = m(head l.h replaced by v) − m(clean run)
        loss_change[l, h] = loss(head l.h replaced by v) − loss(clean run)
        share             = Σ effect / Σ clean over the pairs (a ratio of means)

    The reference prompts are the clean prompts of the set, or others (reference). By default one
    mean is used for all positions. Wang et al. 2023 average at each position, over other prompts of
    the same template: average=each takes the reference prompts of the prompt's length whose labels
    are in the same places. Resampling is the noising of `head_patching`.
    Sign: a head that the answer needs has a negative effect; share −1 removes all of m. A positive
    loss_change means a worse model.
    Units: those of the metric (nats, or a probability). The loss is the mean next-token
    cross-entropy over the prompt, in nats; for an encoder, that of the answer.
    Control: the head's output x becomes x + ‖v − x‖·u, with u a random direction of length 1 for
    each pair, head and position: as large a change, without the content.
    Exact. Cost per pair: one forward pass of each head from its layer on, and as many for each
    control draw; resample takes 1 more, and mean 1 of each reference prompt. With mean and no
    reference, the result depends on the set.
    What this does not show: how the rest of the model would do without the head if it had been
    trained so: v is a state that the model may never have seen, so that an effect can come from
    leaving its distribution (resample is nearest to it). A head without an effect can still matter:
    backup heads and later layers make up for it. Effects of single heads need not add, nor do they
    say what the head does.
    Not implemented: several heads at once (`set_ablation`), single positions of a head
    (`heads_by_position`).

    Args:
        kind: what replaces the head's output.
        reference: the prompts that a mean is over, of a phenomenon or a file; by default the clean
            prompts of the set.
        average: over all positions, over all but the first, or at each position its own.
        layers: the layers whose heads are measured, e.g. 4-8,12; by default all.
        metric: what is measured at the answer's position.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    base = run(lm, pair.clean)
    put = run(lm, pair.corrupt, "head_z") if kind == "resample" else 0.0
    put = means.at(pair.clean) if kind == "mean" else put
    both = measure(lm, (metric, "loss"), pair)
    given: dict[str, Any] = {"layers": layers, "control": control_draws, "seed": seed}
    found = sweep(lm, base, "head_z", put, both, by="head", **given)
    clean, clean_loss = both(base.hidden)[0]
    return {
        "effect": found.effect[..., 0],
        "control": found.control[..., 0],
        "loss_change": found.effect[..., 1],
        "loss_control": found.control[..., 1],
        "clean": clean,
        "clean_loss": clean_loss,
        "answer_prob": both.answer_prob(base.hidden)[0],
    }


def means_of_set(
    lm: Any, pairs: list[Pair], *, kind: str, reference: Any, average: Average, **_: Any
) -> Any:
    """What a mean is over: the reference prompts, or all clean prompts; None for another kind."""
    if kind != "mean":
        return None
    return mean_activations(lm, reference or [p.clean for p in pairs], "head_z", of=average)
