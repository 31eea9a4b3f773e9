"""Every technique as one writes it by hand in plain nnsight: a loop of traces, no helpers of ours.

Each function takes the model and plain numbers, and gives arrays of the names and shapes of its
namesake in `_techniques_worker.py`. It is called inside one session, so nothing is saved. Cells of
a sweep, [layer, position or head], are one trace each. Gradients are in `_by_hand_gradients.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Arrays = dict[str, torch.Tensor]


def difference(logits: torch.Tensor, answer: int, wrong: int) -> torch.Tensor:
    """Logit difference at the last position, [row]."""
    return logits[:, -1, answer] - logits[:, -1, wrong]


def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next tokens, [row]."""
    log_p = logits[:, :-1].log_softmax(-1)
    return -log_p.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)


def baseline(lm: Any, clean: list[int], corrupt: list[int], answer: int, wrong: int) -> Arrays:
    """What the model says to both prompts, [prompt]."""
    ids = torch.tensor([clean, corrupt])
    with lm.trace(input_ids=ids, use_cache=False, logits_to_keep=1):
        logits = lm.output.logits[:, -1]
    probs = logits.softmax(-1)
    return {
        "logit_diff": logits[:, answer] - logits[:, wrong],
        "prob": probs[:, answer],
        "prob_diff": probs[:, answer] - probs[:, wrong],
        "rank": (logits > logits[:, answer, None]).sum(-1),
        "top_prob": probs.topk(5).values,
    }


def logit_lens(lm: Any, ids: list[int], target: int) -> Arrays:
    """All layers and positions."""
    with lm.model.trace(input_ids=torch.tensor([ids]), use_cache=False):
        stream = [layer.output[0] for layer in lm.model.layers]
    final = lm.lm_head(lm.model.norm(stream[-1])).log_softmax(-1)
    rows = []
    for resid_post in stream:
        log_p = lm.lm_head(lm.model.norm(resid_post)).log_softmax(-1)
        rows.append(
            {
                "top_prob": log_p.topk(5).values.exp(),
                "target_prob": log_p[:, target].exp(),
                "target_rank": (log_p > log_p[:, target, None]).sum(-1),
                "kl": (final.exp() * (final - log_p)).sum(-1),
                "entropy": -(log_p.exp() * log_p).sum(-1),
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def activation_patching(
    lm: Any,
    clean: list[int],
    corrupt: list[int],
    answer: int,
    wrong: int,
    cells: list[list[int]],
) -> Arrays:
    """The clean stream before a layer put into the corrupt run at one position."""
    base = torch.tensor([corrupt])
    with lm.trace(input_ids=torch.tensor([clean]), use_cache=False, logits_to_keep=1):
        states = [layer.input for layer in lm.model.layers]
        of_clean = difference(lm.output.logits, answer, wrong)
    with lm.trace(input_ids=base, use_cache=False, logits_to_keep=1):
        unpatched = difference(lm.output.logits, answer, wrong)
    effects = [torch.zeros(0)]
    for layer, position in cells:
        with lm.trace(input_ids=base, use_cache=False, logits_to_keep=1):
            lm.model.layers[layer].input[:, position] = states[layer][:, position]
            score = difference(lm.output.logits, answer, wrong)
        effects.append(score - unpatched)
    return {"effect": torch.cat(effects), "gap": (of_clean - unpatched)[0]}


def head_patching(
    lm: Any,
    clean: list[int],
    corrupt: list[int],
    answer: int,
    wrong: int,
    cells: list[list[int]],
) -> Arrays:
    """The clean output of one head put into the corrupt run, at all positions."""
    base, d_head = torch.tensor([corrupt]), lm.config.head_dim
    with lm.trace(input_ids=torch.tensor([clean]), use_cache=False, logits_to_keep=1):
        states = [layer.self_attn.o_proj.input for layer in lm.model.layers]
        of_clean = difference(lm.output.logits, answer, wrong)
    with lm.trace(input_ids=base, use_cache=False, logits_to_keep=1):
        unpatched = difference(lm.output.logits, answer, wrong)
    effects = [torch.zeros(0)]
    for layer, head in cells:
        part = slice(head * d_head, (head + 1) * d_head)
        with lm.trace(input_ids=base, use_cache=False, logits_to_keep=1):
            lm.model.layers[layer].self_attn.o_proj.input[..., part] = states[layer][..., part]
            score = difference(lm.output.logits, answer, wrong)
        effects.append(score - unpatched)
    return {"effect": torch.cat(effects), "gap": (of_clean - unpatched)[0]}


def ablation(
    lm: Any, clean: list[int], answer: int, wrong: int, cells: list[list[int]], rest: bool = True
) -> Arrays:
    """attn_out at zero: single positions, and (`rest`) whole layers."""
    ids = torch.tensor([clean])
    with lm.trace(input_ids=ids, use_cache=False):
        plain = lm.output.logits
    base, plain_loss = difference(plain, answer, wrong), loss(plain, ids)
    effects, layers, losses = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0)]
    for layer, position in cells:
        with lm.trace(input_ids=ids, use_cache=False, logits_to_keep=1):
            lm.model.layers[layer].self_attn.o_proj.output[:, position] = 0
            score = difference(lm.output.logits, answer, wrong)
        effects.append(score - base)
    for layer in range(len(lm.model.layers) if rest else 0):
        with lm.trace(input_ids=ids, use_cache=False):
            lm.model.layers[layer].self_attn.o_proj.output[:] = 0
            logits = lm.output.logits
        layers.append(difference(logits, answer, wrong) - base)
        losses.append(loss(logits, ids) - plain_loss)
    return {
        "effect": torch.cat(effects),
        "layer_effect": torch.cat(layers),
        "loss_change": torch.cat(losses),
    }


def head_ablation(
    lm: Any, clean: list[int], answer: int, wrong: int, cells: list[list[int]]
) -> Arrays:
    """head_z at zero, all positions."""
    ids, d_head = torch.tensor([clean]), lm.config.head_dim
    with lm.trace(input_ids=ids, use_cache=False):
        plain = lm.output.logits
    base, plain_loss = difference(plain, answer, wrong), loss(plain, ids)
    effects, losses = [torch.zeros(0)], [torch.zeros(0)]
    for layer, head in cells:
        with lm.trace(input_ids=ids, use_cache=False):
            z = lm.model.layers[layer].self_attn.o_proj.input
            z[..., head * d_head : (head + 1) * d_head] = 0
            logits = lm.output.logits
        effects.append(difference(logits, answer, wrong) - base)
        losses.append(loss(logits, ids) - plain_loss)
    return {"effect": torch.cat(effects), "loss_change": torch.cat(losses)}


def causal_tracing(
    lm: Any, ids: list[int], target: int, noise: str, cells: list[list[int]]
) -> Arrays:
    """The clean stream after a layer put back at one position; all draws of noise in one batch."""
    added = torch.from_numpy(np.load(noise))
    batch = torch.tensor([ids] * len(added))
    with lm.trace(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1):
        states = [layer.output for layer in lm.model.layers]
        of_clean = lm.output.logits[0, -1].softmax(-1)[target]
    with lm.trace(input_ids=batch, use_cache=False, logits_to_keep=1):
        lm.model.embed_tokens.output += added
        base = lm.output.logits[:, -1].softmax(-1)[:, target]
    effects = [torch.zeros(0, len(added))]
    for layer, position in cells:
        with lm.trace(input_ids=batch, use_cache=False, logits_to_keep=1):
            lm.model.embed_tokens.output += added
            lm.model.layers[layer].output[:, position] = states[layer][:, position]
            score = lm.output.logits[:, -1].softmax(-1)[:, target]
        effects.append((score - base)[None])
    return {"effect": torch.cat(effects), "clean": of_clean, "corrupt": base.mean()}


def direct_logit_attribution(lm: Any, clean: list[int], answer: int, wrong: int) -> Arrays:
    """Heads, MLP layers and the embedding."""
    zs, mlps = [], []
    with lm.trace(input_ids=torch.tensor([clean]), use_cache=False, logits_to_keep=1):
        embedding = lm.model.embed_tokens.output[0, -1]
        for layer in lm.model.layers:
            zs.append(layer.self_attn.o_proj.input[0, -1])
            mlps.append(layer.mlp.output[0, -1])
        final = lm.model.norm.input[0, -1]
        logits = lm.output.logits
    scale = (final.square().mean() + lm.config.rms_norm_eps).rsqrt()
    direction = lm.lm_head.weight[answer] - lm.lm_head.weight[wrong]
    direction = direction * lm.model.norm.weight * scale
    heads = []
    for layer, z in zip(lm.model.layers, zs, strict=True):
        by_head = layer.self_attn.o_proj.weight.unflatten(1, (-1, lm.config.head_dim))
        added = torch.einsum("dhz,hz->hd", by_head, z.unflatten(0, (-1, lm.config.head_dim)))
        heads.append(added @ direction)
    head, mlp = torch.stack(heads), torch.stack(mlps) @ direction
    of_embedding = embedding @ direction
    return {
        "head": head,
        "embedding": of_embedding,
        "mlp": mlp,
        "sum": head.sum() + mlp.sum() + of_embedding,
        "logit_diff": difference(logits, answer, wrong)[0],
    }


def attention_patterns(lm: Any, ids: list[int]) -> Arrays:
    """All weights, and means over the queries after the first."""
    with lm.model.trace(input_ids=torch.tensor([ids]), use_cache=False):
        weights = [layer.self_attn.output[1][0] for layer in lm.model.layers]
    pattern = torch.stack(weights)
    place = torch.arange(len(ids))
    apart = (place[:, None] - place[None]).abs()
    return {
        "pattern": pattern,
        "first": pattern[..., 1:, 0].mean(-1),
        "entropy": torch.special.entr(pattern).sum(-1)[..., 1:].mean(-1),
        "distance": (pattern * apart).sum(-1)[..., 1:].mean(-1),
    }


def head_detectors(
    lm: Any, repeated: list[list[int]], others: list[list[int]], length: int
) -> Arrays:
    """Mean attention at offsets, and the loss of both halves; of both batches."""
    found = {}
    for prefix, rows in (("", repeated), ("control_", others)):
        ids = torch.tensor(rows)
        second = ids.shape[1] - length
        with lm.trace(input_ids=ids, use_cache=False):
            weights = [layer.self_attn.output[1] for layer in lm.model.layers]
            logits = lm.output.logits
        pattern = torch.stack(weights).transpose(1, 2)  # [layer, head, row, query, key]

        def back(offset: int, since: int, pattern: torch.Tensor = pattern) -> torch.Tensor:
            return pattern.diagonal(-offset, -2, -1)[..., since - offset :].mean(-1)

        log_p = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        found[f"{prefix}induction"] = back(length - 1, second)
        found[f"{prefix}duplicate_token"] = back(length, second)
        found[f"{prefix}loss_second"] = -log_p[:, second:].mean(-1)
        if not prefix:
            found["previous_token"] = back(1, 1)
            found["loss_first"] = -log_p[:, second - length : second - 1].mean(-1)
    return found


def linear_probe(lm: Any, prompts: list[list[int]]) -> Arrays:
    """The stream before each layer at the end of each prompt."""
    found = []
    for ids in prompts:
        with lm.model.trace(input_ids=torch.tensor([ids]), use_cache=False):
            states = [layer.input[0, -1] for layer in lm.model.layers]
        found.append(torch.stack(states))
    return {"activation": torch.stack(found)}
