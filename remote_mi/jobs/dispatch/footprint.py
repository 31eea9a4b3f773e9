"""Estimating what a job needs: memory in addition to the weights, and traffic to and from a server.

Computed from the model's configuration in microseconds, so that a study of thousands of jobs is
planned quickly. The estimate is an upper bound: more than most jobs use, never less. If it decides,
`remote_mi.jobs.dispatch.measuring` measures instead, by a run without weights.

Memory for one example of n tokens, width d, inner width f, h heads, vocabulary v, L layers,
e bytes per number:

    row     = e·(n·(8d + 3f) + 4·n·d) + 12·h·n²        one forward pass, as sweeps estimate it
    kept    = 2·e·L·n·d                                states of every layer that a recipe reads
    logits  = 8·(L + 1)·n·v                            after every layer, as a lens reads them
    graph   = L·row                                    with gradients only
    needed  = row + kept + logits + graph

Recipes that are called once with all examples need that much for each. Further rows of a sweep are
not counted: a sweep runs only as many at once as fit into the remaining memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remote_mi.backends.options import Footprint
from remote_mi.jobs.job import Job
from remote_mi.models.checkpoint import HEADS, LAYERS, WIDTH, first_int
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import DRAW, POSITIONS

#: Compressed size of the kit and the frame of a job's payload, and of a pair's token ids.
_FRAME_BYTES, _PAIR_BYTES = 12_000, 400
#: A text has at most about one token per this many bytes; and what a template or BOS adds.
_BYTES_A_TOKEN, _EXTRA_TOKENS = 3, 8
#: Assumed size of an unknown dimension.
_UNKNOWN_SIZE = 8
_NUMBER = 4
#: Beyond any machine; larger products are not worth telling apart.
_MOST_BYTES = 10**18
#: Names of the same setting in different configurations.
_INNER = ("intermediate_size", "n_inner", "ffn_dim")


def estimate(job: Job, config: Mapping[str, Any], dtype: str) -> Footprint:
    """The estimated need of a job.

    Args:
        config: the model's configuration; {} if it is not known.
        dtype: of its weights.
    """
    texts = [len(t.encode()) for e in job.prompts.examples for t in (e.clean, e.corrupt or "")]
    tokens = math.ceil(max(texts, default=0) / _BYTES_A_TOKEN) + _EXTRA_TOKENS
    examples = max(1, len(job.prompts.examples))
    up = _FRAME_BYTES + _PAIR_BYTES * examples + sum(texts) + sum(job.artifact_sizes.values())
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    sizes = text_config or config
    if not sizes:
        return Footprint(None, tokens, up, None)
    return Footprint(
        _activations(job, sizes, dtype, tokens, examples),
        tokens,
        up,
        _bytes_down(job, sizes, tokens, examples, _UNKNOWN_SIZE),
        bytes_down_most=_bytes_down(job, sizes, tokens, examples, _largest_parameter(job)),
    )


def _largest_parameter(job: Job) -> int:
    """The largest whole number among the parameters that may be the size of a dimension."""
    numbers = [
        value
        for name, value in job.parameters.items()
        if type(value) is int and not name.endswith("seed")
    ]
    return max([_UNKNOWN_SIZE, *numbers])


def _activations(
    job: Job, sizes: Mapping[str, Any], dtype: str, tokens: int, examples: int
) -> int | None:
    parts = parts_of(sizes, dtype, tokens)
    if parts is None:
        return None
    graph = parts.graph if "gradients" in job.card.needs else 0
    needed = parts.forward + parts.states + parts.logits + graph
    return needed * (examples if job.card.called_once else 1)


@dataclass(frozen=True)
class ModelParts:
    """What one example needs beside the weights, in bytes, by the formulas above.

    Attributes:
        forward: one forward pass (row). states: of every layer (kept).
        logits: after every layer. graph: for gradients.
        width: of the stream, a number and no bytes.
    """

    forward: int
    states: int
    logits: int
    graph: int
    width: int

    def to_json(self) -> dict[str, int]:
        named = ("forward", "states", "logits", "graph")
        return {name: getattr(self, name) for name in named}


def parts_of(config: Mapping[str, Any], dtype: str, tokens: int) -> ModelParts | None:
    """What one example of some tokens needs; None if the configuration does not tell its sizes."""
    inner = config.get("text_config")
    sizes = inner if isinstance(inner, dict) else config
    width, layers, heads = (first_int(sizes, names) for names in (WIDTH, LAYERS, HEADS))
    if width is None or layers is None or heads is None:
        return None
    wide = first_int(sizes, _INNER) or 4 * width
    number = 4 if dtype == "float32" else 2
    row = number * (tokens * (8 * width + 3 * wide) + 4 * tokens * width) + 12 * heads * tokens**2
    logits = 8 * (layers + 1) * tokens * int(sizes.get("vocab_size") or 50_000)
    return ModelParts(row, 2 * number * layers * tokens * width, logits, layers * row, width)


def _bytes_down(
    job: Job, sizes: Mapping[str, Any], tokens: int, examples: int, unknown: int
) -> int:
    total = 0
    for output in job.card.returned.values():
        numbers = 1
        for dim in output.dims:
            numbers *= _dimension_size(dim, job.parameters, sizes, tokens, unknown)
        each = max(_NUMBER, kind_of_output(output).bytes if not kind_of_output(output).sized else 0)
        total += numbers * each * (1 if output.of == "set" else examples)
    return min(total, _MOST_BYTES)


def _dimension_size(
    dim: str, parameters: Mapping[str, Any], sizes: Mapping[str, Any], tokens: int, unknown: int
) -> int:
    """The approximate size of a dimension; `unknown` if nothing tells it."""
    if dim in POSITIONS:
        return tokens
    if dim == "layer":
        return (first_int(sizes, LAYERS) or 32) + 1
    if dim == "head":
        return first_int(sizes, HEADS) or 32
    if dim == DRAW:
        draws = [v for k, v in parameters.items() if k.endswith("draws") and isinstance(v, int)]
        return max(draws, default=unknown)
    for name in (dim, f"{dim}s"):
        value = parameters.get(name)
        if isinstance(value, list):
            return len(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return max(1, value)
    return unknown
