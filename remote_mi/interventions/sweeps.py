"""Exact sweeps: every cell of a grid its own forward pass, many of them at once.

All techniques that replace an activation and read the end of the run are one sweep: patching,
ablation, causal tracing. Each row of a pass runs only the layers that its replacement can change
(`grown_pass`), and only the tokens: a replacement at position p leaves those before p as they are
in the base run, whose keys and values are shared where the attention allows it (`reuses_prefix`).
Nothing of this changes a number beyond rounding. The cells are dealt to passes by arithmetic: by
what a pass costs, and by a memory budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from remote_mi.interventions.grown_pass import Base, Cell, grown_pass, plain_pass, shared_base
from remote_mi.interventions.metrics import answer_metric
from remote_mi.interventions.prompts import Pair
from remote_mi.interventions.sites import head_count, is_causal, reuses_prefix, text_config

#: What the rows of one pass may take, in bytes; see `rows_within`.
ROWS_BYTES: int | None = None
#: What one more pass costs (reading the weights, starting each layer), in tokens run.
PASS_TOKENS = 128


@contextmanager
def rows_within(size: int | None) -> Iterator[None]:
    """Work in which the rows of a pass take so many bytes at most, as somebody planned it.

    Without a plan (None) it is half of a GPU's free memory, and 1 GiB elsewhere.
    """
    global ROWS_BYTES
    before = ROWS_BYTES
    ROWS_BYTES = size
    try:
        yield
    finally:
        ROWS_BYTES = before


def patch_positions(
    lm: Any,
    pair: Pair,
    site: str,
    direction: str,
    metric: str,
    max_rows: int | None = None,
    control_draws: int = 0,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Patch one position of one layer at a time.

    Args:
        lm: the model with portable names.
        pair: clean and corrupt prompt of equal length.
        site: "resid_pre", "resid_mid", "attn_out" or "mlp_out".
        direction: "denoise" puts clean activations into the corrupt run, "noise" the reverse.
        metric: see `answer_metric`; always of the clean prompt's answer.
        max_rows: rows of one pass; by default from free memory.
        control_draws: random directions of equal distance, see `sweep_cells`.
        seed: of the random directions.

    Returns:
        effect [layer, position]: metric of the patched run − metric of the unpatched run;
        control [draw, layer, position]: the same of the random directions;
        clean [], corrupt []: the metric of the two plain runs. All float32.
    """
    first, length = first_changed(lm, pair), len(pair.clean.ids)
    cells: list[Cell] = [(p, p + 1, None) for p in range(first, length)]
    found = _patch(lm, pair, site, direction, metric, cells, max_rows, control_draws, seed)
    for name in ("effect", "control"):  # zero by causality: until there both runs are the same
        found[name] = torch.nn.functional.pad(found[name], (first, 0))
    return found


def patch_heads(
    lm: Any,
    pair: Pair,
    direction: str,
    metric: str,
    max_rows: int | None = None,
    control_draws: int = 0,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Patch the output of one attention head (head_z, all positions) at a time.

    Args and returns as `patch_positions`; effect is [layer, head], control [draw, layer, head].
    """
    first, length, heads = first_changed(lm, pair), len(pair.clean.ids), head_count(lm)
    differ = first < length
    cells: list[Cell] = [(first, length, head) for head in range(heads)] if differ else []
    found = _patch(lm, pair, "head_z", direction, metric, cells, max_rows, control_draws, seed)
    if not differ:  # identical prompts: there is nothing to patch
        for name in ("effect", "control"):
            found[name] = torch.nn.functional.pad(found[name], (heads, 0))
    return found


def first_changed(lm: Any, pair: Pair) -> int:
    """The first position whose activations can differ in the two runs; the length for none.

    Attention that looks both ways lets every position see the first difference.
    """
    if pair.first_difference is None:
        return len(pair.clean.ids)
    return pair.first_difference if is_causal(lm) else 0


def _patch(
    lm: Any,
    pair: Pair,
    site: str,
    direction: str,
    metric: str,
    cells: list[Cell],
    max_rows: int | None,
    draws: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    ids, other = pair.corrupt.ids, pair.clean.ids
    if direction == "noise":
        ids, other = other, ids
    length = len(ids)
    # The last token is always run: its final state is what a causal model's metric reads.
    shared = min(first_changed(lm, pair), length - 1) if reuses_prefix(lm) else 0
    source = plain_pass(lm, other, site, keys=bool(shared))
    at_end = source["hidden"][:, pair.end]
    base = Base(ids, source["keys"], shared)
    whole = length - 1 if reuses_prefix(lm) else 0
    price = plan(lm, base.rows, length, shared, cells, 1 + draws, max_rows)[0]
    finer = plan(lm, base.rows, length, whole, cells, 1 + draws, max_rows)[0]
    if finer + len(lm.layers) * (length + PASS_TOKENS) < price:
        base, _ = shared_base(lm, ids)

    def measure(hidden: torch.Tensor) -> torch.Tensor:
        """The metric of each row, and beside it that of the run that activations come from.

        Both from one call: what is rounded in it is the same in both.
        """
        rows = torch.cat([at_end, hidden[:, pair.end - length]])
        scores = answer_metric(lm, rows, metric, pair.answers, pair.wrongs)
        return torch.stack([scores[1:], scores[:1].expand(len(scores) - 1)], -1)

    found = sweep_cells(lm, base, site, cells, source["values"], measure, draws, seed, max_rows)
    unpatched, plain = found["base"]
    clean, corrupt = (plain, unpatched) if direction == "denoise" else (unpatched, plain)
    return {
        "effect": found["effect"][..., 0],
        "control": found["control"][..., 0],
        "clean": clean,
        "corrupt": corrupt,
    }


def sweep_cells(
    lm: Any,
    base: Base,
    site: str,
    cells: list[Cell],
    values: list[torch.Tensor],
    measure: Callable[[torch.Tensor], torch.Tensor],
    control_draws: int = 0,
    seed: int = 0,
    max_rows: int | None = None,
) -> dict[str, torch.Tensor]:
    """Replace each cell of each layer by given values, and, as a control, by random ones as far.

    The control puts x + ‖v − x‖·u in the place of an activation x, where v is the value and u a
    random unit vector, one for each prompt, draw, layer and position (and head, for head_z).

    Args:
        base: the run that is changed, of one row; `shared_base` makes it.
        site: one of `edit_site`.
        cells: (first position, stop position, head) each, by their first position; stop is
            excluded; head is None for the whole activation. Either all have a head, or none.
        values: of each layer, what is put in place: it broadcasts to [1, position, width].
        measure: from the final norm's output, [row, position, d_model], whose last position is the
            prompt's last (early ones may be left out), to one number or more of each row.
        control_draws: how many random directions; 0 for none.
        seed: of the random directions.
        max_rows: rows of one pass; by default from free memory.

    Returns:
        effect [layer, cell, …] and control [draw, layer, cell, …]: what `measure` gives of the
        changed run − of the unchanged run; base […]: of the unchanged run.

    Raises:
        ValueError: for cells with and without heads in one sweep.
    """
    heads = head_count(lm) if site == "head_z" else 1
    whole = {head is None for _, _, head in cells}
    if len(whole) > 1:
        raise ValueError("cells of single heads and of whole activations need sweeps of their own")

    def replace(layer: int, x: torch.Tensor, start: int) -> torch.Tensor:
        length = start + x.shape[1]
        value = values[layer].to(x.device, x.dtype).expand(1, length, -1)[:, start:].expand_as(x)
        if not control_draws:
            return value[None]
        unit = unit_directions(base.ids, x.shape[-1], heads, control_draws, seed, layer)
        return torch.cat([value[None], as_far(x, value, unit[:, None, start:], heads)])

    effects, plain = sweep(
        lm, base, site, cells, replace, measure, variants=1 + control_draws, max_rows=max_rows
    )
    effects = effects[:, :, :, 0]  # one base row
    control = effects[:, :, 1:].movedim(2, 0)
    return {"effect": effects[:, :, 0], "control": control, "base": plain[0]}


def unit_directions(
    ids: list[int], width: int, heads: int, draws: int, seed: int, layer: int
) -> torch.Tensor:
    """Random unit vectors of each head's part, [draw, position, width], float32.

    They depend on the prompt, so that pairs do not share one draw.
    """
    mixed = seed
    for number in (*ids, layer):
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 61)
    generator = torch.Generator().manual_seed(mixed)
    drawn = torch.randn(draws, len(ids), heads, width // heads, generator=generator)
    return (drawn / drawn.norm(dim=-1, keepdim=True)).flatten(-2)


def as_far(x: torch.Tensor, value: torch.Tensor, unit: torch.Tensor, heads: int) -> torch.Tensor:
    """x moved along unit vectors by as much as `value` is away from it, head by head.

    Args:
        x, value: [row, position, width]. unit: [draw, 1, position, width].
    """
    distance = (value.float() - x.float()).unflatten(-1, (heads, -1)).norm(dim=-1, keepdim=True)
    step = distance * unit.to(x.device).unflatten(-1, (heads, -1))
    return (x.float() + step.flatten(-2)).to(x.dtype)


def sweep(
    lm: Any,
    base: Base,
    site: str,
    cells: list[Cell],
    replace: Callable[[int, torch.Tensor, int], torch.Tensor],
    measure: Callable[[torch.Tensor], torch.Tensor],
    variants: int = 1,
    window: int = 1,
    max_rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace each cell of each layer, in as few passes as pay; the arguments of `grown_pass`.

    Args:
        cells: by their first position.
        max_rows: rows of one pass; by default from free memory.

    Returns:
        [layer, cell, variant, base row, …]: what `measure` gives − what it gives of the base row;
        [base row, …]: that of the base rows.
    """
    n_layers, length = len(lm.layers), len(base.ids)
    _, passes = plan(lm, base.rows, length, base.shared, cells, variants, max_rows)
    columns = []
    for start, dealt, group in passes:
        parts = []
        for low in range(0, n_layers, group):
            layers = range(low, min(low + group, n_layers))
            scores = grown_pass(
                lm, base, start, site, layers, dealt, replace, variants, window, measure
            )
            plain, changed = scores[: base.rows], scores[base.rows :]
            shape = (len(layers), len(dealt), variants, base.rows)
            parts.append(changed.reshape(*shape, *scores.shape[1:]) - plain)
        columns.append(torch.cat(parts))
    return torch.cat(columns, 1), plain


def plan(
    lm: Any,
    rows: int,
    length: int,
    shared: int,
    cells: list[Cell],
    variants: int,
    max_rows: int | None = None,
) -> tuple[float, list[tuple[int, list[Cell], int]]]:
    """How cells are dealt to passes at the least cost.

    A pass that starts at token s with C cells a layer runs (length − s) tokens of a base row in
    every layer, and of each cell's rows from its layer on. A pass with later cells only runs fewer
    tokens, but it is one more pass.

    Args:
        rows: of the base. shared: how many first tokens a pass may leave out.
        cells: by their first position. variants: rows of a cell for each row of the base.

    Returns:
        the cost in tokens × layers, and of each pass its first token, its cells, and how many
        layers' cells it takes at a time.
    """
    n_layers, count, each = len(lm.layers), len(cells), variants * rows
    starts = [min(cell[0], shared) for cell in cells] or [shared]
    if not cells:
        return (length - shared) * n_layers, [(shared, [], n_layers)]
    fits = {s: max_rows or _rows_that_fit(lm, length - s, length) for s in set(starts)}
    best: list[tuple[float, int, int]] = [(0.0, count, 0)] * (count + 1)
    for i in reversed(range(count)):
        options = []
        for j in range(i + 1, count + 1):
            joining, fit = (j - i) * each, fits[starts[i]]
            if j > i + 1 and rows + joining > fit:
                break
            group = min(n_layers, max(1, (fit - rows) // joining))
            passes = -(-n_layers // group)
            run = (length - starts[i]) * (
                passes * n_layers * rows + joining * n_layers * (n_layers + 1) / 2
            )
            options.append((run + passes * n_layers * PASS_TOKENS + best[j][0], j, group))
        best[i] = min(options)
    passes, i = [], 0
    while i < count:
        _, j, group = best[i]
        passes.append((starts[i], cells[i:j], group))
        i = j
    return best[0][0], passes


def _rows_that_fit(lm: Any, run: int, context: int) -> int:
    """Rows of one pass that memory holds.

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
    return max(1, _bytes_for_rows(weight.device) // row)


def _bytes_for_rows(device: torch.device) -> int:
    """What a pass may take: what was planned, of a GPU no more than leaves room beside it."""
    if device.type != "cuda":
        return ROWS_BYTES or 1 << 30
    free = torch.cuda.mem_get_info(device)[0]
    return min(ROWS_BYTES, free * 3 // 4) if ROWS_BYTES else free // 2
