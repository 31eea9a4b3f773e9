"""Activation patching of attention heads."""

from __future__ import annotations

from typing import Annotated, Any

from remote_mi import Bars, Heatmap, Range, Ratio, recipe
from remote_mi.interventions import Direction, Metric, Pair, measure, run, sweep


@recipe(
    over="pair",
    returns={
        "effect": ("layer", "head"),
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
    references=["wang2022ioi", "zhang2023patching"],
)
def head_patching(
    lm: Any,
    pair: Pair,
    *,
    direction: Direction = "denoise",
    layers: list[int] | None = None,
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Which attention head carries what distinguishes the clean from the corrupt prompt.

    Run the base prompt with one head's output (head_z: what that query head hands to the output
    projection, at all positions) replaced by that of the other prompt, and read the metric m at
    the answer's position.

        denoise:  effect[l, h] = m(corrupt run, clean head l.h) − m(corrupt run)
        noise:    effect[l, h] = m(clean run, corrupt head l.h) − m(clean run)
        gap       = m(clean run) − m(corrupt run)
        recovery  = Σ effect / Σ gap over the pairs (a ratio of means)

    Sign: when denoising, a positive head restores the clean behaviour; when noising, a negative
    head is one that the behaviour needs, and a positive one works against it.
    Prompts of unequal length: the head is replaced at the positions that have a counterpart, and
    stays as it is at the others.
    With grouped keys and values the heads are still the query heads. Exact, no approximation.
    Units: nats for logits and log-probabilities, or a probability.
    Control: a head's output x, to be replaced by v, becomes x + ‖v − x‖·u, with u a random
    direction of length 1 for each pair, head and position: as large a change, without the content.
    Cost: 1 forward pass of each prompt, and one of each head from its layer on; as many for each
    control draw.
    What this does not show: to whom the head hands on what it carries, nor how it came by it: its
    effect goes through all later layers. Everything is relative to the corrupt prompt. denoise
    shows which head suffices by itself, noise which one is needed by itself, and backup heads hide
    those that are. Single effects need not add.
    Not implemented: direct paths alone (`path_patching`), single positions of a head
    (`heads_by_position`).

    Args:
        direction: put clean into corrupt (denoise) or corrupt into clean (noise).
        layers: the layers whose heads are measured, e.g. 4-8,12; by default all.
        metric: what is measured at the answer's position, in nats, or a probability.
        control_draws: random directions of equal distance to compare with; 0 for none.
        seed: of the random directions.
    """
    base, other = pair.base_and_other(direction)
    put, of_answer = run(lm, other, "head_z", layers=layers), measure(lm, metric, pair)
    given: dict[str, Any] = {"layers": layers, "control": control_draws, "seed": seed}
    found = sweep(lm, base, "head_z", put, of_answer, by="head", **given)
    return {
        "effect": found.effect,
        "control": found.control,
        "answer_prob": of_answer.answer_prob(put.hidden)[0],
        **pair.ends(direction, base=found.base, other=found.donor),
    }
