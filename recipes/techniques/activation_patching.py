"""Activation patching (causal tracing between two prompts)."""

from __future__ import annotations

from typing import Any

from remote_mi.figures import Bars, Heatmap
from remote_mi.interventions import Direction, Metric, Pair, Site, patch_positions
from remote_mi.recipe import Ratio, recipe


@recipe(
    over="pair",
    returns={"effect": ("layer", "position"), "gap": (), "clean": (), "corrupt": ()},
    summaries={"recovery": Ratio("effect", gap="gap")},
    figures=[Heatmap("recovery", center=0), Bars("recovery")],
    references=["vig2020causal", "meng2022locating", "zhang2023patching"],
)
def activation_patching(
    lm: Any,
    pair: Pair,
    *,
    site: Site = "resid_pre",
    direction: Direction = "denoise",
    metric: Metric = "logit_diff",
) -> dict[str, Any]:
    """Which layer and position carries what tells the clean from the corrupt prompt.

    Run the base prompt with the activation of one site, one layer and one position replaced by
    that of the other prompt, and read the metric m at the last position.

        denoise:  effect[l, p] = m(corrupt run, clean activation at l, p) − m(corrupt run)
        noise:    effect[l, p] = m(clean run, corrupt activation at l, p) − m(clean run)
        gap       = m(clean run) − m(corrupt run)
        recovery  = Σ effect / Σ gap over the pairs (a ratio of means)

    Sign: denoising, 1 restores the clean behaviour and 0 changes nothing; noising, −1 destroys
    it. The metric is always of the clean prompt's answer.
    Exact: every cell is its own forward pass (no gradient approximation). Positions before the
    first difference are 0 by causality. Cost: 1 forward pass of each prompt, and one of each
    cell from its layer on.
    Not implemented: patching several positions or a window of layers at once.

    Args:
        site: what is patched: the stream before a block, between attention and MLP, or what
            attention or the MLP adds.
        direction: put clean into corrupt (denoise) or corrupt into clean (noise).
        metric: what is measured at the last position, in nats, or a probability.
    """
    runs = patch_positions(lm, pair, site, direction, metric)
    return {**runs, "gap": runs["clean"] - runs["corrupt"]}
