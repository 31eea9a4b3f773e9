"""Distributing the cells of a sweep over passes, at the lowest cost that memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.model_info import has_unembedding, head_count, text_config

#: The fixed cost of a pass (reading the weights, starting each layer), in tokens run.
PASS_TOKENS = 128


class Cell:
    """What is replaced in one row: an activation at some positions, of one head or of all."""

    def __init__(self, positions: Sequence[int], head: int | None = None) -> None:
        self.positions, self.head = list(positions), head
        self.first = min(self.positions)


class Load:
    """The work that a sweep has to distribute over passes.

    Attributes:
        layers: the layers whose cells join. n_layers: of the model. length: of the prompt.
        rows: of the base run. joining: rows that join for each cell of a layer.
        fit: from the tokens that each row runs to the maximum number of rows of a pass.
    """

    def __init__(
        self,
        layers: Sequence[int],
        n_layers: int,
        length: int,
        rows: int,
        joining: int,
        fit: Callable[[int], int],
    ) -> None:
        self.layers, self.n_layers, self.length = layers, n_layers, length
        self.rows, self.joining, self.fit = rows, joining, fit


def deal(load: Load, cells: list[Cell], shared: int) -> tuple[float, list[tuple[int, Any, int]]]:
    """Distribute cells over passes at the lowest cost.

    A pass that starts at token s with C cells per layer runs (length − s) tokens of a base row in
    every layer, and of each cell's rows from its layer on. Later cells in a pass of their own run
    fewer tokens, but it is one more pass.

    Args:
        cells: sorted by first position. shared: how many initial tokens a pass may skip.

    Returns:
        the cost in tokens × layers, and for each pass its first token, its cells, and the number
        of layers whose cells it takes at a time.
    """
    count, many = len(cells), len(load.layers)
    if not cells:
        return (load.length - shared) * load.n_layers, [(shared, [], many)]
    starts = [min(cell.first, shared) for cell in cells]
    fits = {start: load.fit(load.length - start) for start in set(starts)}
    depth = sum(load.n_layers - layer for layer in load.layers)
    best: list[tuple[float, int, int]] = [(0.0, count, 0)] * (count + 1)
    for i in reversed(range(count)):
        options = []
        for j in range(i + 1, count + 1):
            joining, fit = (j - i) * load.joining, fits[starts[i]]
            if j > i + 1 and load.rows + joining > fit:
                break
            group = min(many, max(1, (fit - load.rows) // joining))
            passes = -(-many // group)
            run = (load.length - starts[i]) * (passes * load.n_layers * load.rows + joining * depth)
            options.append((run + passes * load.n_layers * PASS_TOKENS + best[j][0], j, group))
        best[i] = min(options)
    dealt, i = [], 0
    while i < count:
        _, j, group = best[i]
        dealt.append((starts[i], cells[i:j], group))
        i = j
    return best[0][0], dealt


def rows_of_a_pass(lm: Any, run: int, context: int) -> int:
    """The number of rows of a pass that fit into memory.

    Args:
        run: tokens run per row. context: tokens that a row attends to.
    """
    config = text_config(lm)
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    weight = (lm.lm_head if has_unembedding(lm) else lm.embed_tokens).weight
    numbers = run * (8 * width + 3 * inner) + 4 * context * width
    scores = 3 * 4 * head_count(lm) * run * context
    return rows_that_fit(weight.device, numbers * weight.element_size() + scores)
