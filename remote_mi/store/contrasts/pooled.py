"""One number over several models and the prompts that they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from remote_mi.common.statistics.intervals import two_way_interval
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.store.claims.estimates import Estimate
from remote_mi.store.result import Result
from remote_mi.store.samples import PROMPT_TEXTS, prompt_samples


def mean_over_models(
    results: Sequence[Result], output: str, indices: Sequence[Sequence[Sequence[int]]]
) -> Estimate | None:
    """The mean of an output over models × prompts, with an interval that counts both as samples.

    Args:
        results: of different models on the same prompts. output: of numbers of each prompt.
        indices: for each result the selected indices of each of the output's dimensions.

    Returns:
        None for fewer than two models, for prompts that are not the same, and for an output without
        values of single prompts, such as a ratio.
    """
    models = {(r.made.model.name, r.made.model.revision, r.made.model.content) for r in results}
    kinds = [r.outputs.get(output) for r in results]
    if len(results) < 2 or len(models) < len(results):
        return None
    if any(o is None or o.of == "set" or not kind_of_output(o).averaged for o in kinds):
        return None
    if any(_texts(result) != _texts(results[0]) for result in results):
        return None
    rows = [
        prompt_samples(result, output)[np.ix_(range(len(result.prompts)), *map(list, at))]
        for result, at in zip(results, indices, strict=True)
    ]
    values = np.stack([row.reshape(len(row), -1).mean(1) for row in rows])
    found = two_way_interval(values)
    ends = float(found.low), float(found.high)
    return Estimate(float(found.value), *ends, found.clusters, cells=rows[0][0].size)


def _texts(result: Result) -> list[tuple[object, ...]]:
    return [tuple(prompt.get(name) for name in PROMPT_TEXTS) for prompt in result.prompts]
