"""What a job needs: memory beside the weights, and bytes on the way to a server and back.

By arithmetic from the model's configuration, in microseconds, so that a study of thousands of
jobs is planned at once: more than most jobs take, never less. Where it decides,
`remote_mi.jobs.dispatch.measuring` finds out by a run without weights.

Memory beside the weights, for one example of n tokens, width d, inner width f, h heads, vocabulary
v, L layers, e bytes a number:

    row     = e·(n·(8d + 3f) + 4·n·d) + 12·h·n²        one forward pass, as the sweeps reckon it
    kept    = 2·e·L·n·d                                states of every layer that a recipe reads
    logits  = 8·(L + 1)·n·v                            after every layer, as a lens reads them
    graph   = L·row                                    with gradients only
    needed  = row + kept + logits + graph

Recipes that are called once with all examples need that for each. A sweep runs further rows as far
as what remains holds them, so they are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from remote_mi.backends.options import Footprint
from remote_mi.jobs.job import Job
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import DRAW, POSITIONS

#: What the kit and the frame of a job's payload take, compressed, and a pair's ids beside its text.
_FRAME_BYTES, _PAIR_BYTES = 12_000, 400
#: Tokens of a text are at most about its bytes by this; and what a template or BOS adds.
_BYTES_A_TOKEN, _EXTRA_TOKENS = 3, 8
#: Size of a dimension of which nothing is known.
_UNKNOWN_SIZE = 8
_NUMBER = 4
#: Names that configurations have for one thing.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head")
_INNER = ("intermediate_size", "n_inner", "ffn_dim")


def estimate(job: Job, config: Mapping[str, Any], dtype: str) -> Footprint:
    """What a job needs, by arithmetic.

    Args:
        config: the model's configuration, {} where it is not known.
        dtype: what its weights are held in.
    """
    texts = [len(t.encode()) for e in job.prompts.examples for t in (e.clean, e.corrupt or "")]
    tokens = math.ceil(max(texts, default=0) / _BYTES_A_TOKEN) + _EXTRA_TOKENS
    examples = max(1, len(job.prompts.examples))
    up = _FRAME_BYTES + _PAIR_BYTES * examples + sum(texts)
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    sizes = text_config or config
    if not sizes:
        return Footprint(None, tokens, up, None)
    return Footprint(
        _activations(job, sizes, dtype, tokens, examples),
        tokens,
        up,
        _bytes_down(job, sizes, tokens, examples),
    )


def _activations(
    job: Job, sizes: Mapping[str, Any], dtype: str, tokens: int, examples: int
) -> int | None:
    width, layers, heads = (_of(sizes, names) for names in (_WIDTH, _LAYERS, _HEADS))
    if width is None or layers is None or heads is None:
        return None
    inner = _of(sizes, _INNER) or 4 * width
    number = 4 if dtype == "float32" else 2
    row = number * (tokens * (8 * width + 3 * inner) + 4 * tokens * width) + 12 * heads * tokens**2
    kept = 2 * number * layers * tokens * width
    logits = 8 * (layers + 1) * tokens * int(sizes.get("vocab_size") or 50_000)
    graph = layers * row if "gradients" in job.card.needs else 0
    return (row + kept + logits + graph) * (examples if job.card.called_once else 1)


def _bytes_down(job: Job, sizes: Mapping[str, Any], tokens: int, examples: int) -> int:
    total = 0
    for output in job.card.returns.values():
        numbers = 1
        for dim in output.dims:
            numbers *= _size(dim, job.parameters, sizes, tokens)
        each = max(_NUMBER, kind_of_output(output).bytes if not kind_of_output(output).sized else 0)
        total += numbers * each * (1 if output.of == "set" else examples)
    return total


def _size(dim: str, parameters: Mapping[str, Any], sizes: Mapping[str, Any], tokens: int) -> int:
    """How many indices a dimension has, about."""
    if dim in POSITIONS:
        return tokens
    if dim == "layer":
        return (_of(sizes, _LAYERS) or 32) + 1
    if dim == "head":
        return _of(sizes, _HEADS) or 32
    if dim == DRAW:
        draws = [v for k, v in parameters.items() if k.endswith("draws") and isinstance(v, int)]
        return max(draws, default=_UNKNOWN_SIZE)
    for name in (dim, f"{dim}s"):
        value = parameters.get(name)
        if isinstance(value, list):
            return len(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return max(1, value)
    return _UNKNOWN_SIZE


def _of(sizes: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(sizes[n]) for n in names if isinstance(sizes.get(n), int)), None)
