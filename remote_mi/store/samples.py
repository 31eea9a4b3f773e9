"""The values of single prompts, aligned as the values over all prompts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import DRAW, POSITIONS, Output
from remote_mi.store.named_array import NamedArray

#: What makes two prompts copies of one.
PROMPT_TEXTS = ("clean", "corrupt", "answer", "wrong")


class Sampled(Protocol):
    """The part of a `remote_mi.store.result.Result` that statistics need."""

    arrays: Mapping[str, np.ndarray]
    document: Mapping[str, Any]

    @property
    def card(self) -> Card: ...

    @property
    def prompts(self) -> list[Mapping[str, Any]]: ...

    @property
    def outputs(self) -> dict[str, Output]: ...

    @property
    def name(self) -> str: ...

    def names(self) -> list[str]: ...

    def __getitem__(self, name: str) -> NamedArray: ...


def aligned_samples(result: Sampled, name: str) -> np.ndarray:
    """The values of each prompt or pair, aligned as the axes of the values over all of them are.

    Args:
        name: of an output of numbers.

    Returns:
        [example, ...] with the dimensions of `result[name]`, means over draws; one example for an
        output of the whole set.

    Raises:
        NotFound: if there are no such values.
    """
    output = result.outputs.get(name)
    if output is None or not kind_of_output(output).averaged:
        raise NotFound(f"{name!r} has no values of single prompts")
    count = 1 if output.of == "set" else len(result.prompts)
    samples = [
        _aligned(result, output, name, index, np.asarray(result.arrays[f"{name}@{index}"]))
        for index in range(count)
    ]
    return np.stack(samples).astype(np.float64)


def prompt_samples(result: Sampled, name: str) -> np.ndarray:
    """`aligned_samples` of an output that has values of each prompt.

    Raises:
        NotFound: also for an output of the whole set.
    """
    output = result.outputs.get(name)
    if output is not None and output.of == "set":
        raise NotFound(f"{name!r} has no values of single prompts")
    return aligned_samples(result, name)


def _aligned(
    result: Sampled, output: Output, name: str, index: int, values: np.ndarray
) -> np.ndarray:
    dims = list(output.dims)
    if DRAW in dims:
        axis = dims.index(DRAW)
        values = values.mean(axis) if values.shape[axis] else values.sum(axis) * np.nan
        dims.remove(DRAW)
    axes = result.document["axes"][name]
    for axis, dim in enumerate(dims):
        # Cells that a parameter names are as many in each prompt.
        if dim in POSITIONS and output.of == "example" and values.shape[axis] != len(axes[dim]):
            at = shown_positions(result, list(axes[dim]), index)
            values = np.take(values, at, axis)
    return values


def shown_positions(result: Sampled, columns: Sequence[str], index: int) -> list[int]:
    """The position of each column of an axis of positions, in one of the prompts.

    Args:
        columns: all positions if there is one for each token of every prompt, else "[label]".
    """
    prompts = result.prompts
    if all(len(prompt["tokens"]) == len(columns) for prompt in prompts):
        return list(range(len(columns)))
    labels = prompts[index]["labels"]
    return [labels[column[1:-1]] for column in columns]


def example_clusters(result: Sampled) -> list[int]:
    """For each prompt or pair the number of its cluster, within which they are not independent.

    As the result has them; for one of an earlier version, copies of one prompt are a cluster.
    """
    kept = result.document.get("clusters")
    if kept is not None:
        return list(kept)
    known: dict[tuple[Any, ...], int] = {}
    return [
        known.setdefault(tuple(str(prompt.get(k)) for k in PROMPT_TEXTS), len(known))
        for prompt in result.prompts
    ]


def sample_count(result: Sampled, name: str) -> int:
    """How many independent samples a value over all prompts rests on.

    Different prompts, or the draws of an output if there are no prompts; 0 if that is not known.
    """
    if result.prompts:
        return len(set(example_clusters(result)))
    output = result.outputs.get(name)
    raw = result.arrays.get(f"{name}@0")
    if output is None or DRAW not in output.dims or raw is None:
        return 0
    return int(raw.shape[output.dims.index(DRAW)])
