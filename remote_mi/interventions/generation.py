"""Rows that run together: conditions that join the run of one prompt, and greedy continuations.

An edit is `edit(stream, start)`: from the stream before a layer, [row, position, d_model], whose
first position is `start` of the prompt, to its replacement of the same shape. Positions before
those that edits change are the same in every row: where the attention allows it, their keys and
values are computed once and shared (`reuses_prefix`). Nothing of this changes a number beyond
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.metrics import has_weights, top_tokens
from remote_mi.interventions.sites import (
    context_length,
    edit_stream,
    is_causal,
    reuses_prefix,
    skip_unembedding,
    steady_length,
    text_config,
)

Edit = Callable[[torch.Tensor, int], torch.Tensor]

#: Tokens that the rows of one pass may attend to, all together.
MAX_TOKENS = 8192


def run_joined(
    lm: Any, ids: list[int], end: int, first: int, joins: list[tuple[int, int, Edit]]
) -> torch.Tensor:
    """Run one prompt, and edited copies of it that join at the layer of their edit.

    Args:
        lm: the model with portable names.
        ids: the prompt, row 0.
        end: the position that is read.
        first: the first position that an edit changes.
        joins: (layer, rows, edit), layers not descending: that many copies of row 0 join before
            the layer, edited. As many of them share a pass as `MAX_TOKENS` allows.

    Returns:
        [1 + all rows, d_model]: the final norm's output at `end` of row 0 and of the rows in the
        order of `joins`.
    """
    shared = min(first, end) if reuses_prefix(lm) else 0
    cache = _run_prefix(lm, ids, shared) if shared else None
    groups = _groups(joins, max(1, MAX_TOKENS // len(ids)))
    found = [_joined_pass(lm, ids, end, shared, cache, group) for group in groups]
    return torch.cat([found[0][:1], *[hidden[1:] for hidden in found]])


def _groups(joins: list[tuple[int, int, Edit]], most: int) -> list[list[tuple[int, int, Edit]]]:
    """The joins of each pass: at most `most` rows in one, but at least one join."""
    groups: list[list[tuple[int, int, Edit]]] = [[]]
    for join in joins:
        if groups[-1] and 1 + sum(rows for _, rows, _ in groups[-1]) + join[1] > most:
            groups.append([])
        groups[-1].append(join)
    return groups


def _joined_pass(
    lm: Any,
    ids: list[int],
    end: int,
    shared: int,
    cache: Any,
    joins: list[tuple[int, int, Edit]],
) -> torch.Tensor:
    """One pass of `run_joined`; the joins all fit."""
    at_layer: dict[int, list[tuple[int, Edit]]] = {}
    for layer, rows, edit in joins:
        at_layer.setdefault(layer, []).append((rows, edit))

    def grow(stream: torch.Tensor, entries: list[tuple[int, Edit]]) -> torch.Tensor:
        base = stream[:1]
        joined = [edit(base.repeat(rows, 1, 1), shared) for rows, edit in entries]
        return torch.cat([stream, *joined])

    counts, rows = [], 1
    for layer in range(len(lm.layers)):
        rows += sum(count for count, _ in at_layer.get(layer, []))
        counts.append(rows)
    with lm.trace(
        input_ids=torch.tensor([ids[shared:]]),
        position_ids=torch.arange(shared, len(ids))[None],
        past_key_values=_expanded(cache, counts) if shared else None,
        use_cache=bool(shared),
    ):
        for layer in sorted(at_layer):
            edit_stream(lm, layer, lambda stream, entries=at_layer[layer]: grow(stream, entries))
        hidden = lm.ln_final.output[:, end - shared]
        skip_unembedding(lm)
        lm.output = None  # the cache in it is large, and nobody's
    return hidden


def _run_prefix(lm: Any, ids: list[int], shared: int) -> Any:
    """Keys and values of the first `shared` tokens of a text, as they are in it; one row.

    The whole text is run: there are models in which the prefix depends on its length.
    """
    with lm.trace(
        input_ids=torch.tensor([ids]), position_ids=torch.arange(len(ids))[None], use_cache=True
    ):
        skip_unembedding(lm)
        kept = lm.output.past_key_values
    prefix = DynamicCache()
    for index, layer in enumerate(kept.layers):
        prefix.update(layer.keys[:, :, :shared], layer.values[:, :, :shared], index)
    return prefix


def _expanded(cache: Any, rows: list[int]) -> DynamicCache:
    """A fresh cache with the keys and values of one row, for so many rows at each layer."""
    copy = DynamicCache()
    for index, kept in enumerate(cache.layers):
        copy.update(kept.keys, kept.values, index)
        layer: Any = copy.layers[index]
        layer.keys = layer.keys.expand(rows[index], -1, -1, -1)
        layer.values = layer.values.expand(rows[index], -1, -1, -1)
    return copy


def refuse_encoders(lm: Any) -> None:
    """Refuse models that fill masks: they continue no text.

    Raises:
        ValueError: with the reason.
    """
    if not is_causal(lm):
        raise ValueError("an encoder fills masks and continues no text")


def generate(
    lm: Any,
    ids: list[list[int]],
    steps: int,
    edits: Mapping[int, Edit] | None = None,
    first: int = 0,
) -> torch.Tensor:
    """Continue rows of token ids greedily, with activations edited on the prompt and every step.

    Keys and values are kept between the steps where the weights are in this process. Elsewhere
    they would cross to another process and back at every step, so the whole rows are run again;
    as they are where the text has become so long that they are others (`steady_length`).

    Args:
        lm: the model with portable names.
        ids: token ids, [row][position], rows of equal length.
        steps: how many tokens to add; each is one forward pass.
        edits: layer → edit of the stream before it, of all rows.
        first: positions before this one are the same in all rows, and no edit changes them.

    Returns:
        [row, step], token ids on the CPU; −1 after the end of a text: an end token, the end of what
        the model takes, or logits that are no numbers.

    Raises:
        ValueError: if the rows differ in length, or the model takes no token more.
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
        cache = _expanded(_run_prefix(lm, ids[0], shared), [len(ids)] * len(lm.layers))
        start = shared
    for _ in range(min(steps, context - length)):
        if keeps and tokens.shape[1] > steady_length(lm):
            keeps, start, cache = False, 0, None
        added, cache = _step(lm, tokens.clamp(min=0), start, cache, keeps, edits or {})
        start = tokens.shape[1] if keeps else 0
        tokens = torch.cat([tokens, added.cpu()[:, None]], 1)
    found = _cut(tokens[:, length:], _end_tokens(lm))
    return torch.nn.functional.pad(found, (0, steps - found.shape[1]), value=-1)


def _step(
    lm: Any, tokens: torch.Tensor, start: int, cache: Any, keeps: bool, edits: Mapping[int, Edit]
) -> tuple[torch.Tensor, Any]:
    """The next token of each row, [row], and the cache with the positions from `start` on."""
    kept = None
    with lm.trace(
        input_ids=tokens[:, start:],
        position_ids=torch.arange(start, tokens.shape[1]).expand(len(tokens), -1),
        past_key_values=cache,
        use_cache=keeps,
        logits_to_keep=1,
    ):
        for layer in sorted(edits):
            edit_stream(lm, layer, lambda stream, edit=edits[layer]: edit(stream, start))
        added = top_tokens(lm.lm_head.output[:, -1], 1)[0][:, 0]
        if keeps:
            kept = lm.output.past_key_values
        else:
            lm.output = None
    return added, kept


def _end_tokens(lm: Any) -> list[int]:
    """All tokens that end a text: chat models name several, in `generation_config.json`."""
    found: list[int] = []
    for config in (text_config(lm), getattr(lm._module, "generation_config", None)):
        ends = getattr(config, "eos_token_id", None)
        found += ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    return found


def _cut(tokens: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """The tokens, [row, step], with −1 after the first that ends the text, or is none."""
    is_end = (tokens < 0).long()
    for end in ends:
        is_end = is_end + (tokens == end)
    ended_before = is_end.cumsum(1) - is_end > 0
    return tokens.masked_fill(ended_before, -1)
