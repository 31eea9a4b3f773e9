"""Patching or ablation of attention heads at single positions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from remote_mi import Bars, Heatmap, Range, Ratio, recipe
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
        "effect": ("layer", "head", "position"),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
    },
    summaries={"recovery": Ratio("effect", gap="gap")},
    controls={"effect": "control"},
    evidence="interventional",
    figures=[Bars("recovery"), Heatmap("recovery", rows="layer", columns="position", center=0)],
    needs=("unembedding",),
    references=["wang2022ioi", "zhang2023patching"],
)
def heads_by_position(
    lm: Any,
    pair: Pair,
    means: Any,
    *,
    site: Literal["head_z", "q", "k", "v"] = "head_z",
    kind: Literal["denoise", "resample", "mean", "zero"] = "denoise",
    reference: Prompts | None = None,
    average: Average = "all",
    positions: list[str] | None = None,
    layers: list[int] | None = None,
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 20)] = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """At which position which attention head carries what the answer depends on.

    Run the base prompt with one head's output (head_z: what that query head hands to the output
    projection), or its queries, keys or values, replaced by v at one position, and read the metric
    m at the answer's position.

        denoise:   base: the corrupt prompt; v[p] = the head in the clean prompt, at the position
        resample:  base: the clean prompt;   v[p] = the head in the corrupt prompt, at the position
        mean:      base: the clean prompt;   v = its mean over `reference`, as `average` says
        zero:      base: the clean prompt;   v = 0

        effect[l, h, p] = m(base run, head l.h replaced by v at p) − m(base run)
        gap             = m(clean run) − m(corrupt run)
        recovery        = Σ effect / Σ gap over the pairs (a ratio of means)

    Sign: with denoise 1 restores the clean behaviour; with the others −1 takes the whole gap. The
    metric is always that of the clean prompt's answer.
    Units: those of the metric (nats, or a probability).
    Control: a head's output x, to be replaced by v, becomes x + ‖v − x‖·u, with u a random
    direction of length 1 for each pair, head and position: as large a change, without the content.
    None by default, since it takes as many runs again.
    Exact: every cell is its own forward pass; with denoise and resample positions before the first
    difference are 0 by causality. Cost per pair: 1 forward pass of each prompt, and one of each
    head and position from its layer on; as many for each control draw; with mean 1 of each
    reference prompt. With mean and no reference, the result depends on the set of prompts.
    What this does not show: to whom the head hands on what it carries there, nor how it came by it.
    Single effects need not add; backup heads hide those that are needed.

    Args:
        site: what of a head is replaced; k and v are those of key heads, which query heads may
            share.
        kind: what replaces the head's output, and in which prompt.
        reference: the prompts that a mean is over, of a phenomenon or a file; by default the clean
            prompts of the set.
        average: over all positions, over all but the first, or at each position its own.
        positions: cells in place of single positions: labels (all tokens of one at once), positions'
            numbers, or all (every position at once); by default each position is a cell.
        layers: the layers whose heads are measured, e.g. 4-8,12; by default all.
        metric: what is measured at the answer's position.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    direction = "denoise" if kind == "denoise" else "noise"
    base, other = pair.base_and_other(direction)
    of_answer = measure(lm, metric, pair)
    here, there = run(lm, base), run(lm, other, site, layers=layers)
    put = there if kind in ("denoise", "resample") else 0.0
    put = means.at(base) if kind == "mean" else put
    given: dict[str, Any] = {"layers": layers, "control": control_draws, "seed": seed}
    given["at"] = pair.cells(positions)
    found = sweep(lm, here, site, put, of_answer, by="head_position", **given)
    clean = there if kind == "denoise" else here
    return {
        "effect": found.effect,
        "control": found.control,
        "answer_prob": of_answer.answer_prob(clean.hidden)[0],
        **pair.ends(direction, base=found.base, other=of_answer(there.hidden)[0]),
    }


def means_of_set(
    lm: Any, pairs: list[Pair], *, kind: str, site: str, reference: Any, average: Average, **_: Any
) -> Any:
    """What a mean is over: the reference prompts, or all clean prompts; None for another kind."""
    if kind != "mean":
        return None
    return mean_activations(lm, reference or [p.clean for p in pairs], site, of=average)
