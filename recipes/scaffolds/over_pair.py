"""What my_recipe is about, in one line."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from remote_mi import Bars, Range, Ratio, Table, recipe
from remote_mi.interventions import Metric, Pair, answer_metric, edit_site, read_site


@recipe(
    # The function is called once for each clean/corrupt pair.
    over="pair",
    # Each output with its dimensions, outermost first; () is a single number. "layer", "head" and
    # "position" get their coordinates by themselves; "draw" holds replicates.
    returns={"effect": ("layer",), "control": ("layer", "draw"), "gap": ()},
    # The mean of one output over the mean of another, over all pairs, with an interval.
    summaries={"share": Ratio("effect", gap="gap")},
    # Every effect is held against what the same intervention does with nothing in it.
    controls={"effect": "control"},
    figures=[Bars("effect", unit="nats"), Bars("share"), Table("gap", unit="nats")],
    # Keys of references.bib, or any text.
    references=["Author (year). Title."],
)
def my_recipe(
    lm: Any,
    pair: Pair,
    *,
    metric: Metric = "logit_diff",
    draws: Annotated[int, Range(1, 32)] = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer changes with what one MLP layer adds to its position.

    Run the clean prompt. At the position of the answer, replace what one MLP layer adds to the
    residual stream by what it adds in the corrupt run, and read the metric m.

        effect[l]     = m(clean run, MLP l as in the corrupt run) − m(clean run)
        control[l, d] = m(clean run, MLP l changed by r[l, d]) − m(clean run)
        gap           = m(clean run) − m(corrupt run)
        share         = Σ effect / Σ gap over the pairs (a ratio of means)

    Sign: a layer that supports the clean answer has a negative effect; share −1 is all of it.
    Units: those of the metric; nats for logit_diff.
    Control: r[l, d] is a random direction, as long as the change that the corrupt run makes.
    Cost: 2 forward passes, and 1 + draws rows for each layer.
    Not implemented: other positions than the answer's.

    Args:
        metric: what is measured where the answer is read.
        draws: random directions of the control.
        seed: of the random directions.
    """
    clean_added, clean = run_once(lm, pair.clean.ids, pair, metric)
    corrupt_added, corrupt = run_once(lm, pair.corrupt.ids, pair, metric)
    generator = torch.Generator().manual_seed(seed)
    effects, controls = [], []
    for index in range(len(lm.layers)):
        change = corrupt_added[index] - clean_added[index]  # [d_model]
        noise = torch.randn(draws, len(change), generator=generator)
        noise = noise / noise.norm(dim=-1, keepdim=True)
        noise = noise.to(change.device, change.dtype) * change.norm()
        added = clean_added[index] + torch.cat([change[None], noise])  # [1 + draws, d_model]
        scores = run_changed(lm, index, added, pair, metric) - clean
        effects.append(scores[0])
        controls.append(scores[1:])
    return {
        "effect": torch.stack(effects),
        "control": torch.stack(controls),
        "gap": clean - corrupt,
    }


def run_once(lm: Any, ids: list[int], pair: Pair, metric: str) -> tuple[list[torch.Tensor], Any]:
    """What each MLP layer adds where the answer is read, [d_model] each, and the metric."""
    with lm.backbone.trace(input_ids=torch.tensor([ids]), use_cache=False):
        added = [read_site(layer, "mlp_out")[0, pair.end] for layer in lm.layers]
        hidden = lm.ln_final.output[:, pair.end]
    return added, answer_metric(lm, hidden, metric, pair.answers, pair.wrongs)[0]


def run_changed(lm: Any, index: int, added: torch.Tensor, pair: Pair, metric: str) -> torch.Tensor:
    """The metric of the clean prompt, once for each row of `added` in MLP layer `index`; [row]."""

    def put_in(act: torch.Tensor) -> torch.Tensor:
        act = act.clone()
        act[:, pair.end] = added
        return act

    ids = torch.tensor([pair.clean.ids] * len(added))
    with lm.backbone.trace(input_ids=ids, use_cache=False):
        edit_site(lm.layers[index], "mlp_out", put_in)
        hidden = lm.ln_final.output[:, pair.end]
    return answer_metric(lm, hidden, metric, pair.answers, pair.wrongs)
