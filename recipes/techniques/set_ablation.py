"""Replacing a set of heads or neurons at once, held against random sets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from remote_mi import Bars, Range, Ratio, Table, Texts, recipe
from remote_mi.interventions import (
    Average,
    Metric,
    Pair,
    Prompts,
    mean_activations,
    measure,
    replace_sets,
    run,
    sets_of_parts,
)

#: Where heads and neurons are replaced, by the parameter that names them.
SITES = {"heads": "head_z", "neurons": "mlp_hidden"}


@recipe(
    over="pair",
    setup="sets_and_means",
    returns={
        "effect": (),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
        "effect_by_set": ("set",),
        "sets": Texts("set"),
    },
    summaries={
        "share": Ratio("effect", gap="gap"),
        "place": (),
        "p": (),
        "smallest_p": (),
    },
    controls={"effect": "random_effect"},
    shared={"random_effect": "set"},
    labels={"set": "sets"},
    analysis="place_among_random",
    evidence="interventional",
    figures=[
        Bars("share", title="share of the gap"),
        Table("effect", columns=("gap", "clean", "corrupt")),
        Bars("place", title="place among the random sets"),
        Bars("p", title="p"),
        Bars("smallest_p", title="smallest possible p"),
        Bars("effect_by_set", title="sets of largest effect"),
    ],
    needs=("unembedding",),
    references=["wang2022ioi", "todd2024function", "zhang2023patching"],
)
def set_ablation(
    lm: Any,
    pair: Pair,
    prepared: Any,
    *,
    heads: list[str] | None = None,
    neurons: list[str] | None = None,
    replaced: Literal["set", "rest"] = "set",
    kind: Literal["mean", "zero", "resample", "denoise"] = "mean",
    reference: Prompts | None = None,
    average: Average = "all",
    metric: Metric = "logit_diff",
    control_sets: Annotated[int, Range(1, 1000)] = 39,
    seed: int = 0,
) -> dict[str, Any]:
    """How much the answer depends on a set of heads (or neurons) together, against random sets.

    Run the clean prompt with all of the set's heads (head_z: what a query head hands to the output
    projection) and neurons (mlp_hidden) replaced by v, at all positions and all at once, and read
    the metric m at the answer's position.

        mean:      v    = mean over positions and prompts of `reference`, as `average` says
        zero:      v    = 0
        resample:  v[p] = the same in the corrupt prompt of the pair, at the same position
        denoise:   the other way round: the corrupt prompt is run, with v from the clean one

        effect = m(set replaced) − m(the same prompt, nothing replaced)
        gap    = m(clean run) − m(corrupt run)
        share  = Σ effect / Σ gap over the pairs (a ratio of means)

    With replaced=rest all heads (or neurons) but those of the set are replaced, in every layer:
    what the set does alone (Wang et al.'s faithfulness is 1 + share, if gap stands for m(clean)).
    Sign: a set that the answer needs has a negative effect, −1 takes the whole gap; with denoise a
    positive one, and 1 brings the whole gap back. The metric is that of the clean prompt's answer.
    Units: those of the metric (nats, or a probability).
    Control: different random sets with as many heads (and neurons) of the same layers, each other
    set as likely, the same for all pairs; if there are no more than `control_sets`, all of them.
    They may share parts with the set. place: 1 + the number of random sets whose mean effect over
    the pairs is at least as large, whatever its sign; p = place / (1 + random sets), the level at
    which the set is told from a random one; it cannot be less than smallest_p. effect_by_set: the
    set first, then each random set.
    Exact. Cost per pair: 1 forward pass of each prompt, and 1 of 2 + control_sets rows; mean takes 1
    more of each reference prompt, resample and denoise 1 more (2 for heads and neurons together).
    With mean and no reference, the result depends on the set of prompts.
    What this does not show: which of the parts matters, whether all of them do, or what they do.
    v is a state that the model may never have seen (resample and denoise are nearest to it), and
    other parts can make up for the set. A random set is told from one that was chosen by its
    effect on the same prompts too easily: choose on other prompts than these.
    Not implemented: single positions, or other sites.

    Args:
        heads: the set's heads as layer.head, e.g. 9.6,9.9,10.0.
        neurons: the set's neurons as layer.neuron.
        replaced: the set itself, or all other heads (or neurons) of the model.
        kind: what replaces them.
        reference: the prompts that a mean is over, of a phenomenon or a file; by default the clean
            prompts.
        average: over all positions, over all but the first, or at each position its own.
        metric: what is measured at the answer's position.
        control_sets: random sets to compare with.
        seed: of the random sets.
    """
    sets, means = prepared
    direction = "denoise" if kind == "denoise" else "noise"
    base, other = pair.base_and_other(direction)
    of_answer, put = measure(lm, metric, pair), {}
    for site in sites_of(heads, neurons):
        layers = sorted({layer for one in sets for where, layer in one.parts if where == site})
        if kind in ("resample", "denoise"):
            put[site] = run(lm, other, site, layers=layers)
        else:
            put[site] = means[site].at(base) if kind == "mean" else 0.0
    found = replace_sets(lm, base, put, sets, of_answer)
    there, here = run(lm, other).hidden, run(lm, base).hidden
    clean = there if kind == "denoise" else here
    return {
        "effect": found.effect[0],
        "random_effect": found.effect[1:],
        "effect_by_set": found.effect,
        "sets": ["the set", *(str(one) for one in sets[1:])],
        "answer_prob": of_answer.answer_prob(clean)[0],
        **pair.ends(direction, base=found.base, other=of_answer(there)[0]),
    }


def sites_of(heads: list[str] | None, neurons: list[str] | None) -> list[str]:
    """The sites at which a set has parts."""
    return [SITES[name] for name, of in (("heads", heads), ("neurons", neurons)) if of]


def sets_and_means(
    lm: Any,
    pairs: list[Pair],
    *,
    heads: list[str] | None,
    neurons: list[str] | None,
    replaced: Literal["set", "rest"],
    kind: str,
    reference: Any,
    average: Average,
    control_sets: int,
    seed: int,
    **_: Any,
) -> Any:
    """The set and the random ones, the same for all pairs; and by site, what a mean is over."""
    drawn: dict[str, Any] = {"draws": control_sets, "seed": seed, "replaced": replaced}
    sets = sets_of_parts(lm, pairs[0].clean, heads, neurons, **drawn)
    prompts, means = reference or [pair.clean for pair in pairs], {}
    for site in sites_of(heads, neurons) if kind == "mean" else ():
        layers = sorted({layer for one in sets for where, layer in one.parts if where == site})
        means[site] = mean_activations(lm, prompts, site, of=average, layers=layers)
    return sets, means


def place_among_random(examples: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
    """The set's place among the random ones by the size of its mean effect, and what it says."""
    import numpy as np

    sizes = np.abs(np.mean([one["arrays"]["effect_by_set"] for one in examples], 0))
    place = 1 + int((sizes[1:] >= sizes[0] * (1 - 1e-9)).sum())
    return {"place": place, "p": place / len(sizes), "smallest_p": 1 / len(sizes)}
