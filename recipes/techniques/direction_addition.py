"""Addition of a direction."""

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
        "relative_length": ("layer",),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
        "draw_set": (),
    },
    summaries={
        "recovery": Ratio("effect", gap="gap"),
        "recovery_everywhere": Ratio("effect_everywhere", gap="gap"),
    },
    controls={"effect": "random_effect", "effect_everywhere": "random_everywhere"},
    evidence="interventional",
    shared={"random_effect": "draw_set", "random_everywhere": "draw_set"},
    figures=[
        Heatmap("recovery", center=0),
        Lines("recovery", title="recovery by coefficient"),
        Lines("recovery_everywhere", title="recovery, all layers at once"),
        Lines("relative_length", title="length of the direction, in lengths of the activation"),
        Table("corrupt", columns=("clean", "gap")),
    ],
    needs=("unembedding",),
    references=["arditi2024refusal", "marks2024geometry", "turner2023activation"],
)
def direction_addition(
    lm: Any,
    pair: Pair,
    *,
    direction: Artifact["layer", "d_model"],  # noqa: F821, UP037
    site: Site = "resid_pre",
    layers: list[int] | None = None,
    coefficients: list[float] = [-1.0, 1.0, 2.0],  # noqa: B006 - read only
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 99)] = 19,
    seed: int = 0,
) -> dict[str, Any]:
    """How far a given direction, added to the activations, moves the model to the clean answer.

    Run the corrupt prompt with v, another run's or file's direction, added to the activation x of a
    site, at every position:

        x ← x + c · v[l]

        effect[l, c]         = m(so at layer l alone) − m(corrupt run)
        effect_everywhere[c] = m(so at all chosen layers at once) − m(corrupt run)
        gap                  = m(clean run) − m(corrupt run)
        recovery             = Σ effect / Σ gap over the pairs (a ratio of means); alike everywhere
        relative_length[l]   = ‖v[l]‖ / mean over positions of ‖x‖ in the corrupt run

    The direction keeps its length: coefficient 1 is the direction itself. That of mean_difference
    is the distance between two classes, and that of linear_probe as long as the classes are apart
    along it. A direction without a layer of its own, e.g. `RUN:direction@layer=14`, is the same at
    every layer. With all layers at once, what was added at one is still there at the next, so that
    the doses add up.
    Sign: a positive effect is towards the clean answer. The metric is always that of the clean
    answer. Whether the direction points to the clean answer is the user's to know: it points to
    what it was made from, and a negative coefficient turns it.
    Units: those of the metric (nats, or a probability).
    Control: random_effect, the same with random directions of the same length at every layer. All
    pairs share them, as they share v, so that all pairs together count as one sample when the effect
    is held against them: telling it from them needs 19 draws.
    Exact. Cost per pair: 2 forward passes, and for each coefficient × (1 + control_draws) one from
    its layer on for each layer, and one for all layers.
    What this does not show: that the model itself uses the direction: a change that it suffices to
    make, at this length, need not be how the model makes it. Large coefficients leave the model's
    distribution.
    Not implemented: chosen positions (steering adds at the end only), text, normalised lengths.

    Args:
        direction: from e.g. mean_difference or linear_probe; made at the same site.
        site: where it is added.
        layers: layers at which it is added, one at a time and all at once; all by default.
        coefficients: multiples of the direction.
        metric: what is measured where the answer is read.
        control_draws: random directions of the control; 19 or more can tell an effect from them.
        seed: of the random directions.
    """
    chosen = info(lm).chosen(layers)
    vectors = direction.expand(len(lm.layers), -1)
    random = random_like(vectors, control_draws, torch.Generator().manual_seed(seed))
    added = torch.cat([vectors[None], random]).nan_to_num()  # [variant, layer, d_model]
    doses = torch.tensor(coefficients).to(added)
    added = doses[None, :, None, None] * added[:, None]
    added = added.flatten(0, 1)  # [variant × coefficient, …]
    base, of_metric = run(lm, pair.corrupt, site, layers=chosen), measure(lm, metric, pair)
    clean_run = run(lm, pair.clean)

    def moved(layer: int, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """x with what each row adds, [row, position, width]."""
        own = added[rows.to(added.device), layer].to(x.device)[:, None]
        return (x.float() + own).to(x.dtype)

    every = torch.arange(len(added))

    def put(layer: int) -> torch.Tensor:
        own = base.values[layer].expand(len(added), -1, -1)
        return moved(layer, own, every)[:, None]  # [variant × coefficient, 1, position, width]

    each = sweep(lm, base, site, put, of_metric, by="layer", layers=chosen)
    whole = edited(lm, pair.corrupt, site, moved, len(added), of_metric, layers=chosen)
    shape = (1 + control_draws, len(coefficients))
    effects = each.effect.unflatten(0, shape).transpose(1, 2)  # [variant, layer, coefficient]
    everywhere = (whole - each.base).unflatten(0, shape)
    clean = of_metric(clean_run.hidden)[0]
    typical = [base.values[i][0].float().norm(dim=-1).mean() for i in chosen]
    return {
        "effect": effects[0],
        "random_effect": effects[1:],
        "effect_everywhere": everywhere[0],
        "random_everywhere": everywhere[1:],
        "relative_length": [
            vectors[i].norm().to(one.device) / one for i, one in zip(chosen, typical, strict=True)
        ],
        "gap": clean - each.base,
        "clean": clean,
        "corrupt": each.base,
        "answer_prob": of_metric.answer_prob(clean_run.hidden)[0],
        "draw_set": 0,
    }
