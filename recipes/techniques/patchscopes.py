"""Patchscopes: a hidden state read by the model itself in another prompt."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Heatmap, Range, Text, TokenGrid, Tokens, recipe
from remote_mi.interventions import (
    Prompt,
    PromptText,
    generate,
    info,
    logits,
    predictions,
    random_like,
    run,
    stack,
    sweep,
)


@recipe(
    over="prompt",
    returns={
        "target_prob": ("layer", "position"),
        "unpatched_prob": ("position",),
        "top_token": Tokens("layer", "position", "top"),
        "top_prob": ("layer", "position", "top"),
        "text": Tokens("layer", "step"),
        "unpatched_text": Tokens("step"),
    },
    controls={"target_prob": "random_prob"},
    evidence="observational",
    figures=[
        TokenGrid("top_token", title="top token", shade="top_prob"),
        Heatmap("target_prob", title="probability of the target"),
        Text("text", title="text from each layer"),
        Text("unpatched_text", title="text without a state"),
    ],
    needs=("generation", "causal", "unembedding"),
    references=["ghandeharioun2024patchscopes"],
)
def patchscopes(
    lm: Any,
    prompt: Prompt,
    *,
    inspection: PromptText = "cat->cat; 1135->1135; hello->hello; ?",
    into: int | None = None,
    at: str = "end",
    top: Annotated[int, Range(1, 50)] = 5,
    steps: Annotated[int, Range(1, 64)] = 5,
    control_draws: Annotated[int, Range(0, 16)] = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """What the model reads in a hidden state when it finds it in another prompt.

    The state h_l(p) of the prompt, before layer l at position p (resid_pre), replaces the state of
    the last token of the inspection prompt, its placeholder, before layer l' (by default l' = l,
    as in the paper), and the model continues from there:

        p[l, p] = softmax(logits of the inspection prompt, h_l'(placeholder) ← h_l(p))

    target_prob is p of the target; top_token are the most probable tokens. The default inspection
    prompt is the paper's few-shot prompt for the identity of a token. The target is the given
    token; without one, what the model itself predicts after each position of the prompt, which
    is what the paper's next-token experiment scores.
    Layers are counted by the stream before them; the paper's layer is the one after which it
    takes the state, here the next one.
    Control: random_prob, the same with a random direction of the state's length instead of the
    state. unpatched_prob is the target's probability in the unmodified inspection prompt.
    The text continues the inspection prompt greedily with the state of one position, from each
    layer; its first token is that position's top token.
    Cost: 1 forward pass of the prompt, 1 of the inspection prompt; for each layer × position ×
    (1 + control_draws) one of its last token from layer l' on; `steps` passes of the text.
    What this does not show: that the model uses in the prompt what it reads in the inspection
    prompt: the state is taken out of its context. The inspection prompt and its examples lead the
    answer, and what it cannot express cannot be read. A state in a foreign layer or place is one
    that the model may never have seen.
    Not implemented: mappings between states, other models as readers, several placeholders.

    Args:
        inspection: the prompt that reads the state; its last token is the placeholder.
        into: layer l' before which the state is inserted; by default the layer it comes from.
        at: label of the position whose state gives the text.
        top: how many of the most probable tokens to keep.
        steps: tokens of the text.
        control_draws: random directions of the control.
        seed: of the random directions.
    """
    place = len(inspection.ids) - 1
    targets = info(lm).chosen(None if into is None else [into])
    own = run(lm, prompt, "resid_pre")
    states = stack(own.values)[:, 0]  # [layer, position, d_model]
    random = random_like(states, control_draws, torch.Generator().manual_seed(seed))
    kinds = torch.cat([states[None], random])  # [kind, layer, position, d_model]

    def put(layer: int) -> torch.Tensor:
        """The states that are put in before a layer, [variant, 1, 1, d_model]."""
        return (kinds[:, layer] if into is None else kinds).reshape(-1, 1, 1, kinds.shape[-1])

    found = sweep(lm, inspection, "resid_pre", put, lambda h: h[:, -1], at=[place], layers=targets)
    # [kind × position, layer, 1, d_model]; with `into` [kind × layer × position, 1, 1, d_model].
    hidden = found.scores.unflatten(0, (len(kinds), -1, len(prompt.ids)))
    hidden = (hidden.transpose(1, 3) if into is None else hidden).reshape(kinds.shape)
    target = prompt.wanted(otherwise=logits(lm, own.hidden[0]).argmax(-1))  # [position]
    cells = predictions(lm, hidden, target, top)
    plain = predictions(lm, found.base.expand(len(target), -1), target, top)
    states_of_text = states[:, prompt.position(at)]
    edits = {layer: text_edit(states_of_text, layer, place, into) for layer in targets}
    text = generate(lm, [inspection.ids] * (1 + len(states)), steps, edits, place)
    return {
        "target_prob": cells["target_prob"][0],
        "random_prob": cells["target_prob"][1:],
        "unpatched_prob": plain["target_prob"],
        "top_token": cells["top_token"][0],
        "top_prob": cells["top_prob"][0],
        "text": text[1:],
        "unpatched_text": text[0],
    }


def text_edit(states: torch.Tensor, target: int, place: int, into: int | None) -> Any:
    """The edit that gives row 1 + l the state of layer l, [layer, d_model], if `target` is its."""

    def put(stream: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        own = (rows - 1).clamp(min=0).to(states.device)
        new = states[own][:, None].to(stream.device, stream.dtype)
        mine = (rows == target + 1) if into is None else (rows > 0)
        here = (mine[:, None] & (places == place))[:, :, None]
        return torch.where(here.to(stream.device), new, stream)

    return put
