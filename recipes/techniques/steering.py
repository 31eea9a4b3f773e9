"""Steering with a contrast vector (activation addition, contrastive means)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Heatmap, Lines, Range, Ratio, Table, Text, Tokens, recipe
from remote_mi.interventions import (
    Artifact,
    Metric,
    Pair,
    changes,
    generate,
    info,
    measure,
    random_like,
    run,
    stack,
    sweep,
)


@recipe(
    over="pairs",
    returns={
        "effect": ("pair", "layer", "coefficient"),
        "gap": ("pair",),
        "clean": ("pair",),
        "corrupt": ("pair",),
        "answer_prob": ("pair",),
        "fold": ("pair",),
        "vector_norm": ("layer",),
        "plain_text": Tokens("step"),
        "steered_text": Tokens("coefficient", "step"),
    },
    summaries={"recovery": Ratio("effect", gap="gap")},
    controls={"effect": "random_effect"},
    evidence="interventional",
    shared={"random_effect": "fold"},
    figures=[
        Heatmap("recovery", center=0),
        Lines("recovery", title="recovery by coefficient"),
        Text("plain_text", title="text without the vector"),
        Text("steered_text", title="text with the vector"),
        Table("corrupt", columns=("clean", "gap")),
    ],
    needs=("generation", "causal", "unembedding"),
    lengths={"method": "mean_difference"},
    references=["rimsky2024steering", "turner2023activation"],
)
def steering(
    lm: Any,
    pairs: list[Pair],
    *,
    method: Literal["mean_difference", "activation_addition"] = "mean_difference",
    direction: Artifact["layer", "d_model", "resid_pre"] | None = None,  # noqa: F821, UP037
    layers: list[int] | None = None,
    coefficients: list[float] = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0],  # noqa: B006 - read only
    folds: Annotated[int, Range(1, 20)] = 2,
    control_draws: Annotated[int, Range(0, 32)] = 4,
    steps: Annotated[int, Range(1, 64)] = 12,
    text_layer: int | None = None,
    metric: Metric = "logit_diff",
    seed: int = 0,
) -> dict[str, Any]:
    """How far a direction, read from contrasting prompts, moves the model towards their behaviour.

    The desired behaviour is that of the clean prompts. A vector is computed from pairs, and added
    to the stream before layer l (resid_pre) in the run of the corrupt prompt of another pair:

        mean_difference (Rimsky et al. 2024): one vector per layer,
            v[l] = mean over pairs of h_l(clean, end) − h_l(corrupt, end),
            added at the end of the prompt and at every token generated after it
        activation_addition (Turner et al. 2023): one pair, one vector per position,
            v[l, p] = h_l(clean, p) − h_l(corrupt, p),
            added to the same positions of the prompt, counted from its front, and nowhere later
        effect[l, c] = m(corrupt run + c · v) − m(corrupt run)
        gap          = m(clean run) − m(corrupt run)
        recovery     = Σ effect / Σ gap over the pairs (a ratio of means)

    With a `direction` of another run or a file, v[l] is that, added as mean_difference adds its own,
    and no pair is held out.
    The vector is not normalised: coefficient 1 is the difference itself, whatever its length. The
    papers' layer is the one after which they add it, here the next one. A pair whose right and
    wrong answers are those of the first pair swapped counts with the opposite sign, in the vector
    and where it is evaluated (for a phenomenon whose clean prompts are of either class).
    Sign: a positive effect is towards the clean answer. The metric is always that of the clean
    answer.
    Held out: the pairs are split into folds at random; each is evaluated with a vector from the
    pairs of the other folds (activation_addition: from the first of them). With folds = 1, the
    vector comes from the same pairs on which it is evaluated. Intervals are over evaluated pairs,
    with the vectors fixed.
    Control: random_effect[l, c], the effect of random directions of the same length at the same
    positions. All pairs of a fold share the vector and its random directions, so a fold counts as
    one sample when the effect is held against them: with 2 folds and 4 draws, 25 exchanges.
    The text continues the corrupt prompt of one pair, greedily, without and with the vector.
    Cost: 3 forward passes per pair; for each layer × coefficient × (1 + control_draws) one from its
    layer and its first changed position on; `steps` passes of the text.
    What this does not show: that the model itself uses the direction: a change that it suffices to
    make, at this length, need not be how the model makes it. The direction holds whatever else
    distinguishes the clean from the corrupt prompts; large coefficients leave the model's
    distribution, and the text must be read for what else has changed.
    Not implemented: activation_addition from prompts of unequal length; a search for layer and coefficient, other positions, sampling.

    Args:
        method: how the vector is computed, and where it is added.
        direction: is added instead, e.g. from linear_probe or mean_difference; towards the clean
            answer of the first pair.
        layers: layers before which the vector is added, one at a time; all by default.
        coefficients: multiples of the vector.
        folds: parts the pairs are split into; 1 evaluates on the pairs that gave the vector.
        control_draws: random directions of the control.
        steps: tokens of the text.
        text_layer: layer of the text, one of `layers`; by default the one two thirds through them.
        metric: what is measured where the answer is read, in nats, or a probability.
        seed: of the folds and of the random directions.
    """
    chosen = info(lm).chosen(layers)
    shown = chosen[2 * len(chosen) // 3] if text_layer is None else text_layer
    if shown not in chosen:
        raise ValueError(f"text_layer {shown} is not one of the layers {chosen}")
    given = None if direction is None else direction.expand(len(lm.layers), -1)[chosen, None]
    folds = folds if given is None else all_together(method)
    generator = torch.Generator().manual_seed(seed)
    order = dealt(len(pairs), folds, generator)
    signs = signs_of(pairs)
    read = [contrast(lm, pair, chosen, metric) for pair in pairs]
    contrasts, clean, likely = zip(*read, strict=True)
    multiples = torch.tensor(coefficients)
    fold_of = {i: fold for fold in range(folds) for i in order[fold::folds]}
    steered, norms, texts = {}, [], torch.empty(0)
    for fold in range(folds):
        held_out = order[fold::folds]
        sources = held_out if folds == 1 else [i for i in order if i not in held_out]
        made = None if given is None else (given, None)
        vector, first = made or vector_of(pairs, contrasts, signs, sources, method)
        norms.append(vector.flatten(1).norm(dim=1))
        directions = torch.cat([vector[None], random_like(vector, control_draws, generator)])
        for i in held_out:
            added, at = by_position(signs[i] * directions, first, pairs[i])
            asked: dict[str, Any] = {"layers": chosen, "at": at, "metric": metric}
            steered[i] = sweep_multiples(lm, pairs[i], added, multiples, **asked)
            if not len(texts):
                row = added[0, chosen.index(shown)]
                asked = {"layer": shown, "first": at[0], "steps": steps}
                texts = continued(lm, pairs[i], row, multiples, **asked)
    each = [steered[i] for i in range(len(pairs))]
    effects = [one.effect.unflatten(0, (1 + control_draws, -1)).transpose(1, 2) for one in each]
    return {
        "effect": [effect[0] for effect in effects],
        "random_effect": [effect[1:] for effect in effects],
        "gap": [at_clean - one.base for at_clean, one in zip(clean, each, strict=True)],
        "clean": list(clean),
        "answer_prob": list(likely),
        "fold": [fold_of[i] for i in range(len(pairs))],
        "corrupt": [one.base for one in each],
        "vector_norm": stack(norms).mean(0),
        "plain_text": texts[0],
        "steered_text": texts[1:],
    }


def dealt(pairs: int, folds: int, generator: torch.Generator) -> list[int]:
    """The pairs in random order; each fold takes every so many of them."""
    if pairs < folds:
        raise ValueError(
            f"{pairs} pairs cannot be dealt into {folds} folds: give more pairs, or folds 1, "
            "which evaluates on the pairs that give the vector"
        )
    return torch.randperm(pairs, generator=generator).tolist()


def signs_of(pairs: list[Pair]) -> list[float]:
    """−1 for each pair of the other class: its answers are those of the first pair swapped."""
    turned = (pairs[0].wrongs, pairs[0].answers)
    return [-1.0 if (pair.answers, pair.wrongs) == turned else 1.0 for pair in pairs]


def all_together(method: str) -> int:
    """The number of folds with a given direction: no pair has to be held out."""
    if method != "mean_difference":
        raise ValueError("a direction is added at the end and after it: leave method out")
    return 1


def vector_of(
    pairs: list[Pair], contrasts: Any, signs: list[float], sources: list[int], method: str
) -> tuple[torch.Tensor, int | None]:
    """The vector, [layer, place, d_model], and the position of its first place; None for the end.

    Raises:
        ValueError: if it is zero at every layer.
    """
    if method == "mean_difference":
        ends = [signs[i] * contrasts[i][:, pairs[i].corrupt.end] for i in sources]
        vector, first = stack(ends).mean(0)[:, None], None
    else:
        source = pairs[sources[0]]
        first = source.first_difference or 0
        vector = signs[sources[0]] * contrasts[sources[0]][:, first : source.clean.own]
    if not bool((vector != 0).any()):
        raise ValueError(
            "the clean and the corrupt prompts give the same activations where the vector is "
            "read: there is no direction to steer along"
        )
    return vector, first


def contrast(lm: Any, pair: Pair, layers: list[int], metric: str) -> tuple[torch.Tensor, Any, Any]:
    """h(clean) − h(corrupt), [layer, position, d_model]; metric and answer_prob of the clean run."""
    clean, corrupt = (run(lm, prompt, "resid_pre") for prompt in (pair.clean, pair.corrupt))
    change = changes(lm, corrupt, clean)
    of_answer = measure(lm, metric, pair)
    states = stack([change[layer][0] for layer in layers])
    return states, of_answer(clean.hidden)[0], of_answer.answer_prob(clean.hidden)[0]


def by_position(
    directions: torch.Tensor, first: int | None, pair: Pair
) -> tuple[torch.Tensor, list[int]]:
    """What is added at each position of the corrupt prompt, and the positions that it changes.

    Args:
        directions: [direction, layer, place, d_model]. first: position of the first place; None
            for a single place: the end of the prompt and everything after it.

    Returns:
        [direction, layer, position, d_model]; its last position stands for all later ones.
    """
    length, end = len(pair.corrupt.ids), pair.corrupt.own - 1
    start = end if first is None else first
    if start > pair.corrupt.end:
        raise ValueError(
            f"the vector begins at position {start}, after position {pair.corrupt.end}, where the "
            "answer of a shorter prompt is read"
        )
    if first is None:
        directions = directions.expand(-1, -1, length - end, -1)
    stop = start + directions.shape[2]
    beyond = 0 if first is None else max(length - stop, 0) + 1
    added = torch.nn.functional.pad(directions, (0, 0, start, beyond))
    return added, list(range(start, min(stop, length)))


def sweep_multiples(
    lm: Any, pair: Pair, added: Any, multiples: Any, *, layers: list[int], at: Any, metric: str
) -> Any:
    """The sweep over the corrupt run whose variants are direction × multiple."""
    base = run(lm, pair.corrupt, "resid_pre")

    def put(layer: int) -> torch.Tensor:
        own = base.values[layer].to(added.device)  # [1, position, d_model]
        here = added[:, layers.index(layer), None, : own.shape[1]]
        return (own + multiples.to(here)[:, None, None] * here).flatten(0, 1)[:, None]

    of_answer = measure(lm, metric, pair)
    return sweep(lm, base, "resid_pre", put, of_answer, by="layer", at=at, layers=layers)


def continued(
    lm: Any, pair: Pair, added: Any, multiples: Any, *, layer: int, first: int, steps: int
) -> torch.Tensor:
    """Continuations of the corrupt prompt without and with the vector, [1 + multiple, step]."""
    changes = torch.cat([torch.zeros(1), multiples]).to(added)[:, None, None] * added

    def add(stream: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Add to each row its multiple, at each place that of the place."""
        known = places.clamp(max=changes.shape[1] - 1)
        here = changes[rows[:, None].to(changes.device), known.to(changes.device)]
        return stream + here.to(stream.device, stream.dtype)

    ids = pair.corrupt.ids[: pair.corrupt.own]
    return generate(lm, [ids] * len(changes), steps, {layer: add}, first)
