"""Exact patching sweeps: every cell of a grid its own forward pass, many of them at once.

A sweep runs the model once over a batch that grows on the way: row 0 is the unpatched base run,
and at each layer one row per cell of that layer joins, a copy of row 0 with its patch in place.
So every row runs exactly the layers its patch can change, in one pass over the weights. Tokens
before the first difference are the same in all runs: where the attention allows it, their keys
and values are computed once and shared (`reuses_prefix`). Nothing of this changes a number
beyond rounding; a memory budget cuts the layers into groups, one pass each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.metrics import answer_metric
from remote_mi.interventions.prompts import Pair
from remote_mi.interventions.sites import (
    edit_site,
    edit_stream,
    head_count,
    read_site,
    reuses_prefix,
    skip_unembedding,
    text_config,
)

#: What the rows of one pass may take where free memory cannot be asked for, in bytes.
CPU_BUDGET = 1 << 30


def patch_positions(
    lm: Any, pair: Pair, site: str, direction: str, metric: str, max_rows: int | None = None
) -> dict[str, torch.Tensor]:
    """Patch one position of one layer at a time.

    Args:
        lm: the model with portable names.
        pair: clean and corrupt prompt of equal length.
        site: "resid_pre", "resid_mid", "attn_out" or "mlp_out".
        direction: "denoise" puts clean activations into the corrupt run, "noise" the reverse.
        metric: see `answer_metric`; always of the clean prompt's answer.
        max_rows: rows of one pass; by default from free memory.

    Returns:
        effect [layer, position]: metric of the patched run − metric of the unpatched run;
        clean [], corrupt []: the metric of the two plain runs. All float32.
    """
    return _sweep(lm, pair, site, direction, metric, max_rows)


def patch_heads(
    lm: Any, pair: Pair, direction: str, metric: str, max_rows: int | None = None
) -> dict[str, torch.Tensor]:
    """Patch the output of one attention head (head_z, all positions) at a time.

    Args and returns as `patch_positions`; effect is [layer, head].
    """
    return _sweep(lm, pair, "head_z", direction, metric, max_rows)


def _sweep(
    lm: Any, pair: Pair, site: str, direction: str, metric: str, max_rows: int | None
) -> dict[str, torch.Tensor]:
    base, source = pair.corrupt.ids, pair.clean.ids
    if direction == "noise":
        base, source = source, base
    first = len(base) if pair.first_difference is None else pair.first_difference
    # The last token is always run: its final state is what the metric reads.
    shared = min(first, len(base) - 1) if reuses_prefix(lm) else 0
    cells = head_count(lm) if site == "head_z" else len(base) - first
    n_layers = len(lm.layers)
    patches, source_hidden, cache = _source_pass(lm, source, shared, site)
    if max_rows is None:
        max_rows = _rows_that_fit(lm, len(base) - shared, len(base))
    group = min(n_layers, max(1, (max_rows - 1) // max(1, cells)))

    def score(hidden: torch.Tensor) -> torch.Tensor:
        """The metric of the source run and of each row."""
        hidden = torch.cat([source_hidden, hidden])
        return answer_metric(lm, hidden, metric, pair.answers, pair.wrongs)

    effects = []
    for start in range(0, n_layers, group):
        layers = range(start, min(start + group, n_layers))
        prefix = _shared_prefix(cache, shared, layers, cells)
        scores = _grown_pass(lm, base, shared, first, prefix, patches, site, cells, layers, score)
        effects.append((scores[2:] - scores[1]).reshape(len(layers), cells))
    effect = torch.cat(effects)
    if site != "head_z":
        # Zero by causality: before the first difference both runs are the same.
        effect = torch.nn.functional.pad(effect, (first, 0))
    elif pair.first_difference is None:
        effect = torch.zeros_like(effect)
    corrupt, clean = (scores[1], scores[0]) if direction == "denoise" else (scores[0], scores[1])
    return {"effect": effect, "clean": clean, "corrupt": corrupt}


def _source_pass(
    lm: Any, ids: list[int], shared: int, site: str
) -> tuple[list[torch.Tensor], torch.Tensor, Any]:
    """Run the prompt that activations are taken from.

    Returns:
        the activation of each layer from the first token that is not shared, [position, width];
        the final norm's output at the last position, [1, d_model];
        the keys and values, None where nothing is shared.
    """
    stream = site == "resid_pre"
    with lm.trace(
        input_ids=torch.tensor([ids]), use_cache=bool(shared), output_hidden_states=stream
    ):
        found = [] if stream else [read_site(layer, site) for layer in lm.layers]
        hidden = lm.ln_final.output[:, -1]
        skip_unembedding(lm)
        ran = lm.output
    if stream:
        # Not read layer by layer: a layer's input comes with the cache, and a sandboxed job
        # would get, and the layer go on with, a copy of it.
        found = ran.hidden_states[: len(lm.layers)]
    return [value[0, shared:] for value in found], hidden, ran.past_key_values


def _grown_pass(
    lm: Any,
    base: list[int],
    shared: int,
    first: int,
    prefix: DynamicCache,
    patches: list[torch.Tensor],
    site: str,
    cells: int,
    layers: range,
    score: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One pass in which the cells of some layers join the base row.

    Args:
        score: from the final norm's output at the last position,
            [1 + len(layers) × cells, d_model], to what is returned.
    """

    def grow(rows: torch.Tensor) -> torch.Tensor:
        """One more copy of the base row for each cell."""
        return torch.cat([rows, rows[:1].expand(cells, -1, -1)])

    def put_in(rows: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
        """The activation of all rows, with the patch in the last `cells` of them."""
        patch = patch.to(rows.device, rows.dtype)
        edited = rows.clone()
        if site == "head_z":
            width = patch.shape[-1] // cells
            for head in range(cells):
                part = slice(head * width, (head + 1) * width)
                edited[head - cells, :, part] = patch[:, part]
        else:
            cell = torch.arange(cells, device=rows.device)
            where = cell + (first - shared)
            edited[cell - cells, where] = patch[where]
        return edited

    with lm.trace(
        input_ids=torch.tensor([base[shared:]]),
        position_ids=torch.arange(shared, len(base))[None],
        past_key_values=prefix,
        use_cache=True,
    ):
        for index in layers if cells else ():
            patch = patches[index]
            if site == "resid_pre":
                edit_stream(lm, index, lambda rows, p=patch: put_in(grow(rows), p))
            else:
                stream = edit_stream(lm, index, grow)
                edit_site(lm.layers[index], site, lambda rows, p=patch: put_in(rows, p), stream)
        scores = score(lm.ln_final.output[:, -1])
        skip_unembedding(lm)
        lm.output = None  # the cache in it is large, and nobody's
    return scores


def _shared_prefix(cache: Any, shared: int, layers: range, cells: int) -> DynamicCache:
    """A fresh cache holding the shared prefix, with as many rows at each layer as it will see.

    The rows are views of one.
    """
    prefix = DynamicCache()
    if not shared:
        return prefix
    rows = 1
    for index, kept in enumerate(cache.layers):
        rows += cells if index in layers else 0
        prefix.update(kept.keys[:, :, :shared], kept.values[:, :, :shared], index)
        layer: Any = prefix.layers[index]
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return prefix


def _rows_that_fit(lm: Any, run: int, context: int) -> int:
    """Rows of one pass that half of the free memory (or `CPU_BUDGET`) holds.

    Args:
        run: tokens of a row that are run. context: tokens a row attends to.
    """
    config = text_config(lm)
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    weight = lm.lm_head.weight
    numbers = run * (8 * width + 3 * inner) + 4 * context * width
    scores = 3 * 4 * head_count(lm) * run * context
    row = numbers * weight.element_size() + scores
    budget = CPU_BUDGET
    if weight.device.type == "cuda":
        budget = torch.cuda.mem_get_info(weight.device)[0] // 2
    return max(1, budget // row)
