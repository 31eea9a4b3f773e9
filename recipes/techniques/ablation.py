"""Ablation of attention and MLP layers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from remote_mi import Heatmap, Lines, Range, Ratio, Table, recipe
from remote_mi.interventions import (
    Average,
    Metric,
    Pair,
    Prompts,
    Site,
    mean_activations,
    measure,
    run,
    sweep,
)


@recipe(
    over="pair",
    setup="means_of_set",
    returns={
        "effect": ("layer", "position"),
        "layer_effect": ("layer",),
        "loss_change": ("layer",),
        "clean": (),
        "clean_loss": (),
        "answer_prob": (),
    },
    summaries={
        "share": Ratio("effect", gap="clean"),
        "layer_share": Ratio("layer_effect", gap="clean"),
    },
    controls={"effect": "control", "layer_effect": "layer_control", "loss_change": "loss_control"},
    evidence="interventional",
    figures=[
        Heatmap("share", center=0),
        Lines("layer_share", title="share by layer"),
        Lines("loss_change", title="loss change by layer", unit="nats"),
        Table("clean", columns=("clean_loss",)),
    ],
    needs=("unembedding",),
    lengths="any",
    references=["wang2022ioi", "chan2022scrubbing", "zhang2023patching"],
)
def ablation(
    lm: Any,
    pair: Pair,
    means: Any,
    *,
    kind: Literal["mean", "zero", "resample"] = "mean",
    site: Site = "attn_out",
    metric: Metric = "logit_diff",
    reference: Prompts | None = None,
    average: Average = "all",
    positions: list[str] | None = None,
    layers: list[int] | None = None,
    window: Annotated[int, Range(1, 1000)] = 1,
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer depends on what a layer writes, at one position and at all of them.

    Run the clean prompt with the activation of a site in one layer replaced by v, at one position
    (or at several at once, see `positions`) or at all, and read the metric m at the answer's
    position and the loss of the prompt.

        mean:      v[l]    = mean of the site over all positions of all reference prompts, or over
                             all but the first (average=after_first), or
                   v[l, p] = their mean at each position (average=each; Wang et al. 2023)
        zero:      v       = 0
        resample:  v[l, p] = the site in the corrupt prompt of the pair, at the same position
                   (of prompts of unequal length: at its counterpart; without one, x stays, and
                   effect[l, p] is NaN)

        effect[l, p]    = m(v at layer l, position p) − m(clean run)
        layer_effect[l] = m(v at layer l, all positions) − m(clean run)
        loss_change[l]  = loss(v at layer l, all positions) − loss(clean run)
        share           = Σ effect / Σ clean over the pairs (a ratio of means); layer_share alike

    The reference prompts are the clean prompts of the set, or others (reference). By default one
    mean is used for all positions, the first one included, where activations are often very large.
    Wang et al. 2023 average at each position, over other prompts of the same template: average=each
    takes the reference prompts of the prompt's length whose labels are in the same places.
    Sign: what the answer needs has a negative effect; share −1 removes all of m. A positive
    loss_change means a worse model.
    Units: those of the metric (nats, or a probability). The loss is the mean next-token
    cross-entropy over the prompt, in nats; for an encoder, that of the answer.
    Control: the activation x becomes x + ‖v − x‖·u, with u a random direction of length 1 for each
    pair, layer and position (and head, where the site has heads): as large a change, without the
    content.
    Exact. Cost per pair: 1 forward pass (mean, resample: 2), and one from its layer and position
    on for each layer × position and each layer; as many again for each control draw; 1 of each
    reference prompt. With mean and no reference, the result depends on the set.
    What this does not show: how the rest of the model would do without the layer if it had been
    trained so: v is a state that the model may never have seen, so that an effect can come from
    leaving its distribution (resample is nearest to it). A layer without an effect can still
    matter, if later layers make up for it (self-repair) or others do the same (backups). Nor what
    the layer computes, only that the answer depends on it.
    A window of w layers at l begins at layer l − ⌊w/2⌋, cut off at the model's ends.

    Args:
        kind: what replaces the activation.
        reference: the prompts that a mean is over, of a phenomenon or a file; by default the clean
            prompts of the set.
        average: over all positions, over all but the first, or at each position its own.
        site: what is replaced: what attention or the MLP adds, the stream, queries, keys, values or
            heads' outputs, or the MLP's neurons; or another site that `remote-mi models sites`
            draws.
        metric: what is measured at the answer's position.
        positions: cells in place of single positions: labels (all tokens of one at once), positions'
            numbers, or all (every position at once); by default each position is a cell.
        layers: the layers that are measured, e.g. 4-8,12; by default all.
        window: how many layers are replaced at once, around the layer of the cell.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    base = run(lm, pair.clean)
    put = run(lm, pair.corrupt, site) if kind == "resample" else 0.0
    put = means.at(pair.clean) if kind == "mean" else put
    of_metric, both = measure(lm, metric, pair), measure(lm, (metric, "loss"), pair)
    cells = (pair if kind == "resample" else pair.clean).cells(positions)
    given: dict[str, Any] = {"layers": layers, "window": window}
    given |= {"control": control_draws, "seed": seed}
    each = sweep(lm, base, site, put, of_metric, by="position", at=cells, **given)
    whole = sweep(lm, base, site, put, both, by="layer", **given)
    clean, clean_loss = both(base.hidden)[0]
    return {
        "effect": each.effect,
        "control": each.control,
        "layer_effect": whole.effect[..., 0],
        "layer_control": whole.control[..., 0],
        "loss_change": whole.effect[..., 1],
        "loss_control": whole.control[..., 1],
        "clean": clean,
        "clean_loss": clean_loss,
        "answer_prob": both.answer_prob(base.hidden)[0],
    }


def means_of_set(
    lm: Any, pairs: list[Pair], *, kind: str, site: str, reference: Any, average: Average, **_: Any
) -> Any:
    """What a mean is over: the reference prompts, or all clean prompts; None for another kind."""
    if kind != "mean":
        return None
    return mean_activations(lm, reference or [pair.clean for pair in pairs], site, of=average)
