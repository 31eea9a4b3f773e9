"""Steering a behaviour of generated texts with a contrast vector."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Judged, Lines, Range, Table, Text, Tokens, recipe
from remote_mi.interventions import (
    Pair,
    PromptText,
    edited,
    generate,
    info,
    measure,
    random_like,
    run,
    stack,
)


@recipe(
    over="pairs",
    returns={
        "steered_shows": Judged("steered_text"),
        "change": Judged("steered_text", against="plain_text"),
        "random_change": Judged("random_text", against="plain_text"),
        "gap": Judged("clean_text", against="plain_text"),
        "clean_shows": Judged("clean_text"),
        "plain_shows": Judged("plain_text"),
        "clean_text": Tokens("pair", "step"),
        "plain_text": Tokens("pair", "step"),
        "steered_text": Tokens("pair", "coefficient", "step"),
        "random_text": Tokens("pair", "draw", "coefficient", "step"),
        "fold": ("pair",),
        "loss_change": ("coefficient",),
        "random_loss_change": ("draw", "coefficient"),
        "loss": (),
        "vector_norm": (),
    },
    controls={"change": "random_change", "loss_change": "random_loss_change"},
    shared={"random_change": "fold"},
    behaviour="gap",
    evidence="interventional",
    figures=[
        Lines("steered_shows", title="rate with the vector"),
        Lines("change", title="change of the rate"),
        Lines("loss_change", title="change of the loss of the neutral text", unit="nats"),
        Table("plain_shows", title="texts without", columns=("clean_shows", "plain_text")),
        Text("plain_text", title="text without the vector"),
        Text("steered_text", title="text with the vector"),
    ],
    needs=("generation", "causal", "unembedding"),
    references=["rimsky2024steering"],
)
def behaviour_steering(
    lm: Any,
    pairs: list[Pair],
    *,
    layer: int | None = None,
    coefficients: list[float] = [-2.0, -1.0, 1.0, 2.0],  # noqa: B006 - read only
    folds: Annotated[int, Range(1, 20)] = 2,
    control_draws: Annotated[int, Range(1, 32)] = 4,
    steps: Annotated[int, Range(1, 256)] = 24,
    neutral: PromptText = "The river rises in the mountains in the north of the country and flows "
    "through three large towns before it reaches the sea.",
    seed: int = 0,
) -> dict[str, Any]:
    """How often texts show a behaviour when a direction towards it is added.

    The clean prompts lead to the behaviour, the corrupt ones do not. A vector is the mean
    difference of their states before layer l (Rimsky et al. 2024), and the corrupt prompt of a pair
    that is not among them is continued with it, added at the end of the prompt and at every token
    after it:

        v = mean over pairs of h_l(clean, end) − h_l(corrupt, end)
        steered_shows[c] = 1 if the continuation of corrupt, with c · v added, shows the behaviour
        change[c]        = steered_shows[c] − plain_shows, the same without the vector
        gap              = clean_shows − plain_shows: whether the clean prompts show it at all
        loss_change[c]   = loss of the neutral text with c · v added at all its positions − without

    Sign: a positive change is more of the behaviour. loss_change says what the vector costs in a
    text that has nothing to do with it, in nats a token.
    Held out: the pairs are split into folds at random; each is continued with the vector of the
    other folds. With folds = 1 the vector comes from the same pairs.
    Control: random_change and random_loss_change, with random directions of the same length, which
    the pairs of a fold share. Intervals are over pairs, with the vectors fixed.
    Texts are greedy: each token is the most probable one.
    Cost: 2 forward passes per pair, `steps` passes of (2 + (1 + control_draws) × coefficients)
    texts per pair, as many as fit into memory at a time; 1 pass of the neutral text per fold.
    What this does not show: that the model itself uses the direction. At large coefficients texts
    fall apart, which may look like the behaviour or its absence: read them beside loss_change.
    Not implemented: sampling, several layers, a question to the model as the judge (`yes_no`).

    Args:
        layer: before which the vector is added; by default the one two thirds through the model.
        coefficients: multiples of the vector.
        folds: parts the pairs are split into; 1 evaluates on the pairs that gave the vector.
        control_draws: random directions of the control.
        steps: tokens of each text at most.
        neutral: a text that should not change.
        seed: of the folds and of the random directions.
    """
    if any(pair.clean.question for pair in pairs):
        raise ValueError("yes_no is not judged under steering: ask for contains, matches, language")
    if len(pairs) < folds:
        raise ValueError(
            f"{len(pairs)} pairs cannot be dealt into {folds} folds: give more pairs, or folds 1, "
            "which evaluates on the pairs that give the vector"
        )
    [at] = info(lm).chosen([2 * len(lm.layers) // 3 if layer is None else layer])
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pairs), generator=generator).tolist()
    contrasts = stack([contrast(lm, pair, at) for pair in pairs]).cpu()  # [pair, d_model]
    multiples = torch.tensor(coefficients)
    found: dict[int, torch.Tensor] = {}
    fold_of, losses, norms = {}, [], []
    for fold in range(folds):
        held_out = order[fold::folds]
        sources = held_out if folds == 1 else [i for i in order if i not in held_out]
        vector = contrasts[sources].mean(0)
        if not bool((vector != 0).any()):
            raise ValueError("the clean and the corrupt prompts end in the same state")
        directions = torch.cat([vector[None], random_like(vector, control_draws, generator)])
        added = (directions[:, None] * multiples[:, None]).flatten(0, 1)  # [move, d_model]
        texts = continued(lm, [pairs[i] for i in held_out], added, at, steps)
        found.update(zip(held_out, texts, strict=True))
        fold_of.update(dict.fromkeys(held_out, fold))
        losses.append(neutral_losses(lm, neutral, added, at))
        norms.append(vector.norm())
    each = [found[i] for i in range(len(pairs))]  # clean, plain, then the moves: [text, step]
    moved = [texts[2:].unflatten(0, (1 + control_draws, len(multiples))) for texts in each]
    loss = stack(losses).mean(0)  # [1 + move]
    changes = (loss[1:] - loss[0]).unflatten(0, (1 + control_draws, len(multiples)))
    return {
        "clean_text": [texts[0] for texts in each],
        "plain_text": [texts[1] for texts in each],
        "steered_text": [texts[0] for texts in moved],
        "random_text": [texts[1:] for texts in moved],
        "fold": [fold_of[i] for i in range(len(pairs))],
        "loss_change": changes[0],
        "random_loss_change": changes[1:],
        "loss": loss[0],
        "vector_norm": stack(norms).mean(0),
    }


def contrast(lm: Any, pair: Pair, layer: int) -> torch.Tensor:
    """h(clean, end) − h(corrupt, end) before a layer, [d_model], float32."""
    clean, corrupt = (
        run(lm, prompt, "resid_pre", layers=[layer]).values[layer][0, prompt.end].float()
        for prompt in (pair.clean, pair.corrupt)
    )
    return clean - corrupt


def continued(
    lm: Any, pairs: list[Pair], added: torch.Tensor, layer: int, steps: int
) -> torch.Tensor:
    """Continuations of each pair, [pair, text, step]: of the clean prompt and of the corrupt one,
    then of the corrupt one with each of `added`, [move, d_model]."""
    ids, moves = [], torch.cat([torch.zeros(2, added.shape[1]), added])
    for pair in pairs:
        ids += [pair.clean.ids, *[pair.corrupt.ids] * (1 + len(added))]
    ends = torch.tensor([len(row) - 1 for row in ids])

    def add(stream: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Add to each row its vector, from the end of its prompt on."""
        own = moves[rows % len(moves)][:, None] * (places >= ends[rows][:, None])[:, :, None]
        return stream + own.to(stream.device, stream.dtype)

    return generate(lm, ids, steps, {layer: add}).unflatten(0, (len(pairs), len(moves)))


def neutral_losses(lm: Any, text: Any, added: torch.Tensor, layer: int) -> torch.Tensor:
    """The loss of a text without and with each of `added` at all its positions, [1 + move]."""
    moves = torch.cat([torch.zeros(1, added.shape[1]), added])

    def move(_: int, stream: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return stream + moves[rows][:, None].to(stream.device, stream.dtype)

    loss = measure(lm, "loss", text, otherwise=text.ids[-1])
    return edited(lm, text, "resid_pre", move, len(moves), loss, layers=[layer])
