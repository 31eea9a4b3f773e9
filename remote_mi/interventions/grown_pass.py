"""Two kinds of forward pass: a plain one, and one over a batch that grows on the way.

A cell is (first position, stop position, head): the part of an activation that is replaced. A
grown pass starts with the rows of a base run. At each layer, rows join for the cells of that
layer: copies of the base rows with the cell replaced. So every row runs exactly the layers, and
only the tokens, that its replacement can change, in one pass over the weights.

Nothing here reads a layer's own input where keys and values are shared: it comes with the cache,
and a sandboxed job would get, and the layer go on with, a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.sites import (
    edit_site,
    edit_stream,
    head_count,
    read_site,
    read_stream,
    reuses_prefix,
    skip_unembedding,
)

#: (first position, stop position, head or None for all of the activation)
Cell = tuple[int, int, int | None]


class Base:
    """The run whose activations are replaced.

    Attributes:
        ids: token ids of its prompt.
        keys: keys and values of every layer, right for the first `shared` tokens; None for none.
        shared: how many tokens a pass may take from `keys` instead of running them.
        stream: the stream before the first layer, [row, position, d_model], where it is not what
            the ids give (noise in the embeddings); None where it is.
    """

    def __init__(
        self, ids: list[int], keys: Any = None, shared: int = 0, stream: torch.Tensor | None = None
    ) -> None:
        self.ids = ids
        self.keys = keys
        self.shared = 0 if keys is None else shared
        self.stream = stream
        self.rows = 1 if stream is None else stream.shape[0]


def plain_pass(
    lm: Any,
    ids: list[int],
    site: str | None = None,
    keys: bool = False,
    noise: torch.Tensor | None = None,
) -> dict[str, Any]:
    """One forward pass of one prompt.

    Args:
        site: whose activations are kept: one of `read_site`, "resid_post" (the stream after each
            layer), or None for none.
        keys: whether to keep the keys and values.
        noise: added to the token embeddings, [row, position, d_model]; as many rows are run.

    Returns:
        "values": the activation of each layer, [row, position, width]; "hidden": the final norm's
        output, [row, position, d_model]; "keys"; "stream": the stream before the first layer, with
        noise only.
    """
    rows = 1 if noise is None else noise.shape[0]
    states = site == "resid_pre" or noise is not None
    with lm.trace(
        input_ids=torch.tensor([ids] * rows), use_cache=keys, output_hidden_states=states
    ):
        if noise is not None:
            embedded = lm.embed_tokens.output
            lm.embed_tokens.output = embedded + noise.to(embedded.device, embedded.dtype)
        if site is None or site == "resid_pre":
            values = []
        elif site == "resid_post":
            values = [read_stream(lm, index + 1) for index in range(len(lm.layers))]
        else:
            values = [read_site(layer, site) for layer in lm.layers]
        hidden = lm.ln_final.output
        skip_unembedding(lm)
        ran = lm.output
    if site == "resid_pre":
        values = list(ran.hidden_states[: len(lm.layers)])
    return {
        "values": values,
        "hidden": hidden,
        "keys": ran.past_key_values if keys else None,
        "stream": None if noise is None else ran.hidden_states[0],
    }


def shared_base(lm: Any, ids: list[int]) -> tuple[Base, torch.Tensor]:
    """A base of one row whose every token but the last can be shared, where a prefix can be.

    Returns:
        the base, and the final norm's output of its run, [1, position, d_model].
    """
    ran = plain_pass(lm, ids, keys=reuses_prefix(lm))
    return Base(ids, ran["keys"], len(ids) - 1), ran["hidden"]


def window_around(layer: int, window: int, n_layers: int) -> range:
    """The layers that a cell of `layer` replaces: `window` of them, that layer in their middle."""
    first = layer - window // 2
    return range(max(0, first), min(n_layers, first + window))


def grown_pass(
    lm: Any,
    base: Base,
    start: int,
    site: str,
    layers: range,
    cells: list[Cell],
    replace: Callable[[int, torch.Tensor, int], torch.Tensor],
    variants: int,
    window: int,
    measure: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One pass in which the cells of some layers join the base rows.

    Args:
        start: the first token that is run; those before it are taken from `base.keys`.
        site: one of `edit_site`, or "resid_post".
        layers: those whose cells join.
        cells: the cells of each layer, none of which begins before `start`.
        replace: from (layer, activation of the base rows from `start` on [row, position, width],
            `start`) to what is put in place, [variant, row, position, width].
        variants: how many replacements each cell gets.
        window: how many layers, around its own, a cell replaces.
        measure: from the final norm's output, [row, position from `start` on, d_model], to numbers
            of each row.

    Returns:
        what `measure` gives; rows are the base's, then [layer, cell, variant, base row] in one.
    """
    joining = variants * len(cells) * base.rows
    after = 1 if site == "resid_post" else 0  # its stream is that before the next layer
    spans = {layer: window_around(layer, window, len(lm.layers)) for layer in layers}
    enter, grow, put_in = _edits(lm, base, start, spans, cells, replace, variants, after)
    used = sorted({index for span in spans.values() for index in span}) if cells else []
    shared = {}
    if start:
        shared = {
            "position_ids": torch.arange(start, len(base.ids))[None],
            "past_key_values": _shared_prefix(base, start, spans, joining, after),
        }
    with lm.trace(input_ids=torch.tensor([base.ids[start:]]), use_cache=bool(start), **shared):
        if base.stream is not None and (not used or used[0] + after > 0):
            edit_stream(lm, 0, enter)
        for index in used:
            if site in ("resid_pre", "resid_post"):
                edit_stream(lm, index + after, lambda rows, i=index: put_in(grow(rows, i), i))
            else:
                joins = any(span.start == index for span in spans.values())
                stream = (
                    edit_stream(lm, index, lambda rows, i=index: grow(rows, i)) if joins else None
                )
                edit_site(lm.layers[index], site, lambda rows, i=index: put_in(rows, i), stream)
        scores = measure(lm.ln_final.output)
        skip_unembedding(lm)
        lm.output = None  # the cache in it is large, and nobody's
    return scores


def _edits(
    lm: Any,
    base: Base,
    start: int,
    spans: dict[int, range],
    cells: list[Cell],
    replace: Callable[[int, torch.Tensor, int], torch.Tensor],
    variants: int,
    after: int,
) -> tuple[Callable[..., torch.Tensor], ...]:
    """What a grown pass does to the stream before the first layer, to a layer's, to its site."""
    run = len(base.ids) - start
    joining = variants * len(cells) * base.rows

    def enter(rows: torch.Tensor) -> torch.Tensor:
        """The stream before the first layer: from here on there are all base rows."""
        stream = base.stream
        return rows if stream is None else stream[:, start:].to(rows.device, rows.dtype)

    def grow(rows: torch.Tensor, index: int) -> torch.Tensor:
        """The stream at site layer `index`, with one more copy of the base rows for each cell."""
        rows = enter(rows) if index + after == 0 else rows
        new = sum(span.start == index for span in spans.values()) * joining
        return torch.cat([rows, _copies(rows[: base.rows], new // base.rows)])

    def put_in(rows: torch.Tensor, index: int) -> torch.Tensor:
        """The activation of all rows at layer `index`, replaced in those that have it replaced."""
        blocks = [place for place, span in enumerate(spans.values()) if index in span]
        begin = base.rows + blocks[0] * joining
        end = base.rows + (blocks[-1] + 1) * joining
        values = replace(index, rows[: base.rows], start).to(rows.device, rows.dtype)
        where = _where(lm, cells, start, run, rows.shape[-1]).to(rows.device)
        # Broadcast over [layer, cell, variant, base row, position, width].
        old = rows[begin:end].unflatten(0, (len(blocks), len(cells), variants, base.rows))
        new = torch.where(where[None, :, None, None], values, old)
        return torch.cat([rows[:begin], new.flatten(0, 3), rows[end:]])

    return enter, grow, put_in


def _where(lm: Any, cells: list[Cell], start: int, run: int, width: int) -> torch.Tensor:
    """Which numbers of an activation a cell is, [cell, position, 1 or width]."""
    place = torch.arange(start, start + run)
    inside = torch.stack([(place >= first) & (place < stop) for first, stop, _ in cells])[..., None]
    heads = [head for _, _, head in cells if head is not None]
    if not heads:
        return inside
    column = torch.arange(width) // (width // head_count(lm))
    return inside & torch.stack([column == head for head in heads])[:, None]


def _shared_prefix(
    base: Base, start: int, spans: dict[int, range], joining: int, after: int
) -> DynamicCache:
    """A fresh cache holding the tokens before `start`, with as many rows as each layer will see.

    The rows of a single base row are views of one.
    """
    prefix = DynamicCache()
    for index, kept in enumerate(base.keys.layers):
        new = sum(span.start + after <= index for span in spans.values()) * joining
        prefix.update(kept.keys[:, :, :start], kept.values[:, :, :start], index)
        layer: Any = prefix.layers[index]
        layer.keys = _copies(layer.keys, new // base.rows + 1)
        layer.values = _copies(layer.values, new // base.rows + 1)
    return prefix


def _copies(tensor: torch.Tensor, times: int) -> torch.Tensor:
    """All rows, `times` times over; of a single row, views."""
    others = [-1] * (tensor.dim() - 1)
    if tensor.shape[0] == 1:
        return tensor.expand(times, *others)
    return tensor.repeat(times, *(1 for _ in others))
