"""Greedy continuation of several rows at once, with edited activations.

Positions before the edited ones are the same in every row: if the attention allows it, their keys
and values are computed once and shared (`reuses_prefix`). This affects numbers only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.model_info import (
    context_length,
    reuses_prefix,
    steady_length,
    text_config,
)
from remote_mi.interventions.ports import edit_stream
from remote_mi.interventions.readout import has_weights, skip_unembedding, top_tokens

#: From the stream before a layer, [row, position, d_model], and the indices of these positions in
#: the text, [position], to its replacement of the same shape.
Edit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def generate(
    lm: Any,
    ids: list[list[int]],
    steps: int,
    edits: Mapping[int, Edit] | None = None,
    first: int = 0,
) -> torch.Tensor:
    """Continue rows of token ids greedily, with activations edited on the prompt and every step.

    Keys and values are kept between steps if the weights are in this process. Otherwise they would
    have to be sent to another process and back at every step, so complete rows are run again; also
    once the text is so long that its keys and values change with its length (`steady_length`).

    Args:
        lm: the model with portable names.
        ids: token ids, [row][position], rows of equal length.
        steps: how many tokens to add; each is one forward pass.
        edits: layer → `edit(stream, places)`, from the stream before it, [row, position, d_model],
            and the indices of these positions in the text, [position], to its replacement.
        first: positions before this one are the same in all rows, and no edit changes them.

    Returns:
        [row, step], token ids on the CPU; −1 after the end of a text: after an end token, beyond
        the model's context, or once logits are NaN or infinite.

    Raises:
        ValueError: if the rows differ in length, or the model's context is already full.
    """
    length, context = len(ids[0]), context_length(lm)
    if any(len(row) != length for row in ids):
        raise ValueError("the rows that are continued together differ in length")
    if length >= context:
        raise ValueError(
            f"the prompt has {length} tokens and the model takes {context}: no text goes on from it"
        )
    tokens, start, cache = torch.tensor(ids), 0, None
    keeps = has_weights(lm) and length <= steady_length(lm)
    shared = min(first, length - 1)
    if keeps and shared > 0 and reuses_prefix(lm):
        cache = _shared_prefix(lm, ids[0], shared, len(ids))
        start = shared
    for _ in range(min(steps, context - length)):
        if keeps and tokens.shape[1] > steady_length(lm):
            keeps, start, cache = False, 0, None
        added, cache = _step(lm, tokens.clamp(min=0), start, cache, keeps, edits or {})
        start = tokens.shape[1] if keeps else 0
        tokens = torch.cat([tokens, added.cpu()[:, None]], 1)
    found = _cut(tokens[:, length:], _end_tokens(lm))
    return torch.nn.functional.pad(found, (0, steps - found.shape[1]), value=-1)


def _shared_prefix(lm: Any, ids: list[int], shared: int, rows: int) -> DynamicCache:
    """Keys and values of the first `shared` tokens of a text, for many rows.

    The complete text is run, because in some models the prefix depends on its length.
    """
    with lm.trace(
        input_ids=torch.tensor([ids]), position_ids=torch.arange(len(ids))[None], use_cache=True
    ):
        skip_unembedding(lm)
        whole = lm.output.past_key_values
    prefix = DynamicCache()
    for index, kept in enumerate(whole.layers):
        prefix.update(kept.keys[:, :, :shared], kept.values[:, :, :shared], index)
        layer: Any = prefix.layers[index]
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return prefix


def _step(
    lm: Any, tokens: torch.Tensor, start: int, cache: Any, keeps: bool, edits: Mapping[int, Edit]
) -> tuple[torch.Tensor, Any]:
    """The next token of each row, [row], and the cache with the positions from `start` on."""
    kept, places = None, torch.arange(start, tokens.shape[1])
    with lm.trace(
        input_ids=tokens[:, start:],
        position_ids=places.expand(len(tokens), -1),
        past_key_values=cache,
        use_cache=keeps,
        logits_to_keep=1,
    ):
        for layer in sorted(edits):
            edit_stream(lm, layer, lambda stream, edit=edits[layer]: edit(stream, places))
        added = top_tokens(lm.lm_head.output[:, -1], 1)[0][:, 0]
        if keeps:
            kept = lm.output.past_key_values
        else:
            lm.output = None
    return added, kept


def _end_tokens(lm: Any) -> list[int]:
    """All tokens that end a text: chat models list several in `generation_config.json`."""
    found: list[int] = []
    for config in (text_config(lm), getattr(lm._module, "generation_config", None)):
        ends = getattr(config, "eos_token_id", None)
        found += ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    return found


def _cut(tokens: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """The tokens, [row, step], with −1 after the first one that ends the text or is −1."""
    is_end = (tokens < 0).long()
    for end in ends:
        is_end = is_end + (tokens == end)
    ended_before = is_end.cumsum(1) - is_end > 0
    return tokens.masked_fill(ended_before, -1)
