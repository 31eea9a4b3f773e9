"""What my_recipe is about, in one line."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from remote_mi import Bars, Range, Ratio, Table, recipe
from remote_mi.interventions import Metric, Pair, Prompt, edit, measure, random_like, read, stack


@recipe(
    # The function is called once for each clean/corrupt pair.
    over="pair",
    # Each output with its dimensions, outermost first; () is a single number. "layer", "head" and
    # "position" get their coordinates by themselves; "draw" holds replicates.
    returns={"effect": ("layer",), "gap": ()},
    # The mean of one output over the mean of another, over all pairs, with an interval.
    summaries={"share": Ratio("effect", gap="gap")},
    # Every effect is held against what the same intervention does with nothing in it. A control is
    # an output as well, with the dimension "draw" before those of its effect.
    controls={"effect": "control"},
    # The kind of evidence, which words about the results follow: "observational" (the run is only
    # read), "interventional" (it is changed), "counterfactual" (a variable or path is exchanged for
    # that of another prompt, and the outcome held against what it should be then).
    evidence="interventional",
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
        control[d, l] = m(clean run, MLP l changed by r[d, l]) − m(clean run)
        gap           = m(clean run) − m(corrupt run)
        share         = Σ effect / Σ gap over the pairs (a ratio of means)

    Sign: a layer that supports the clean answer has a negative effect; share −1 is all of it.
    Units: those of the metric; nats for logit_diff.
    Control: r[d, l] is a random direction, as long as the change that the corrupt run makes.
    Cost: 2 forward passes, and 1 + draws rows for each layer.
    What this does not show: how the rest of the model would do without the layer, nor what the
    layer computes; what depends on a layer can be made up for by later ones.
    Not implemented: other positions than the answer's.

    Args:
        metric: what is measured where the answer is read.
        draws: random directions of the control.
        seed: of the random directions.
    """
    of_answer = measure(lm, metric, pair)
    clean_added, clean = run_once(lm, pair.clean, of_answer)
    corrupt_added, corrupt = run_once(lm, pair.corrupt, of_answer)
    generator = torch.Generator().manual_seed(seed)
    effects = []
    for layer in range(len(lm.layers)):
        change = corrupt_added[layer] - clean_added[layer]  # [d_model]
        changes = torch.cat([change[None], random_like(change, draws, generator)])
        scores = run_changed(lm, layer, clean_added[layer] + changes, pair.clean, of_answer)
        effects.append(scores - clean)
    whole = stack(effects, 1)  # [1 + draw, layer]
    return {"effect": whole[0], "control": whole[1:], "gap": clean - corrupt}


def run_once(lm: Any, prompt: Prompt, of_answer: Any) -> tuple[list[torch.Tensor], Any]:
    """What each MLP layer adds where the answer is read, [d_model] each, and the metric."""
    with lm.backbone.trace(input_ids=torch.tensor([prompt.ids]), use_cache=False):
        layers = range(len(lm.layers))
        added = [read(lm, layer, "mlp_out")[0, prompt.end] for layer in layers]
        hidden = lm.ln_final.output
    return added, of_answer(hidden)[0]


def run_changed(
    lm: Any, layer: int, added: torch.Tensor, prompt: Prompt, of_answer: Any
) -> torch.Tensor:
    """The metric of the prompt, once for each row of `added` in an MLP layer; [row]."""

    def put_in(act: torch.Tensor) -> torch.Tensor:
        act = act.clone()
        act[:, prompt.end] = added.to(act.dtype)
        return act

    ids = torch.tensor([prompt.ids] * len(added))
    with lm.backbone.trace(input_ids=ids, use_cache=False):
        edit(lm, layer, "mlp_out", put_in)
        hidden = lm.ln_final.output
    return of_answer(hidden)
