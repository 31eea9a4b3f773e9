"""The techniques of `_by_hand.py` that take gradients, and those that write text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _by_hand import Arrays, difference


def attribution_patching(
    lm: Any, clean: list[int], corrupt: list[int], answer: int, wrong: int
) -> Arrays:
    """First-order estimates of patching the stream, [layer, position]."""
    with (
        torch.no_grad(),
        lm.trace(input_ids=torch.tensor([clean]), use_cache=False, logits_to_keep=1),
    ):
        others = [layer.input[0] for layer in lm.model.layers]
        of_clean = difference(lm.output.logits, answer, wrong)[0]
    with lm.trace(input_ids=torch.tensor([corrupt]), use_cache=False, logits_to_keep=1):
        lm.model.embed_tokens.output.requires_grad_(True)
        acts = [layer.input for layer in lm.model.layers]
        of_corrupt = difference(lm.output.logits, answer, wrong)[0]
    gradients = torch.autograd.grad(of_corrupt, acts)
    effects = [
        ((other - act[0].detach()) * gradient[0]).sum(-1)
        for other, act, gradient in zip(others, acts, gradients, strict=True)
    ]
    return {"effect": torch.stack(effects), "gap": of_clean - of_corrupt.detach()}


def head_attribution(
    lm: Any, clean: list[int], corrupt: list[int], answer: int, wrong: int
) -> Arrays:
    """First-order estimates of patching heads, [layer, head]."""
    with (
        torch.no_grad(),
        lm.trace(input_ids=torch.tensor([clean]), use_cache=False, logits_to_keep=1),
    ):
        others = [layer.self_attn.o_proj.input[0] for layer in lm.model.layers]
        of_clean = difference(lm.output.logits, answer, wrong)[0]
    with lm.trace(input_ids=torch.tensor([corrupt]), use_cache=False, logits_to_keep=1):
        lm.model.embed_tokens.output.requires_grad_(True)
        acts = [layer.self_attn.o_proj.input for layer in lm.model.layers]
        of_corrupt = difference(lm.output.logits, answer, wrong)[0]
    gradients = torch.autograd.grad(of_corrupt, acts)
    effects = []
    for other, act, gradient in zip(others, acts, gradients, strict=True):
        product = (other - act[0].detach()) * gradient[0]
        effects.append(product.unflatten(-1, (-1, lm.config.head_dim)).sum((0, 2)))
    return {"effect": torch.stack(effects), "gap": of_clean - of_corrupt.detach()}


def integrated_gradients(
    lm: Any, clean: list[int], corrupt: list[int], answer: int, wrong: int, steps: int
) -> Arrays:
    """From the corrupt to the clean prompt's embeddings; all steps are rows of one trace."""
    both = lm.model.embed_tokens(torch.tensor([clean, corrupt]))
    points, weights = np.polynomial.legendre.leggauss(steps)
    alphas = torch.tensor((points + 1) / 2, dtype=torch.float32)
    change = both[0] - both[1]
    rows = (both[1] + alphas[:, None, None] * change).detach().requires_grad_(True)
    with lm.trace(input_ids=torch.tensor([clean] * steps), use_cache=False, logits_to_keep=1):
        lm.model.embed_tokens.output = rows
        score = difference(lm.output.logits, answer, wrong).sum()
    gradient = torch.autograd.grad(score, rows)[0]
    mean = (torch.tensor(weights / 2, dtype=torch.float32)[:, None, None] * gradient).sum(0)
    attribution = (change * mean).sum(-1)
    with (
        torch.no_grad(),
        lm.trace(input_ids=torch.tensor([clean, corrupt]), use_cache=False, logits_to_keep=1),
    ):
        ends = difference(lm.output.logits, answer, wrong)
    return {
        "attribution": attribution,
        "completeness_error": attribution.sum() - (ends[0] - ends[1]),
    }


def saliency(lm: Any, ids: list[int], target: int) -> Arrays:
    """Gradient norm, and gradient × input, of the target's logit."""
    with lm.trace(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1):
        x = lm.model.embed_tokens.output
        x.requires_grad_(True)
        score = lm.output.logits[0, -1, target]
    gradient = torch.autograd.grad(score, x)[0][0]
    return {
        "gradient_norm": gradient.norm(dim=-1),
        "gradient_x_input": (gradient * x[0].detach()).sum(-1),
    }


def steering(
    lm: Any,
    pairs: list[dict[str, Any]],
    folds: list[list[int]],
    layer: int,
    coefficients: list[float],
    steps: int,
) -> Arrays:
    """Vectors of the other folds' pairs, added at the end of each corrupt prompt; one text."""
    vectors, clean, corrupt = [], [], []
    for pair in pairs:
        ends = []
        for side, scores in (("clean", clean), ("corrupt", corrupt)):
            with lm.trace(input_ids=torch.tensor([pair[side]]), use_cache=False, logits_to_keep=1):
                end = lm.model.layers[layer].input[0, -1]
                score = difference(lm.output.logits, pair["answer"], pair["wrong"])[0]
            ends.append(end)
            scores.append(score)
        vectors.append(ends[0] - ends[1])
    effect = torch.zeros(len(pairs), len(coefficients))
    text = torch.zeros(0)
    for held_out in folds:
        sources = [i for i in range(len(pairs)) if i not in held_out]
        vector = torch.stack([vectors[i] for i in sources]).mean(0)
        for index in held_out:
            pair = pairs[index]
            ids = torch.tensor([pair["corrupt"]])
            for place, c in enumerate(coefficients):
                with lm.trace(input_ids=ids, use_cache=False, logits_to_keep=1):
                    lm.model.layers[layer].input[:, -1] += c * vector
                    score = difference(lm.output.logits, pair["answer"], pair["wrong"])[0]
                effect[index, place] = score - corrupt[index]
        if not len(text) and steps:
            ids = torch.tensor([pairs[held_out[0]]["corrupt"]] * (1 + len(coefficients)))
            rows = torch.tensor([0.0, *coefficients])[:, None] * vector
            with lm.generate(input_ids=ids, max_new_tokens=steps, do_sample=False) as tracer:
                for _ in tracer.iter[:steps]:
                    lm.model.layers[layer].input[:, -1] += rows
                tokens = tracer.result
            text = tokens[:, ids.shape[1] :]
    return {
        "effect": effect,
        "clean": torch.stack(clean),
        "corrupt": torch.stack(corrupt),
        **({"text": text} if steps else {}),
    }


def patchscopes(
    lm: Any,
    ids: list[int],
    inspection: list[int],
    target: int,
    steps: int,
    cells: list[list[int]],
    rest: bool = True,
) -> Arrays:
    """States of a prompt read in another: single cells, and (`rest`) the text from each layer."""
    reader = torch.tensor([inspection])
    with lm.model.trace(input_ids=torch.tensor([ids]), use_cache=False):
        states = [layer.input[0] for layer in lm.model.layers]
    probs, tops = [torch.zeros(0)], [torch.zeros(0, 5)]
    for layer, position in cells:
        with lm.trace(input_ids=reader, use_cache=False, logits_to_keep=1):
            lm.model.layers[layer].input[:, -1] = states[layer][position]
            prob = lm.output.logits[:, -1].softmax(-1)
        probs.append(prob[:, target])
        tops.append(prob.topk(5).values)
    texts = []
    for layer in range(-1, len(lm.model.layers) if rest else 0):
        with lm.generate(input_ids=reader, max_new_tokens=steps, do_sample=False) as tracer:
            if layer >= 0:
                lm.model.layers[layer].input[:, -1] = states[layer][-1]
            tokens = tracer.result
        texts.append(tokens[:, len(inspection) :])
    return {
        "target_prob": torch.cat(probs),
        "top_prob": torch.cat(tops),
        "text": torch.nn.utils.rnn.pad_sequence(
            [t[0] for t in texts], batch_first=True, padding_value=-1
        ),
    }
