"""The techniques of `_techniques_worker.py` that write text."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

Arrays = dict[str, torch.Tensor]


def difference(logits: torch.Tensor, answer: int, wrong: int) -> torch.Tensor:
    """Logit difference at the last position, [row]."""
    return logits[:, -1, answer] - logits[:, -1, wrong]


def steering(
    bridge: Any,
    pairs: list[dict[str, Any]],
    folds: list[list[int]],
    layer: int,
    coefficients: list[float],
    steps: int,
) -> Arrays:
    """Vectors of the other folds' pairs, added at the end of each corrupt prompt; one text."""
    name = f"blocks.{layer}.hook_resid_pre"
    vectors, clean, corrupt = [], [], []
    for pair in pairs:
        ends = []
        for side, scores in (("clean", clean), ("corrupt", corrupt)):
            logits, cache = bridge.run_with_cache(torch.tensor([pair[side]]), names_filter=name)
            ends.append(cache[name][0, -1])
            scores.append(difference(logits, pair["answer"], pair["wrong"])[0])
        vectors.append(ends[0] - ends[1])

    def add(stream: torch.Tensor, hook: Any, vector: torch.Tensor) -> torch.Tensor:
        stream[:, -1] += vector
        return stream

    effect = torch.zeros(len(pairs), len(coefficients))
    text = torch.zeros(0)
    for held_out in folds:
        sources = [i for i in range(len(pairs)) if i not in held_out]
        vector = torch.stack([vectors[i] for i in sources]).mean(0)
        for index in held_out:
            pair = pairs[index]
            ids = torch.tensor([pair["corrupt"]])
            for place, c in enumerate(coefficients):
                hook = (name, partial(add, vector=c * vector))
                logits = bridge.run_with_hooks(ids, fwd_hooks=[hook])
                effect[index, place] = (
                    difference(logits, pair["answer"], pair["wrong"])[0] - corrupt[index]
                )
        if not len(text) and steps:
            ids = torch.tensor([pairs[held_out[0]]["corrupt"]] * (1 + len(coefficients)))
            rows = torch.tensor([0.0, *coefficients])[:, None] * vector
            with bridge.hooks(fwd_hooks=[(name, partial(add, vector=rows))]):
                text = generated(bridge, ids, steps)
    return {
        "effect": effect,
        "clean": torch.stack(clean),
        "corrupt": torch.stack(corrupt),
        **({"text": text} if steps else {}),
    }


def generated(bridge: Any, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """Greedy continuations, [row, step]."""
    tokens = bridge.generate(
        ids,
        max_new_tokens=steps,
        do_sample=False,
        stop_at_eos=False,
        return_type="tokens",
        verbose=False,
    )
    return tokens[:, ids.shape[1] :]


def patchscopes(
    bridge: Any,
    ids: list[int],
    inspection: list[int],
    target: int,
    steps: int,
    cells: list[list[int]],
    rest: bool = True,
) -> Arrays:
    """States of a prompt read in another: single cells, and (`rest`) the text from each layer."""
    n_layers = bridge.cfg.n_layers
    _, cache = bridge.run_with_cache(torch.tensor([ids]))
    reader = torch.tensor([inspection])

    def put(stream: torch.Tensor, hook: Any, state: torch.Tensor) -> torch.Tensor:
        if stream.shape[1] > 1:  # a later step of the text holds one position
            stream[:, -1] = state
        return stream

    def hooked(layer: int, position: int) -> list[Any]:
        name = f"blocks.{layer}.hook_resid_pre"
        return [(name, partial(put, state=cache[name][0, position]))]

    probs, tops = [torch.zeros(0)], [torch.zeros(0, 5)]
    for layer, position in cells:
        logits = bridge.run_with_hooks(reader, fwd_hooks=hooked(layer, position))
        prob = logits[:, -1].softmax(-1)
        probs.append(prob[:, target])
        tops.append(prob.topk(5).values)
    texts = [generated(bridge, reader, steps if rest else 1)]
    for layer in range(n_layers if rest else 0):
        with bridge.hooks(fwd_hooks=hooked(layer, len(ids) - 1)):
            texts.append(generated(bridge, reader, steps))
    return {"target_prob": torch.cat(probs), "top_prob": torch.cat(tops), "text": torch.cat(texts)}
