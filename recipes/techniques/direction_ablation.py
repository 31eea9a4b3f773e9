"""Ablation of a direction."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Heatmap, Lines, Range, Ratio, Table, recipe
from remote_mi.interventions import (
    Artifact,
    Metric,
    Pair,
    Site,
    edited,
    info,
    measure,
    random_like,
    run,
    sweep,
)


@recipe(
    over="pair",
    returns={
        "effect": ("layer", "coefficient"),
        "effect_everywhere": ("coefficient",),
        "component": ("layer",),
        "clean": (),
        "answer_prob": (),
        "draw_set": (),
    },
    summaries={
        "share": Ratio("effect", gap="clean"),
        "share_everywhere": Ratio("effect_everywhere", gap="clean"),
    },
    controls={"effect": "random_effect", "effect_everywhere": "random_everywhere"},
    evidence="interventional",
    shared={"random_effect": "draw_set", "random_everywhere": "draw_set"},
    figures=[
        Heatmap("share", center=0),
        Lines("share_everywhere", title="share, all layers at once"),
        Lines("component", title="component along the direction"),
        Table("clean"),
    ],
    needs=("unembedding",),
    references=["arditi2024refusal"],
)
def direction_ablation(
    lm: Any,
    pair: Pair,
    *,
    direction: Artifact["layer", "d_model"],  # noqa: F821, UP037
    site: Site = "resid_pre",
    layers: list[int] | None = None,
    coefficients: list[float] = [0.5, 1.0],  # noqa: B006 - read only
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 99)] = 19,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer depends on the component of the activations along a given direction.

    Run the clean prompt with the component along v, another run's or file's direction, removed from
    the activation x of a site, at every position:

        x ← x − c · r (r · x),   r = v[l] / ‖v[l]‖

        effect[l, c]         = m(so at layer l alone) − m(clean run)
        effect_everywhere[c] = m(so at all chosen layers at once) − m(clean run)
        share                = Σ effect / Σ clean over the pairs (a ratio of means); alike everywhere
        component[l]         = r · x in the clean run, where the answer is read

    With c = 1 nothing of the component is left (Arditi et al. 2024, who remove one direction at
    every layer; they do so at resid_pre, attn_out and mlp_out, here at one site). With c = 2 it is
    reflected. Its length does not matter, only where it points. A direction without a layer of its
    own, e.g. `RUN:direction@layer=14`, is the same at every layer. Where v[l] = 0, nothing is
    removed.
    Sign: what the answer needs has a negative effect; share −1 removes all of m.
    Units: those of the metric (nats, or a probability); component in those of the activation.
    Control: random_effect, the same with random directions: as many dimensions removed, without
    the content. All pairs share them, as they share v, so that all pairs together count as one
    sample when the effect is held against them: telling it from them needs 19 draws.
    Exact. Cost per pair: 1 forward pass, and for each coefficient × (1 + control_draws) one from
    its layer on for each layer, and one for all layers.
    What this does not show: that the direction means what it is named after: whatever else lies
    along it is removed as well. Removing a component far from its mean can leave the model's
    distribution (compare the random directions). No effect does not show that the behaviour has
    no direction: it may have another one, or several.
    Not implemented: removing a subspace, replacing the component by its mean, chosen positions.

    Args:
        direction: from e.g. mean_difference or linear_probe; made at the same site.
        site: where it is removed.
        layers: layers at which it is removed, one at a time and all at once; all by default.
        coefficients: shares of the component that are removed.
        metric: what is measured where the answer is read.
        control_draws: random directions of the control; 19 or more can tell an effect from them.
        seed: of the random directions.
    """
    chosen = info(lm).chosen(layers)
    vectors = direction.expand(len(lm.layers), -1)
    random = random_like(vectors, control_draws, torch.Generator().manual_seed(seed))
    rays = torch.cat([vectors[None], random])  # [variant, layer, d_model]
    rays = rays / rays.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    doses = torch.tensor(coefficients).to(rays)
    rays = rays.nan_to_num().repeat_interleave(len(doses), 0)  # [variant × coefficient, …]
    doses = doses.repeat(1 + control_draws)
    base = run(lm, pair.clean, site, layers=chosen)
    of_metric = measure(lm, metric, pair)

    def removed(layer: int, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """x without what each row removes, [row, position, width]."""
        ray = rays[rows.to(rays.device), layer].to(x.device)[:, None]  # [row, 1, width]
        dose = doses[rows.to(doses.device)].to(x.device)[:, None, None]
        own = x.float()
        return (own - dose * (own * ray).sum(-1, keepdim=True) * ray).to(x.dtype)

    every = torch.arange(len(rays))

    def put(layer: int) -> torch.Tensor:
        own = base.values[layer].expand(len(rays), -1, -1)
        return removed(layer, own, every)[:, None]  # [variant × coefficient, 1, position, width]

    each = sweep(lm, base, site, put, of_metric, by="layer", layers=chosen)
    whole = edited(lm, pair.clean, site, removed, len(rays), of_metric, layers=chosen)
    shape = (1 + control_draws, len(coefficients))
    effects = each.effect.unflatten(0, shape).transpose(1, 2)  # [variant, layer, coefficient]
    everywhere = (whole - each.base).unflatten(0, shape)
    along = [
        (base.values[i][0, pair.end].float() * rays[0, i].to(base.values[i].device)).sum()
        for i in chosen
    ]
    return {
        "effect": effects[0],
        "random_effect": effects[1:],
        "effect_everywhere": everywhere[0],
        "random_everywhere": everywhere[1:],
        "component": along,
        "clean": each.base,
        "answer_prob": of_metric.answer_prob(base.hidden)[0],
        "draw_set": 0,
    }
