"""A forward pass over a batch that grows from layer to layer.

A cell is a part of an activation that is replaced: some positions, and a head or all of the width.
The pass starts with the rows of a base run. At each layer, rows join for the cells of that layer:
copies of the base rows with the cell replaced. So every row runs exactly the layers, and only the
tokens, that its replacement can change, in one pass over the weights.

A layer's own input is never read while keys and values are shared: the cache is among its
arguments, and a sandboxed job would get, and the layer continue with, a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.dealing import Cell
from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.forward import Run
from remote_mi.interventions.model_info import fact
from remote_mi.interventions.model_sites import Once
from remote_mi.interventions.ports import Stream, edit_stream
from remote_mi.interventions.readout import skip_unembedding
from remote_mi.interventions.sites import having, part_count, row_of


class GrowingBatch:
    """What the passes of a sweep have in common.

    Attributes:
        base: the run whose activations are replaced; its rows belong to one prompt.
        shared: how many initial tokens a pass may take from `keys`, the keys and values of another
            run, instead of running them.
        site: the site whose activations are replaced.
        replace: from (layer, activation of the base rows from token `start` on [row, position,
            width], `start`) to the replacement, [variant, row, position, width].
        variants: how many replacements each cell gets.
        window: how many layers around its own a cell replaces.
        measure: from the final norm's output, [row, position from `start` on, d_model], to numbers
            for each row.
    """

    def __init__(self, lm: Any, base: Run, site: str | Stream, window: int) -> None:
        self.lm, self.base, self.site, self.window = lm, base, site, window
        self.row = row_of(site)
        self.ids, self.rows = base.ids[0], len(base.ids)
        self.keys: Any = None
        self.shared = 0
        self.variants = 1
        self.replace: Callable[[int, torch.Tensor, int], torch.Tensor]
        self.measure: Callable[[torch.Tensor], torch.Tensor]

    def run(self, start: int, cells: Sequence[Cell], layers: Sequence[int]) -> torch.Tensor:
        """One pass in which the cells of some layers join the base rows.

        Args:
            start: the first token that is run; earlier ones are taken from `keys`.
            cells: the cells of each layer, none of which begins before `start`.
            layers: the layers whose cells join, ascending.

        Returns:
            the result of `measure`; rows are the base's, then [layer, cell, variant, base row],
            flattened.
        """
        one = _Pass(self, start, cells, layers)
        lm, row = self.lm, self.row
        shared = {}
        if start:
            shared = {
                "position_ids": torch.arange(start, len(self.ids))[None],
                "past_key_values": one.shared_prefix(),
            }
        used, after, hidden = one.used, one.after, None
        ids = torch.tensor([self.ids[start:]] * one.first_rows())
        with lm.trace(**model_inputs(lm, ids), use_cache=bool(start), **shared):
            if self.base.stream is not None and (not used or used[0] + after > 0):
                edit_stream(lm, 0, one.enter)
            for index in used:
                if row.once:
                    hidden = one.edit_once(lm, row)
                    continue
                if row.after is not None:
                    edit_stream(
                        lm, index + after, lambda rows, i=index: one.put_in(one.grow(rows, i), i)
                    )
                    continue
                stream = None
                if one.joining_at(index):
                    stream = edit_stream(lm, index, lambda rows, i=index: one.grow(rows, i))
                row.edit(lm, index, lambda act, i=index: one.put_in_site(act, i), stream)
            if hidden is None:
                hidden = lm.ln_final.output
            scores = self.measure(hidden)
            skip_unembedding(lm)
            lm.output = None  # it contains the cache, which is large and unused
        return scores


class _Pass:
    """The edits of one pass: to the stream before the first layer, to a layer's, to its site."""

    def __init__(
        self, batch: GrowingBatch, start: int, cells: Sequence[Cell], layers: Sequence[int]
    ) -> None:
        self.batch, self.start, self.cells = batch, start, cells
        row = batch.row
        count = 1 if row.once else len(batch.lm.layers)
        lacking = set() if row.once else {*range(count)} - {*having(batch.lm, row)}
        windows = [window_around(layer, batch.window, count) for layer in layers]
        self.spans = [[index for index in span if index not in lacking] for span in windows]
        self.joining = batch.variants * len(cells) * batch.rows
        #: How many layers after the site's own the joining rows enter.
        self.after = len(batch.lm.layers) if is_late(row) else row.after or 0
        self.used = sorted({index for span in self.spans for index in span}) if cells else []
        self._inside: dict[int, torch.Tensor] = {}  # by the width of a layer's activation
        # A layer may get more than its stream that belongs to rows (BLOOM's biases of attention):
        # then no row can join later, and all are there from the first layer on.
        self.grows = fact(batch.lm, "grows", True)

    def joining_at(self, index: int) -> int:
        """How many rows join at a layer of the site."""
        return sum(span[0] == index for span in self.spans) * self.joining

    def enter(self, rows: torch.Tensor) -> torch.Tensor:
        """The stream before the first layer, expanded to all base rows."""
        stream = self.batch.base.stream
        if stream is None:
            return rows
        stream = stream[:, self.start :].to(rows.device, rows.dtype)
        return _copies(stream, max(1, self.first_rows() // self.batch.rows))

    def grow(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        """The stream at site layer `index`, with one more copy of the base rows for each cell."""
        rows = self.enter(rows) if index + self.after == 0 else rows
        base = self.batch.rows
        if not self.grows:
            return rows
        return torch.cat([rows, _copies(rows[:base], self.joining_at(index) // base)])

    def first_rows(self) -> int:
        """How many rows enter as token ids: one for all, or those of the embeddings' cells, too.

        Masks are made for as many rows as embeddings have.
        """
        if not self.grows:
            return self.batch.rows + len(self.spans) * self.joining
        early = self.batch.row.once and not is_late(self.batch.row)
        return self.batch.rows + self.joining_at(0) if early and self.used else 1

    def edit_once(self, lm: Any, row: Any) -> torch.Tensor | None:
        """Replace a site of the model; returns the final norm's output if it is that.

        Raises:
            ValueError: for embeddings in a run whose stream is not that of its token ids.
        """
        if is_late(row):
            return row.edit(lm, 0, lambda rows: self.put_in(self.grow(rows, 0), 0))
        if self.batch.base.stream is not None:
            raise ValueError("embed cannot be replaced in a run whose embeddings had noise added")
        row.edit(lm, 0, lambda rows: self.put_in(rows, 0))
        return None

    def put_in_site(self, activation: torch.Tensor, index: int) -> torch.Tensor:
        """Like `put_in`, for an activation in the site's own shape."""
        row = self.batch.row
        swept = self.put_in(row.by_position(activation), index)
        return row.as_it_was(swept, activation.shape[1])

    def put_in(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        """The activation of all rows at layer `index`, replaced in the rows of its cells."""
        batch = self.batch
        blocks = [place for place, span in enumerate(self.spans) if index in span]
        begin = batch.rows + blocks[0] * self.joining
        end = batch.rows + (blocks[-1] + 1) * self.joining
        values = batch.replace(index, rows[: batch.rows], self.start).to(rows.device, rows.dtype)
        width = rows.shape[-1]
        if width not in self._inside:
            self._inside[width] = self._where(rows.shape[1], width)
        where = self._inside[width].to(rows.device)
        # Broadcast over [layer, cell, variant, base row, position, width].
        old = rows[begin:end].unflatten(
            0, (len(blocks), len(self.cells), batch.variants, batch.rows)
        )
        new = torch.where(where[None, :, None, None], values, old)
        return torch.cat([rows[:begin], new.flatten(0, 3), rows[end:]])

    def _where(self, run: int, width: int) -> torch.Tensor:
        """Which numbers of an activation belong to each cell, [cell, position, 1 or width]."""
        inside = torch.zeros(len(self.cells), run, 1, dtype=torch.bool)
        for index, cell in enumerate(self.cells):
            inside[index, [position - self.start for position in cell.positions]] = True
        heads = [cell.head for cell in self.cells if cell.head is not None]
        if not heads:
            return inside
        column = torch.arange(width) // (width // part_count(self.batch.lm, self.batch.site))
        return inside & torch.stack([column == head for head in heads])[:, None]

    def shared_prefix(self) -> DynamicCache:
        """A new cache of the tokens before `start`, with as many rows as each layer will see.

        If there is a single base row, all rows are views of it.
        """
        prefix, base = DynamicCache(), self.batch.rows
        for index, kept in enumerate(self.batch.keys.layers):
            new = self.joining * sum(
                span[0] + self.after <= index or not self.grows for span in self.spans
            )
            prefix.update(kept.keys[:, :, : self.start], kept.values[:, :, : self.start], index)
            layer: Any = prefix.layers[index]
            layer.keys = _copies(layer.keys, new // base + 1)
            layer.values = _copies(layer.values, new // base + 1)
        return prefix


def is_late(row: Stream) -> bool:
    """Whether a site comes after all layers."""
    return isinstance(row, Once) and row.late


def window_around(layer: int, window: int, n_layers: int) -> range:
    """The layers that a cell of `layer` replaces, if they have the site: `window` of them, centred
    on that layer.
    """
    first = layer - window // 2
    return range(max(0, first), min(n_layers, first + window))


def _copies(tensor: torch.Tensor, times: int) -> torch.Tensor:
    """All rows repeated `times` times; a single row is repeated as views."""
    others = [-1] * (tensor.dim() - 1)
    if tensor.shape[0] == 1:
        return tensor.expand(times, *others)
    return tensor.repeat(times, *(1 for _ in others))
