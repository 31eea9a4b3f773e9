"""Attribution patching (activation patching by gradients)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Heatmap, Range, Ratio, recipe
from remote_mi.interventions import (
    Direction,
    Metric,
    Pair,
    Site,
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
        "effect": ("layer", "position"),
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
def attribution_patching(
    lm: Any,
    pair: Pair,
    *,
    site: Site = "resid_pre",
    direction: Direction = "denoise",
    positions: list[str] | None = None,
    layers: list[int] | None = None,
    metric: Metric = "logit_diff",
    compare: Literal["none", "exact"] = "none",
    control_draws: Annotated[int, Range(0, 1000)] = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """An estimate of which layer and position carries what distinguishes clean from corrupt.

    The first-order estimate of activation patching, for all cells at once. x[l, p] is the
    activation of a site, m the metric where the answer is read, and both differ between the base
    run and the other run:

        effect[l, p] = (x_other[l, p] − x_base[l, p]) · ∂m/∂x[l, p] in the base run
        gap          = m(clean run) − m(corrupt run)
        recovery     = Σ effect / Σ gap over the pairs (a ratio of means)

    denoise: the base is the corrupt run, the other the clean run; noise: the other way round.
    Sign and units as in activation_patching, which is exact: when denoising, 1 restores the clean
    behaviour; when noising, −1 destroys it. The metric is always that of the clean prompt's answer.
    An estimate is good where m is nearly linear over the difference. It is poor where attention
    or a norm saturates, and so in early layers of the stream, where the two runs are far apart.
    In causal models positions before the first difference are exactly 0. Prompts of unequal length:
    p runs over the clean prompt's positions, the other prompt's is its counterpart, and the effect
    is NaN without one.
    Control: r · ∂m/∂x, the same estimate for a random direction r of the length of x_other − x_base
    at the cell, for each pair and cell. An effect that is not told from it shows that the runs
    differ there and that the metric is sensitive there, not that they differ in what it reads.
    correlation: Pearson's, of effect with the exact effect over all cells of the map, including
    those that are 0 by causality; none unless compare is "exact".
    Cost: 2 forward passes and 1 backward pass; comparing adds an exact sweep.
    What this does not show: the effect itself: it is the first order of one, at one point, and was
    never carried out. Cells with a small estimate can have a large effect, and the other way round;
    patch those that matter. As in activation_patching, everything is relative to the corrupt
    prompt.
    Not implemented: the corrections of AtP* (attention saturation, cancellation in backward
    paths); edges between components.

    Args:
        site: what is patched: the stream before, in or after a block, what attention or the MLP
            adds, queries, keys, values or heads' outputs, or the MLP's neurons; or another site
            that `remote-mi models sites` draws.
        direction: put clean into corrupt (denoise) or corrupt into clean (noise).
        positions: cells in place of single positions: labels (all tokens of one at once), positions'
            numbers, or all (every position at once), each the sum of its positions' estimates; by
            default each position is a cell.
        layers: the layers that are measured, e.g. 4-8,12; by default all.
        metric: what is measured where the answer is read, in nats, or a probability.
        compare: "exact" also runs activation_patching and computes the correlation with it.
        control_draws: random directions of the control.
        seed: of the random directions.
    """
    of_base, of_other = pair.base_and_other(direction)
    of_answer = measure(lm, metric, pair)
    base, other = gradients(lm, of_base, site, of_answer), run(lm, of_other, site)
    generator, cells = torch.Generator().manual_seed(seed), pair.cells(positions, direction)
    moved = [changes(lm, base, other), base.gradients]
    if layers is not None:
        moved = [[values[i] for i in info(lm).chosen(layers)] for values in moved]

    def of_cells(change: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return added_up((change * gradient)[0].sum(-1), cells)

    def of_random(change: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        random = random_like(change, control_draws, generator) * gradient
        return added_up(random[:, 0].sum(-1), cells)

    effect, compared = by_layer(of_cells, *moved), torch.zeros(0)  # nothing to compare with
    if compare == "exact":
        exact = sweep(lm, of_base, site, other, of_answer, at=cells, layers=layers).effect
        there = [index for index, cell in enumerate(cells) if cell]
        compared = correlation(effect[:, there], exact[:, there])[None]
    ends = pair.ends(direction, of_answer(base.hidden)[0], of_answer(other.hidden)[0])
    return {
        "effect": effect,
        "control": by_layer(of_random, *moved, dim=1),
        "answer_prob": of_answer.answer_prob(other.hidden)[0],
        "correlation": compared,
        **ends,
    }


def added_up(by_position: torch.Tensor, cells: list[list[int]]) -> torch.Tensor:
    """The sum over the positions of each cell, [..., cell], from [..., position]; NaN without any."""
    sums = [
        by_position[..., cell].sum(-1) if cell else by_position[..., 0] * torch.nan
        for cell in cells
    ]
    return torch.stack(sums, -1)
