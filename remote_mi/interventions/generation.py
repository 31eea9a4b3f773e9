"""Continuation of many rows at once, greedy or sampled, with edited activations.

Rows of different lengths are padded on the left, where attention lets a mask hide the padding
exactly (`hides_padding`); elsewhere only rows of one length run together. Positions before the
edited ones may be the same in every row: their keys and values are then computed once and shared
(`reuses_prefix`). All this affects numbers only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.model_info import (
    context_length,
    reuses_prefix,
    steady_length,
)
from remote_mi.interventions.ports import edit_stream
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.readout import finished, has_weights, skip_unembedding, top_tokens
from remote_mi.interventions.rows import batches, end_tokens

#: From the stream before a layer, [row, position, d_model], the indices of these positions in the
#: text of their row, [row, position], negative for padding, and the numbers of the rows, [row], to
#: the replacement of the stream, of its shape.
Edit = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def generate(
    lm: Any,
    ids: Sequence[Sequence[int]],
    steps: int,
    edits: Mapping[int, Edit] | None = None,
    first: int = 0,
    *,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
) -> torch.Tensor:
    """Continue rows of token ids, with activations edited on the prompt and at every step.

    The next token is the most probable one; with a temperature T it is drawn from
    softmax(logits / T), as the largest of logits / T + Gumbel noise, which comes from the row's own
    generator. So a row is continued alike whatever other rows there are.
    Keys and values are kept between steps if the weights are in this process. Otherwise they would
    have to be sent to another process and back at every step, so complete rows are run again; also
    once the text is so long that its keys and values change with its length (`steady_length`).

    Args:
        lm: the model with portable names.
        ids: token ids, [row][position].
        steps: how many tokens to add at most; each is one forward pass of a batch.
        edits: layer → `edit(stream, places, rows)`, from the stream before it to its replacement;
            see `Edit`.
        first: positions before this one are the same in all rows, and no edit changes them.
        temperature: 0 for the most probable token.
        seeds: of each row's generator, for a temperature.

    Returns:
        [row, step], token ids on the CPU; −1 after the end of a text: after an end token, beyond
        the model's context, or once logits are NaN or infinite.

    Raises:
        ValueError: if the model's context is already full, or a row has no seed.
    """
    context = context_length(lm)
    for row in ids:
        if len(row) >= context:
            raise ValueError(
                f"the prompt has {len(row)} tokens and the model takes {context}: no text goes on "
                "from it"
            )
    if temperature and len(seeds) != len(ids):
        raise ValueError(f"{len(ids)} rows are sampled with {len(seeds)} seeds: each needs its own")
    found = torch.full((len(ids), steps), -1)
    for rows in batches(lm, ids, steps):
        batch = _Batch(lm, [list(ids[row]) for row in rows], rows, edits or {})
        if temperature:
            batch.temperature = temperature
            batch.generators = [torch.Generator().manual_seed(seeds[row]) for row in rows]
        found[rows] = batch.run(steps, first)
    return found


def row_seeds(prompts: Sequence[Prompt], draws: int, seed: int) -> list[int]:
    """A seed for each draw of each prompt, [prompt × draw], from the prompt's own tokens.

    So a prompt is sampled alike whatever other prompts there are, and copies of it, too.
    """
    found = []
    for prompt in prompts:
        mixed = seed + 1
        for token in prompt.ids:
            mixed = (mixed * 1_000_003 + token + 1) % (2**61 - 1)
        found += [(mixed * 31 + draw) % (2**61 - 1) for draw in range(draws)]
    return found


class _Batch:
    """Rows that are continued together, the shorter ones padded on the left.

    Attributes:
        lengths: of each row's prompt, [row]. pads: of its padding, [row]. longest: of the prompts.
        numbers: of the rows among all, [row].
        tokens: padding, prompt and what was added, [row, column]; −1 after the end of a text.
        keeps: whether keys and values are kept between steps. cache: these.
        start: the first column that is not in the cache.
    """

    def __init__(
        self, lm: Any, ids: list[list[int]], numbers: list[int], edits: Mapping[int, Edit]
    ) -> None:
        self.lm, self.ids, self.edits = lm, ids, edits
        self.numbers = torch.tensor(numbers)
        self.lengths = torch.tensor([len(row) for row in ids])
        self.longest = int(self.lengths.max())
        self.pads = self.longest - self.lengths
        padded = [[row[0]] * (self.longest - len(row)) + row for row in ids]
        self.tokens = torch.tensor(padded)
        self.keeps = has_weights(lm) and self.longest <= steady_length(lm)
        self.start, self.cache = 0, None
        self.temperature, self.generators = 0.0, []

    def run(self, steps: int, first: int) -> torch.Tensor:
        """The tokens added to each row, [row, step]; see `generate`."""
        lm, context, ends = self.lm, context_length(self.lm), end_tokens(self.lm)
        room = (context - self.lengths)[:, None]  # [row, 1]
        shared = min(first, self.longest - 1)
        if self.keeps and shared > 0 and not self.pads.any() and reuses_prefix(lm):
            self.cache = _shared_prefix(lm, self.ids[0], shared, len(self.ids))
            self.start = shared
        added = self.tokens[:, :0]
        for step in range(min(steps, int(room.max()))):
            if self.keeps and self.tokens.shape[1] > steady_length(lm):
                self.keeps, self.start, self.cache = False, 0, None
            chosen = self._step().masked_fill(step >= room[:, 0], -1)
            self.start = self.tokens.shape[1] if self.keeps else 0
            self.tokens = torch.cat([self.tokens, chosen[:, None]], 1)
            added = _cut(self.tokens[:, self.longest :], ends)
            over = (added[:, -1] < 0) | torch.isin(added[:, -1], torch.tensor(ends))
            if bool(over.all()):
                break
        return torch.nn.functional.pad(added, (0, steps - added.shape[1]), value=-1)

    def _step(self) -> torch.Tensor:
        """One pass over the columns from `start` on: the next token of each row, [row]."""
        lm, stop, keeps, numbers = self.lm, self.tokens.shape[1], self.keeps, self.numbers
        places = torch.arange(self.start, stop) - self.pads[:, None]  # [row, column]
        inputs: dict[str, Any] = {
            "input_ids": self.tokens[:, self.start :].clamp(min=0),
            "position_ids": places.clamp(0, context_length(lm) - 1),
            "past_key_values": self.cache,
        }
        if self.pads.any():
            inputs["attention_mask"] = (torch.arange(stop) >= self.pads[:, None]).long()
        edits, temperature, noise, cache = self.edits, self.temperature, self._noise(), None
        with lm.trace(**inputs, use_cache=keeps, logits_to_keep=1):
            for layer in sorted(edits):
                edit_stream(lm, layer, lambda x, edit=edits[layer]: edit(x, places, numbers))
            scores = finished(lm, lm.lm_head.output[:, -1])
            if temperature:
                scores = scores.float() / temperature + noise.to(scores.device)
            added = top_tokens(scores, 1)[0][:, 0]
            if keeps:
                cache = lm.output.past_key_values
            else:
                lm.output = None
        self.cache = cache
        return added.cpu()

    def _noise(self) -> torch.Tensor:
        """Gumbel noise of each row and token, of which the next draw is made; [row, vocabulary]."""
        size = int(self.lm.lm_head.weight.shape[0])
        drawn = [torch.empty(size).exponential_(generator=g) for g in self.generators]
        return -torch.stack(drawn).clamp(min=1e-30).log() if drawn else torch.empty(0)


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


def _cut(tokens: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """The tokens, [row, step], with −1 after the first one that ends the text or is −1."""
    is_end = (tokens < 0).long()
    for end in ends:
        is_end = is_end + (tokens == end)
    ended_before = is_end.cumsum(1) - is_end > 0
    return tokens.masked_fill(ended_before, -1)
