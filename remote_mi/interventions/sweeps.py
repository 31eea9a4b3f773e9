"""Exact patching sweeps: every cell of a grid its own forward pass, many of them at once.

A sweep runs the model once over a batch that grows on the way: row 0 is the unpatched base run,
and at each layer one row per cell of that layer joins, a copy of row 0 with its patch in place.
So every row runs exactly the layers its patch can change, in one pass over the weights. Tokens
before the first difference are the same in all runs: where the attention allows it, their keys
and values are computed once and shared (`reuses_prefix`). Nothing of this changes a number
beyond rounding; a memory budget cuts the layers into groups, one pass each.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from remote_mi.interventions.metrics import answer_metric
from remote_mi.interventions.prompts import Pair
from remote_mi.interventions.sites import (
    edit_site,
    head_count,
    read_site,
    reuses_prefix,
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
    cache = DynamicCache()
    with lm.backbone.trace(input_ids=torch.tensor([source]), past_key_values=cache, use_cache=True):
        patches = [read_site(layer, site)[0, shared:] for layer in lm.layers]
        source_hidden = lm.ln_final.output[:, -1]
    source_score = answer_metric(lm, source_hidden, metric, pair.answer, pair.wrong)[0]
    if max_rows is None:
        max_rows = _rows_that_fit(lm, len(base) - shared, len(base))
    group = min(n_layers, max(1, (max_rows - 1) // max(1, cells)))
    effects = []
    base_score = source_score
    for start in range(0, n_layers, group):
        stop = min(start + group, n_layers)
        hidden = _grown_pass(lm, base, shared, first, cache, patches, site, cells, start, stop)
        scores = answer_metric(lm, hidden, metric, pair.answer, pair.wrong)
        base_score = scores[0]
        effects.append((scores[1:] - base_score).reshape(stop - start, cells))
    effect = torch.cat(effects)
    if site != "head_z":
        # Zero by causality: before the first difference both runs are the same.
        effect = torch.nn.functional.pad(effect, (first, 0))
    elif pair.first_difference is None:
        effect = torch.zeros_like(effect)
    clean, corrupt = source_score, base_score
    if direction == "noise":
        clean, corrupt = base_score, source_score
    return {"effect": effect, "clean": clean, "corrupt": corrupt}


def _grown_pass(
    lm: Any,
    base: list[int],
    shared: int,
    first: int,
    cache: DynamicCache,
    patches: list[torch.Tensor],
    site: str,
    cells: int,
    start: int,
    stop: int,
) -> torch.Tensor:
    """One pass in which the cells of layers start … stop − 1 join the base row.

    Returns:
        The final norm's output at the last position, [1 + (stop − start) × cells, d_model].
    """

    def put_in(rows: torch.Tensor, joined: int, patch: torch.Tensor) -> torch.Tensor:
        """The activation of all rows, with the patch in the last `joined` of them."""
        patch = patch.to(rows.device, rows.dtype)
        edited = rows.clone()
        if site == "head_z":
            width = patch.shape[-1] // cells
            for head in range(cells):
                part = slice(head * width, (head + 1) * width)
                edited[head - joined, :, part] = patch[:, part]
        else:
            cell = torch.arange(joined, device=rows.device)
            where = cell + (first - shared)
            edited[cell - joined, where] = patch[where]
        return edited

    joining = range(start, stop) if cells else range(0)
    with lm.backbone.trace(
        input_ids=torch.tensor([base[shared:]]),
        position_ids=torch.arange(shared, len(base))[None],
        past_key_values=_shared_prefix(cache, shared, joining, cells),
        use_cache=True,
    ):
        for index in joining:
            layer = lm.layers[index]
            stream = layer.input
            stream = torch.cat([stream, stream[:1].expand(cells, -1, -1)])
            if site == "resid_pre":
                layer.input = put_in(stream, cells, patches[index])
            else:
                layer.input = stream
                edit_site(layer, site, lambda a, i=index: put_in(a, cells, patches[i]), stream)
        hidden = lm.ln_final.output[:, -1]
    return hidden


def _shared_prefix(cache: DynamicCache, shared: int, joining: range, cells: int) -> DynamicCache:
    """A fresh cache holding the shared prefix, with as many rows at each layer as it will see."""
    prefix = DynamicCache()
    if not shared:
        return prefix
    rows = 1
    for index, kept in enumerate(cache.layers):
        rows += cells if index in joining else 0
        keys, values = (x[:, :, :shared].expand(rows, -1, -1, -1) for x in _tensors(kept))
        prefix.update(keys, values, index)
    return prefix


def _tensors(kept: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer of a cache, [row, head, position, d_head]."""
    return kept.keys, kept.values


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
