"""Patchscopes: a hidden state read by the model itself in another prompt."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Heatmap, Range, Text, TokenGrid, Tokens, recipe
from remote_mi.interventions import (
    Prompt,
    PromptText,
    all_logits,
    generate,
    run_residuals,
    top_tokens,
    unembed,
)
from remote_mi.interventions.generation import refuse_encoders, run_joined

#: Rows whose log-probabilities over the vocabulary are computed at a time.
ROWS = 128


@recipe(
    over="prompt",
    returns={
        "target_prob": ("layer", "position"),
        "random_prob": ("layer", "position", "draw"),
        "unpatched_prob": ("position",),
        "top_token": Tokens("layer", "position", "top"),
        "top_prob": ("layer", "position", "top"),
        "text": Tokens("layer", "step"),
        "unpatched_text": Tokens("step"),
    },
    controls={"target_prob": "random_prob"},
    figures=[
        TokenGrid("top_token", title="top token", shade="top_prob"),
        Heatmap("target_prob", title="probability of the target"),
        Text("text", title="text from each layer"),
        Text("unpatched_text", title="text without a state"),
    ],
    needs=("generation",),
    references=["ghandeharioun2024patchscopes"],
)
def patchscopes(
    lm: Any,
    prompt: Prompt,
    *,
    inspection: PromptText = "cat->cat; 1135->1135; hello->hello; ?",
    into: int = -1,
    at: str = "end",
    top: Annotated[int, Range(1, 50)] = 5,
    steps: Annotated[int, Range(1, 64)] = 5,
    control_draws: Annotated[int, Range(0, 16)] = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """What the model reads in a hidden state when it finds it in another prompt.

    The state h_l(p) of the prompt, before layer l at position p (resid_pre), replaces the state of
    the last token of the inspection prompt, its placeholder, before layer l' (by default l' = l,
    as in the paper), and the model goes on from there:

        p[l, p] = softmax(logits of the inspection prompt, h_l'(placeholder) ← h_l(p))

    target_prob is p of the target; top_token are the most probable tokens. The default inspection
    prompt is the paper's few-shot prompt for the identity of a token. The target is the token
    given; without one, what the model itself predicts after each position of the prompt, which
    is what the paper's next-token experiment scores.
    Layers are counted by the stream before them; the paper's layer is the one after which it
    takes the state, here the next one.
    Control: random_prob, the same with a random direction of the state's length instead of the
    state. unpatched_prob is the target's probability in the inspection prompt as it is.
    The text continues the inspection prompt greedily with the state of one position, from each
    layer; its first token is that position's top token.
    Cost: 1 forward pass of the prompt, 1 of the inspection prompt; of each layer × position ×
    (1 + control_draws) one of its last token from layer l' on; `steps` passes of the text.
    Not implemented: mappings between states, other models as readers, several placeholders.

    Args:
        inspection: the prompt that reads the state; its last token is the placeholder.
        into: layer l' before which the state is put in; −1 is the layer it comes from.
        at: label of the position whose state the text is read from.
        top: how many of the most probable tokens to keep.
        steps: tokens of the text.
        control_draws: random directions of the control.
        seed: of the random directions.
    """
    refuse_encoders(lm)
    count, length = len(lm.layers), len(prompt.ids)
    if not -1 <= into < count:
        raise ValueError(f"there is no layer {into}: the model has layers 0 to {count - 1}")
    where = _position(prompt, at)
    place = len(inspection.ids) - 1
    stream = run_residuals(lm, prompt.ids)
    states = torch.stack([one.to(stream[0].device).float() for one in stream[:-1]])
    kinds = torch.cat([states[:, None], _random_states(states, control_draws, seed)], 1)
    targets = [layer if into == -1 else into for layer in range(count)]
    joins = [
        (targets[layer], length, _replacement(kinds[layer, kind], place))
        for layer in range(count)
        for kind in range(1 + control_draws)
    ]
    hidden = run_joined(lm, inspection.ids, place, place, joins)
    target = _target(lm, prompt, stream[-1])
    plain, cells = _read(lm, hidden[:1], target, top), _read(lm, hidden[1:], target, top)
    probs = cells["target_prob"].reshape(count, 1 + control_draws, length)
    grid = (count, 1 + control_draws, length, top)
    text = generate(
        lm,
        [inspection.ids] * (1 + count),
        steps,
        _text_edits(states[:, where], targets, place),
        place,
    )
    return {
        "target_prob": probs[:, 0],
        "random_prob": probs[:, 1:].transpose(1, 2),
        "unpatched_prob": plain["target_prob"],
        "top_token": cells["top_token"].reshape(grid)[:, 0],
        "top_prob": cells["top_prob"].reshape(grid)[:, 0],
        "text": text[1:],
        "unpatched_text": text[0],
    }


def _position(prompt: Prompt, label: str) -> int:
    """The position of a label."""
    known = {"end": prompt.end, **prompt.positions}
    if label not in known:
        raise ValueError(f"the prompt has no position {label!r}; it has {', '.join(known)}")
    return known[label]


def _random_states(states: torch.Tensor, control_draws: int, seed: int) -> torch.Tensor:
    """Random directions of the states' length, [layer, draw, position, d_model]."""
    layers, length, width = states.shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(layers, control_draws, length, width, generator=generator).to(states.device)
    size = states.norm(dim=-1, keepdim=True)[:, None]
    return noise / noise.norm(dim=-1, keepdim=True) * size


def _replacement(states: torch.Tensor, place: int, rows: list[int] | None = None) -> Any:
    """An edit that puts `states`, [row, d_model], at one position: of all rows, or of some."""

    def edit(stream: torch.Tensor, start: int) -> torch.Tensor:
        if not start <= place < start + stream.shape[1]:
            return stream  # a later step: the state acts through its keys and values
        new = stream.clone()
        here = states.to(stream.device, stream.dtype)
        if rows is None:
            new[:, place - start] = here
        else:
            new[rows, place - start] = here
        return new

    return edit


def _text_edits(states: torch.Tensor, targets: list[int], place: int) -> dict[int, Any]:
    """The edits that give row 1 + l the state of layer l, [layer, d_model], at its target."""
    edits = {}
    for target in sorted(set(targets)):
        layers = [layer for layer, into in enumerate(targets) if into == target]
        edits[target] = _replacement(states[layers], place, [1 + layer for layer in layers])
    return edits


def _target(lm: Any, prompt: Prompt, final: torch.Tensor) -> torch.Tensor:
    """The token whose probability is asked for, [position]."""
    if prompt.target is None:
        return unembed(lm, final).argmax(-1)
    return torch.full(final.shape[:1], prompt.target, device=final.device)


def _read(lm: Any, hidden: torch.Tensor, target: torch.Tensor, top: int) -> dict[str, torch.Tensor]:
    """Top tokens, and the target's probability; of a single row, of every target.

    Args:
        hidden: the final norm's output, [row, d_model]; rows run over the positions of the prompt.
        target: [position].
    """
    wanted = target.repeat(max(1, len(hidden) // len(target)))[:, None].to(hidden.device)
    found: dict[str, list[torch.Tensor]] = {"target_prob": [], "top_token": [], "top_prob": []}
    for start in range(0, len(hidden), ROWS):
        log_p = _log_probs(lm, hidden[start : start + ROWS])
        asked = wanted if len(hidden) == 1 else wanted[start : start + ROWS]
        of_target = log_p.expand(len(asked), -1).gather(1, asked)
        token, best = top_tokens(log_p, top)
        found["target_prob"].append(of_target[:, 0].exp())
        found["top_token"].append(token)
        found["top_prob"].append(best.exp())
    return {name: torch.cat(values) for name, values in found.items()}


def _log_probs(lm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities from the final norm's output, [row, vocabulary], float32."""
    return all_logits(lm, hidden).log_softmax(-1)
