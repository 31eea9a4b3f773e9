"""The values of single examples, aligned as those over all of them are."""

from __future__ import annotations

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import DRAW, POSITIONS
from remote_mi.store.result import Result


def aligned_samples(result: Result, name: str) -> np.ndarray:
    """The values of each example of an output, aligned as `result[name]` is; means over draws.

    Returns:
        [example, ...], with the dimensions of `result[name]` after the first.

    Raises:
        NotFound: for a summary, an unknown output, or one without a mean.
    """
    each = result.each(name)
    if not kind_of_output(result.outputs[name]).averaged:
        raise NotFound(f"{name!r} has no mean over examples")
    axes = result.document["axes"][name]
    samples = []
    for index, array in enumerate(each):
        values = np.asarray(array.values)
        for axis, dim in enumerate(array.dims):
            if dim in POSITIONS and result.outputs[name].of == "example":
                values = np.take(values, _positions(result, axes[dim], index), axis)
        if DRAW in array.dims:
            draws = array.dims.index(DRAW)
            none = np.full(np.delete(values.shape, draws), np.nan)  # no draws were requested
            values = values.mean(draws) if values.shape[draws] else none
        samples.append(values)
    return np.stack(samples)


def _positions(result: Result, columns: list[str], index: int) -> list[int]:
    """The position of each column in the prompt of an example.

    Prompts of one template are aligned token by token, others by the labels that they share, whose
    columns are called "[label]".
    """
    prompts = result.prompts
    if all(len(prompt["tokens"]) == len(columns) for prompt in prompts):
        return list(range(len(columns)))
    labels = prompts[index]["labels"]
    return [labels[column[1:-1]] for column in columns]
