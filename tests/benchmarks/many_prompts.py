"""What many prompts cost, compared with what a batch of them costs.

For each technique, three ways in turn, on the embedded model and the IOI phenomenon:

    ours       the built-in recipe by `LocalBackend`, as a local run executes it
    alone      the same, with a pass of its own for each call
    bare       the forward passes alone, by plain torch: prompts of one length are rows of passes
               of at most 2,048 tokens, to the final norm; for the lens also its unembeddings, with
               their log-softmax; for the baseline the logits where the answer is read

Seconds are of this process's CPU time, on one thread, so that other work on the machine changes them
little. The ratios are ours over each of the two, of the minima. The goal is 1.5 times bare at most.
How far apart the outputs of `ours` and `alone` are is said, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    arguments,
    at_least_one,
    conditions,
    describe,
    load_embedded,
    report,
    seconds,
    work_of,
)

TOKENS, STATES = 2048, 512
#: Technique → what its body is called with, and its parameters.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("pair", {}),
    "logit_lens": ("prompt", {}),
    "linear_probe": ("prompt", {}),
    "attention_patterns": ("prompt", {}),
}


def calls_of(model: Any, over: str, count: int) -> list[Any]:
    """Tokenized pairs of the IOI phenomenon, or their clean prompts."""
    from remote_mi.models.spec import ModelSpec
    from remote_mi.prompts import phenomena
    from remote_mi.prompts.tokens import tokenize

    prompts = phenomena.find("ioi", Path(__file__).parent).prompts(count, None, None)
    spec = ModelSpec(dtype="float32", device="cpu", bos="never")
    pairs = tokenize(model.tokenizer, prompts, spec, "pair", model.context).prompts
    return pairs if over == "pair" else [pair.clean for pair in pairs]


def batches(calls: list[Any]) -> Iterator[torch.Tensor]:
    """Token ids of all prompts, [row, position], prompts of one length together."""
    by_length: dict[int, list[list[int]]] = {}
    for call in calls:
        for prompt in [call.clean, call.corrupt] if hasattr(call, "clean") else [call]:
            by_length.setdefault(len(prompt.ids), []).append(prompt.ids)
    for length, rows in by_length.items():
        yield from torch.tensor(rows).split(max(1, TOKENS // length))


def bare(model: Any, recipe: str, calls: list[Any]) -> None:
    """The passes of a technique, and its unembeddings, in plain torch."""
    whole = model.lm._module
    kept: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _a, output: kept.append(output))
        for layer in whole.model.layers
    ]
    with torch.no_grad():
        for ids in batches(calls):
            kept.clear()
            weights = recipe == "attention_patterns"
            hidden = whole.model(ids, use_cache=False, output_attentions=weights).last_hidden_state
            if recipe == "baseline":
                whole.lm_head(hidden[:, -1])
            if recipe == "logit_lens":
                for states in torch.stack(kept).flatten(0, 2).split(STATES):
                    whole.lm_head(whole.model.norm(states)).log_softmax(-1)
    for hook in hooks:
        hook.remove()


def run(model: Any, recipe: str, calls: list[Any], together: bool) -> list[dict[str, Any]]:
    """The outputs of a built-in recipe for each call, by the local backend."""
    from remote_mi.backends.local.backend import LocalBackend
    from remote_mi.common.progress import Silent

    backend, work = LocalBackend(), work_of(recipe, *calls, **CASES[recipe][1])
    outputs = []
    for part in [calls] if together else [[call] for call in calls]:
        ticket = backend.submit(model, replace(work, calls=part), Silent())
        outputs += backend.collect(ticket, Silent())
    return outputs


def largest_difference(ours: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Over all numbers of all calls; token ids are compared like numbers."""
    return max(
        float(np.nanmax(np.abs(mine[name].astype(float) - theirs[name].astype(float))))
        for mine, theirs in zip(ours, other, strict=True)
        for name in mine
        if mine[name].size
    )


def measure(model: Any, recipe: str, count: int, repeat: int) -> dict[str, Any]:
    """Seconds of the three ways, and how far the outputs are apart."""
    calls = calls_of(model, CASES[recipe][0], count)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: run(model, recipe, calls, True),
        "alone": lambda: run(model, recipe, calls, False),
        "bare": lambda: bare(model, recipe, calls),
    }
    apart = largest_difference(ways["ours"](), ways["alone"]())  # also the warm-up
    rounds = [{name: seconds(way)[1] for name, way in ways.items()} for _ in range(repeat)]
    least = {name: min(taken[name] for taken in rounds) for name in ways}
    return {"recipe": recipe, "calls": count, "seconds": least, "difference": apart}


def main() -> None:
    """Measure each technique, and print a line for it."""
    parser = arguments(__doc__)
    parser.add_argument("--calls", type=at_least_one, default=200)
    parser.add_argument("--repeat", type=at_least_one, default=3)
    parser.add_argument("recipes", nargs="*", default=list(CASES))
    options = parser.parse_args()
    before = conditions("torch", "transformers", "nnsight")
    found = []
    for recipe in options.recipes:
        attention = "eager" if recipe == "attention_patterns" else "auto"
        model = load_embedded(1, attention)
        found.append(measure(model, recipe, options.calls, options.repeat))
    rows = [
        [
            one["recipe"],
            *(f"{one['seconds'][name]:.2f}" for name in ("ours", "alone", "bare")),
            f"{one['seconds']['ours'] / one['seconds']['bare']:.2f}",
            f"{one['seconds']['alone'] / one['seconds']['ours']:.1f}",
            f"{one['difference']:.1e}",
        ]
        for one in found
    ]
    report(
        f"{options.calls} prompts or pairs, one thread, CPU time, minimum of {options.repeat}",
        ["technique", "ours (s)", "alone (s)", "bare (s)", "ours/bare", "alone/ours", "apart"],
        rows,
        [describe(before)],
        {"conditions": before, "techniques": found},
        options.json,
    )


if __name__ == "__main__":
    main()
