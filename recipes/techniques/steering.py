"""Steering with a contrast vector (activation addition, contrastive means)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Heatmap, Lines, Range, Ratio, Table, Text, Tokens, recipe
from remote_mi.interventions import Metric, Pair, answer_metric, generate
from remote_mi.interventions.generation import refuse_encoders, run_joined
from remote_mi.interventions.sites import read_stream, skip_unembedding


@recipe(
    over="pairs",
    returns={
        "effect": ("pair", "layer", "coefficient"),
        "random_effect": ("pair", "layer", "coefficient", "draw"),
        "gap": ("pair",),
        "clean": ("pair",),
        "corrupt": ("pair",),
        "vector_norm": ("layer",),
        "plain_text": Tokens("step"),
        "steered_text": Tokens("coefficient", "step"),
    },
    summaries={
        "recovery": Ratio("effect", gap="gap"),
        "random_recovery": Ratio("random_effect", gap="gap"),
    },
    controls={"effect": "random_effect", "recovery": "random_recovery"},
    figures=[
        Heatmap("recovery", center=0),
        Lines("recovery", title="recovery by coefficient"),
        Text("plain_text", title="text without the vector"),
        Text("steered_text", title="text with the vector"),
        Table("corrupt", columns=("clean", "gap")),
    ],
    needs=("generation",),
    references=["rimsky2024steering", "turner2023activation"],
)
def steering(
    lm: Any,
    pairs: list[Pair],
    *,
    method: Literal["mean_difference", "activation_addition"] = "mean_difference",
    layers: list[int] = [],  # noqa: B006 - literals only in a recipe's signature
    coefficients: list[float] = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0],  # noqa: B006
    folds: Annotated[int, Range(1, 20)] = 2,
    control_draws: Annotated[int, Range(0, 32)] = 4,
    steps: Annotated[int, Range(1, 64)] = 12,
    text_layer: int = -1,
    metric: Metric = "logit_diff",
    seed: int = 0,
) -> dict[str, Any]:
    """How far a direction, read off contrasting prompts, moves the model towards their behaviour.

    The wanted behaviour is that of the clean prompts. A vector is made of pairs, and added to the
    stream before layer l (resid_pre) in the run of the corrupt prompt of another pair:

        mean_difference (Rimsky et al. 2024): one vector a layer,
            v[l] = mean over pairs of h_l(clean, end) − h_l(corrupt, end),
            added at the end of the prompt and at every token generated after it
        activation_addition (Turner et al. 2023): one pair, one vector a position,
            v[l, p] = h_l(clean, p) − h_l(corrupt, p),
            added to the same positions of the prompt, counted from its front, and nowhere later
        effect[l, c] = m(corrupt run + c · v) − m(corrupt run)
        gap          = m(clean run) − m(corrupt run)
        recovery     = Σ effect / Σ gap over the pairs (a ratio of means)

    The vector is used raw: coefficient 1 is the difference itself, whatever its length. Their
    layer is the one after which they add, here the next one. A pair whose right and wrong answer
    are the first pair's the other way round counts with the opposite sign, in the vector and
    where it is evaluated (a phenomenon whose clean prompts are of either class).
    Sign: a positive effect is towards the clean answer. The metric is always of it.
    Held out: the pairs are dealt into folds at random; each is evaluated with a vector of the
    pairs of the other folds (activation_addition: of the first of them). With folds = 1, the
    vector comes from the very pairs on which it is evaluated. Intervals are over evaluated pairs,
    with the vectors as they are.
    Control: random_effect[l, c], the size of the effect, |…|, of random directions of the same
    length at the same positions. Sizes, for the effects of random directions of either sign would
    cancel in a mean.
    The text continues the corrupt prompt of one pair, greedily, without and with the vector.
    Cost: 3 forward passes a pair; of each layer × coefficient × (1 + control_draws) one from its layer
    and its first changed position on; `steps` passes of the text.
    Not implemented: a search for layer and coefficient, other positions, sampling.

    Args:
        method: how the vector is made, and where it is added.
        layers: layers before which the vector is added, one at a time; none given: all.
        coefficients: multiples of the vector.
        folds: parts the pairs are dealt into; 1 evaluates on the pairs that gave the vector.
        control_draws: random directions of the control.
        steps: tokens of the text.
        text_layer: layer of the text, one of `layers`; −1 is the one at two thirds of them.
        metric: what is measured where the answer is read, in nats, or a probability.
        seed: of the folds and of the random directions.
    """
    refuse_encoders(lm)
    chosen = _chosen_layers(lm, layers)
    shown = chosen[2 * len(chosen) // 3] if text_layer == -1 else text_layer
    if shown not in chosen:
        raise ValueError(f"text_layer {text_layer} is not one of the layers {chosen}")
    generator = torch.Generator().manual_seed(seed)
    order = _dealt(len(pairs), folds, generator)
    signs = [_sign(pair, pairs[0]) for pair in pairs]
    states = [_contrast(lm, pair, chosen, metric) for pair in pairs]
    found: dict[str, list[Any]] = {k: [None] * len(pairs) for k in ("effect", "random_effect")}
    corrupt: list[Any] = [None] * len(pairs)
    norms, texts = [], None
    for fold in range(folds):
        held_out = order[fold::folds]
        sources = held_out if folds == 1 else [i for i in order if i not in held_out]
        vector, first = _vector(pairs, states, signs, sources, method)
        directions = _with_random(vector, control_draws, generator)
        norms.append(vector.flatten(1).norm(dim=1))
        for index in held_out:
            start = pairs[index].end if first is None else first
            scores = _steered(
                lm,
                pairs[index],
                chosen,
                signs[index] * directions,
                coefficients,
                start,
                first is None,
                metric,
            )
            corrupt[index] = scores[0]
            change = (scores[1:] - scores[0]).reshape(
                len(chosen), 1 + control_draws, len(coefficients)
            )
            found["effect"][index] = change[:, 0]
            found["random_effect"][index] = change[:, 1:].abs().transpose(1, 2)
        if texts is None:
            pair, added = pairs[held_out[0]], signs[held_out[0]] * vector[chosen.index(shown)]
            start = pair.end if first is None else first
            texts = _texts(lm, pair, shown, added, coefficients, start, first is None, steps)
    assert texts is not None
    clean = [clean for _, clean in states]
    return {
        **found,
        "gap": [a - b for a, b in zip(clean, corrupt, strict=True)],
        "clean": clean,
        "corrupt": corrupt,
        "vector_norm": torch.stack(norms).mean(0),
        "plain_text": texts[0],
        "steered_text": texts[1:],
    }


def _chosen_layers(lm: Any, layers: list[int]) -> list[int]:
    """The layers, checked; all of them when none is given."""
    count = len(lm.layers)
    for layer in layers:
        if not 0 <= layer < count:
            raise ValueError(f"there is no layer {layer}: the model has layers 0 to {count - 1}")
    if sorted(set(layers)) != layers:
        raise ValueError(f"the layers {layers} are not in ascending order, each once")
    return layers or list(range(count))


def _dealt(count: int, folds: int, generator: torch.Generator) -> list[int]:
    """The indices of the pairs in a random order; fold k is every folds-th from the k-th on."""
    if count < folds:
        raise ValueError(
            f"{count} pairs cannot be dealt into {folds} folds: give more pairs, or folds 1, "
            "which evaluates on the pairs that give the vector"
        )
    return torch.randperm(count, generator=generator).tolist()


def _sign(pair: Pair, first: Pair) -> float:
    """−1 where the answers are those of the first pair the other way round, else 1."""
    return -1.0 if (pair.answers, pair.wrongs) == (first.wrongs, first.answers) else 1.0


def _contrast(
    lm: Any, pair: Pair, layers: list[int], metric: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """h(clean) − h(corrupt), [layer, position, d_model] in float32; the clean metric, []."""
    streams, scores = [], []
    for prompt in (pair.clean, pair.corrupt):
        with lm.trace(input_ids=torch.tensor([prompt.ids]), use_cache=False):
            stream = [read_stream(lm, layer)[0] for layer in layers]
            hidden = lm.ln_final.output[:, pair.end]
            skip_unembedding(lm)
        streams.append(torch.stack([one.to(stream[0].device).float() for one in stream]))
        scores.append(hidden)
    clean = answer_metric(lm, scores[0], metric, pair.answers, pair.wrongs)[0]
    return streams[0] - streams[1], clean


def _vector(
    pairs: list[Pair],
    states: list[Any],
    signs: list[float],
    sources: list[int],
    method: str,
) -> tuple[torch.Tensor, int | None]:
    """The vector, [layer, position, d_model], and its first position; None is the end onward.

    Raises:
        ValueError: if it is zero at every layer.
    """
    if method == "mean_difference":
        ends = torch.stack([signs[i] * states[i][0][:, pairs[i].end] for i in sources])
        vector, first = ends.mean(0)[:, None], None
    else:
        first = pairs[sources[0]].first_difference or 0
        vector = signs[sources[0]] * states[sources[0]][0][:, first:]
    if not bool((vector != 0).any()):
        raise ValueError(
            "the clean and the corrupt prompts give the same activations where the vector is "
            "read: there is no direction to steer along"
        )
    return vector, first


def _with_random(
    vector: torch.Tensor, control_draws: int, generator: torch.Generator
) -> torch.Tensor:
    """The vector and random directions of its length, [1 + draw, layer, position, d_model]."""
    noise = torch.randn(control_draws, *vector.shape, generator=generator).to(vector.device)
    length = vector.norm(dim=-1, keepdim=True)
    return torch.cat([vector[None], noise / noise.norm(dim=-1, keepdim=True) * length])


def _addition(added: torch.Tensor, first: int, onward: bool) -> Any:
    """An edit that adds `added`, [row, position, d_model], from position `first` on.

    Args:
        onward: whether its last position is repeated at all later ones.
    """

    def edit(stream: torch.Tensor, start: int) -> torch.Tensor:
        new = stream.clone()
        here = added.to(stream.device, stream.dtype)
        stop = start + stream.shape[1]
        low, high = max(first, start), min(first + added.shape[1], stop)
        if low < high:
            new[:, low - start : high - start] += here[:, low - first : high - first]
        if onward and stop > max(low, high):
            new[:, max(start, first + added.shape[1]) - start :] += here[:, -1:]
        return new

    return edit


def _steered(
    lm: Any,
    pair: Pair,
    layers: list[int],
    directions: torch.Tensor,
    coefficients: list[float],
    first: int,
    onward: bool,
    metric: str,
) -> torch.Tensor:
    """The metric of the corrupt run and of each (layer, direction, coefficient), in this order."""
    ids = pair.corrupt.ids
    if first > pair.end:
        raise ValueError(
            f"the vector begins at position {first}, after position {pair.end}, where the answer "
            "of a shorter prompt is read"
        )
    multiples = torch.tensor(coefficients, device=directions.device)[None, :, None, None]
    joins = []
    for row, layer in enumerate(layers):
        added = (directions[:, row, None] * multiples).flatten(0, 1)
        joins.append((layer, len(added), _addition(added, first, onward)))
    hidden = run_joined(lm, ids, pair.end, first, joins)
    return answer_metric(lm, hidden, metric, pair.answers, pair.wrongs)


def _texts(
    lm: Any,
    pair: Pair,
    layer: int,
    vector: torch.Tensor,
    coefficients: list[float],
    first: int,
    onward: bool,
    steps: int,
) -> torch.Tensor:
    """Continuations of the corrupt prompt without and with the vector, [1 + coefficient, step]."""
    multiples = torch.tensor([0.0, *coefficients], device=vector.device)[:, None, None]
    added = vector[None] * multiples
    rows = [pair.corrupt.ids] * len(added)
    return generate(lm, rows, steps, {layer: _addition(added, first, onward)}, first)
