"""What reads the stream after the last layer and gives the unembedding its input.

It is one module in most models, a norm. In others it is several, one after another, with an
elementwise function between some of them: a dense layer, GELU, a norm (RoBERTa). Each step is
proven on the twin: called on its input alone it gives its output, position by position; functions
between them are known by the numbers that the next step takes.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.models.structure.observation import SAME, Call, factor_between, same

#: A step: the name of the function before a module in transformers' table, or "", and its path.
Step = tuple[str, str]
#: How many modules may follow one another.
MOST = 6


def find_final(
    calls: Sequence[Call], last: Call, reads: Call
) -> tuple[list[Step], list[Call], float] | None:
    """The steps from the stream after a layer to the input of the unembedding.

    Args:
        last: the call of the last layer. reads: that of the unembedding.

    Returns:
        the steps, their calls, and the number by which the last one's output is multiplied; None
        if there are none.
    """
    runs = Counter(id(c.module) for c in calls)
    between = [
        c
        for c in calls
        # A module that runs twice has two outputs, of which interventions would see the first.
        if last.ended < c.began and c.ended < reads.began and runs[id(c.module)] == 1
    ]
    between.sort(key=lambda c: (c.began, -c.ended))  # the outermost first
    for call in between:  # one module, if one is enough
        if same(call.input, last.output) and is_step(call):
            scale = factor_between(call.output, reads.input)
            if scale is not None:
                return [("", call.path)], [call], scale
    steps: list[Step] = []
    taken: list[Call] = []
    state = last
    while len(steps) < MOST:
        found = _next(state, [c for c in between if c.began > state.ended])
        if found is None:
            return None
        steps.append((found[0], found[1].path))
        taken.append(found[1])
        state = found[1]
        scale = factor_between(state.output, reads.input)
        if scale is not None:
            return steps, taken, scale
    return None


def _next(state: Call, later: Sequence[Call]) -> tuple[str, Call] | None:
    """The outermost module that takes what another gives, or a function of it."""
    changing = [c for c in later if not same(c.input, c.output)]  # without dropout
    for call in changing:
        if same(call.input, state.output) and is_step(call):
            return "", call
    closest, found = SAME, None
    for call in changing:
        if call.input is None or call.input.numel() != state.output.numel():  # type: ignore[union-attr]
            continue
        size = float(call.input.norm())
        for name, function in _functions().items():
            gap = float((function(state.output).reshape(call.input.shape) - call.input).norm())
            if gap < closest * size and is_step(call):
                closest, found = gap / size, (name, call)
        if found is not None:
            return found
    return None


def is_step(call: Call) -> bool:
    """Whether a module maps each position of a stream, and needs nothing but the stream."""
    taken, given = call.input, call.output
    if taken is None or given is None or given.shape[:-1] != taken.shape[:-1]:
        return False
    other = taken.clone()
    flat = other.view(-1, other.shape[-1])
    flat[0] = flat[0].flip(0) + 1.0
    try:
        with torch.no_grad():
            again = call.module(other)
    except Exception:  # it needs more than the stream
        return False
    if not isinstance(again, torch.Tensor) or again.shape != given.shape:
        return False
    width = given.shape[-1]
    return same(again.reshape(-1, width)[1:], given.reshape(-1, width)[1:])


@functools.cache
def _functions() -> dict[str, Callable[[Any], torch.Tensor]]:
    """The elementwise functions of transformers that have no weights, by name."""
    from transformers.activations import ACT2FN

    found = {}
    for name in ACT2FN:
        try:
            function = ACT2FN[name]
            weights = isinstance(function, torch.nn.Module) and any(
                True for _ in function.parameters()
            )
            given = function(torch.linspace(-1, 1, 5))
        except Exception:  # one that needs parameters of its own
            continue
        if not weights and given.shape == (5,) and not same(given, torch.linspace(-1, 1, 5)):
            found[name] = function
    return found
