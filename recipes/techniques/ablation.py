"""Ablation of attention and MLP layers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from remote_mi import Heatmap, Lines, Range, Ratio, Table, recipe
from remote_mi.interventions import Metric, Pair, Site, shared_base
from remote_mi.interventions.ablations import (
    ablate_positions,
    ablate_whole,
    ablation_values,
    metric_and_loss,
    site_means,
)
from remote_mi.interventions.sweeps import first_changed


@recipe(
    over="pairs",
    returns={
        "effect": ("pair", "layer", "position"),
        "layer_effect": ("pair", "layer"),
        "loss_change": ("pair", "layer"),
        "clean": ("pair",),
        "clean_loss": ("pair",),
        "control": ("pair", "draw", "layer", "position"),
        "layer_control": ("pair", "draw", "layer"),
        "loss_control": ("pair", "draw", "layer"),
    },
    summaries={
        "share": Ratio("effect", gap="clean"),
        "layer_share": Ratio("layer_effect", gap="clean"),
        "control_share": Ratio("control", gap="clean"),
        "control_layer_share": Ratio("layer_control", gap="clean"),
    },
    controls={
        "share": "control_share",
        "layer_share": "control_layer_share",
        "loss_change": "loss_control",
    },
    figures=[
        Heatmap("share", center=0),
        Lines("layer_share", title="share by layer"),
        Lines("loss_change", title="loss change by layer", unit="nats"),
        Table("clean", columns=("clean_loss",)),
    ],
    references=["wang2022ioi", "chan2022scrubbing", "zhang2023patching"],
)
def ablation(
    lm: Any,
    pairs: list[Pair],
    *,
    kind: Literal["mean", "zero", "resample"] = "mean",
    site: Site = "attn_out",
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer depends on what a layer writes, at one position and at all of them.

    Run the clean prompt with the activation of a site in one layer replaced by v, at one position
    or at all, and read the metric m at the answer's position and the loss of the prompt.

        mean:      v[l]    = mean of the site over all positions of all clean prompts of the set
        zero:      v       = 0
        resample:  v[l, p] = the site in the corrupt prompt of the pair, at the same position

        effect[l, p]    = m(v at layer l, position p) − m(clean run)
        layer_effect[l] = m(v at layer l, all positions) − m(clean run)
        loss_change[l]  = loss(v at layer l, all positions) − loss(clean run)
        share           = Σ effect / Σ clean over the pairs (a ratio of means); layer_share alike

    Variant: Wang et al. 2023 average, position by position, over a set of other prompts of the
    same template. Here the set is that of the clean prompts themselves, and one mean serves all
    positions, the first one (where activations are often very large) counted as any other.
    Sign: what the answer needs has a negative effect; share −1 removes all of m. A positive
    loss_change is a worse model.
    Units: those of the metric (nats, or a probability). The loss is the mean next-token
    cross-entropy over the prompt, in nats; for an encoder, that of the answer.
    Control: the activation x becomes x + ‖v − x‖·u, with u a random direction of length 1 for each
    pair, layer and position: as large a change, without the content.
    Exact. Cost per pair: 1 forward pass (mean, resample: 2), and one from its layer and position
    on for each layer × position and each layer; as many again for each control draw. With mean,
    the result depends on the set.
    Not implemented: means by position, windows of layers.

    Args:
        kind: what is put in place of the activation.
        site: what is replaced: what attention or the MLP adds, or the stream.
        metric: what is measured at the answer's position.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    means = site_means(lm, [pair.clean.ids for pair in pairs], site) if kind == "mean" else []
    found: dict[str, list[Any]] = {}
    for pair in pairs:
        base, hidden = shared_base(lm, pair.clean.ids)
        clean = metric_and_loss(lm, pair, metric)(hidden)[0]
        values = ablation_values(lm, pair, site, kind, means)
        # Until the first difference the corrupt prompt has the same activations: exactly 0.
        first = first_changed(lm, pair) if kind == "resample" else 0
        given = (site, values, metric, first, control_draws, seed)
        each = ablate_positions(lm, pair, base, *given)
        whole = ablate_whole(lm, pair, base, *given)
        outputs = {
            "effect": each["effect"],
            "layer_effect": whole["effect"][:, 0, 0],
            "loss_change": whole["effect"][:, 0, 1],
            "clean": clean[0],
            "clean_loss": clean[1],
            "control": each["control"],
            "layer_control": whole["control"][:, :, 0, 0],
            "loss_control": whole["control"][:, :, 0, 1],
        }
        for name, value in outputs.items():
            found.setdefault(name, []).append(value)
    return found
