"""Activation patching (causal tracing between two prompts)."""

from __future__ import annotations

from typing import Annotated, Any

from remote_mi import Bars, Heatmap, Range, Ratio, recipe
from remote_mi.interventions import Direction, Metric, Pair, Site, measure, run, sweep


@recipe(
    over="pair",
    returns={
        "effect": ("layer", "position"),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
    },
    summaries={"recovery": Ratio("effect", gap="gap")},
    controls={"effect": "control"},
    evidence="interventional",
    figures=[Heatmap("recovery", center=0), Bars("recovery")],
    needs=("unembedding",),
    lengths="any",
    references=["vig2020causal", "meng2022locating", "zhang2023patching"],
)
def activation_patching(
    lm: Any,
    pair: Pair,
    *,
    site: Site = "resid_pre",
    direction: Direction = "denoise",
    metric: Metric = "logit_diff",
    positions: list[str] | None = None,
    layers: list[int] | None = None,
    window: Annotated[int, Range(1, 1000)] = 1,
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Which layer and position carries what distinguishes the clean from the corrupt prompt.

    Run the base prompt with the activation of one site, one layer and one position (or of several
    positions at once, see `positions`) replaced by that of the other prompt, and read the metric m
    at the answer's position.

        denoise:  effect[l, p] = m(corrupt run, clean activation at l, p) − m(corrupt run)
        noise:    effect[l, p] = m(clean run, corrupt activation at l, p) − m(clean run)
        gap       = m(clean run) − m(corrupt run)
        recovery  = Σ effect / Σ gap over the pairs (a ratio of means)

    Sign: when denoising, 1 restores the clean behaviour and 0 changes nothing; when noising, −1
    destroys it. The metric is always that of the clean prompt's answer.
    Exact: every cell is its own forward pass (no gradient approximation). Positions before the
    first difference are 0 by causality (an encoder has no such zeros).
    Prompts of unequal length: p runs over the clean prompt's positions, and the other prompt's is
    its counterpart; without one nothing is patched, and the effect is NaN.
    Units: nats for logits and log-probabilities, or a probability.
    Control: an activation x, to be replaced by v, becomes x + ‖v − x‖·u, with u a random direction
    of length 1 for each pair, layer and position (and head, where the site has heads): as large a
    change, without the content.
    Cost: 1 forward pass of each prompt, and one of each cell from its layer on; as many for each
    control draw.
    What this does not show: how the place uses what it carries, nor that nothing else does.
    Everything is relative to the corrupt prompt: what both prompts share cannot stand out. denoise
    shows what suffices to bring the answer back, noise what it needs; one does not imply the other,
    and backups hide what noise would show. Single cells need not add.
    A window of w layers at l begins at layer l − ⌊w/2⌋, cut off at the model's ends.

    Args:
        site: what is patched: the stream before, in or after a block, what attention or the MLP
            adds, queries, keys, values or heads' outputs, or the MLP's neurons; or another site
            that `remote-mi models sites` draws.
        direction: put clean into corrupt (denoise) or corrupt into clean (noise).
        metric: what is measured at the answer's position, in nats, or a probability.
        positions: cells in place of single positions: labels (all tokens of one at once), positions'
            numbers, or all (every position at once); by default each position is a cell.
        layers: the layers that are measured, e.g. 4-8,12; by default all.
        window: how many layers are patched at once, around the layer of the cell.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    base, other = pair.base_and_other(direction)
    put = run(lm, other, site, layers=layers if window == 1 else None)
    of_answer = measure(lm, metric, pair)
    where: dict[str, Any] = {
        "at": pair.cells(positions, direction),
        "layers": layers,
        "window": window,
    }
    random: dict[str, Any] = {"control": control_draws, "seed": seed}
    found = sweep(lm, base, site, put, of_answer, by="position", **where, **random)
    return {
        "effect": found.effect,
        "control": found.control,
        "answer_prob": of_answer.answer_prob(put.hidden)[0],
        **pair.ends(direction, base=found.base, other=found.donor),
    }
