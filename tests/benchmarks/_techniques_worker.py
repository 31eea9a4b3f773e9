"""Every technique as one writes it with TransformerLens: answers as `_transformerlens_worker.py`.

    {"do": "load", "folder": F, "threads": 2}
    {"do": "technique", "name": N, "to": FILE, …}   the arguments of the function named N below

Each function gives arrays, which go to an .npz file. `cells` are the cells of a sweep that are run,
[layer, position or head]; each is one forward pass. Weights are neither folded nor centred, and
frozen, so that backward passes compute no gradients of them.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from _serving import serve
from _techniques_texts import difference, patchscopes, steering
from _transformerlens_worker import Worker
from pandas import DataFrame
from transformer_lens import patching

Arrays = dict[str, torch.Tensor]


def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next tokens, [row]."""
    log_p = logits[:, :-1].log_softmax(-1)
    return -log_p.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)


def baseline(bridge: Any, clean: list[int], corrupt: list[int], answer: int, wrong: int) -> Arrays:
    """What the model says to both prompts, [prompt]."""
    logits = bridge(torch.tensor([clean, corrupt]))[:, -1]
    probs = logits.softmax(-1)
    return {
        "logit_diff": logits[:, answer] - logits[:, wrong],
        "prob": probs[:, answer],
        "prob_diff": probs[:, answer] - probs[:, wrong],
        "rank": (logits > logits[:, answer, None]).sum(-1),
        "top_prob": probs.topk(5).values,
    }


def logit_lens(bridge: Any, ids: list[int], target: int) -> Arrays:
    """All layers and positions."""
    names = {f"blocks.{layer}.hook_resid_post" for layer in range(bridge.cfg.n_layers)}
    _, cache = bridge.run_with_cache(torch.tensor([ids]), names_filter=lambda n: n in names)
    rows = []
    stream = [cache["resid_post", layer] for layer in range(bridge.cfg.n_layers)]
    final = bridge.unembed(bridge.ln_final(stream[-1]))[0].log_softmax(-1)
    for resid_post in stream:
        log_p = bridge.unembed(bridge.ln_final(resid_post))[0].log_softmax(-1)
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


def patched(
    bridge: Any,
    sweep: Any,
    axis: str,
    clean: list[int],
    corrupt: list[int],
    answer: int,
    wrong: int,
    cells: list[list[int]],
) -> Arrays:
    """A sweep of `transformer_lens.patching`, over some of its cells."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return difference(logits, answer, wrong)[0]

    base = torch.tensor([corrupt])
    logits, cache = bridge.run_with_cache(torch.tensor([clean]))
    unpatched = metric(bridge(base))
    effect = torch.zeros(0)
    if cells:
        index = DataFrame(cells, columns=["layer", axis])
        effect = sweep(bridge, base, cache, metric, index_axis_names=None, index_df=index)
    return {"effect": effect - unpatched, "gap": metric(logits) - unpatched}


def zero(x: torch.Tensor, hook: Any, position: Any = slice(None)) -> torch.Tensor:
    """Nothing at a position, or at all."""
    x[:, position] = 0
    return x


def zero_head(z: torch.Tensor, hook: Any, head: int) -> torch.Tensor:
    """Nothing from one head; [row, position, head, d_head]."""
    z[:, :, head] = 0
    return z


def ablation(
    bridge: Any,
    clean: list[int],
    answer: int,
    wrong: int,
    cells: list[list[int]],
    rest: bool = True,
) -> Arrays:
    """attn_out at zero: single positions, and (`rest`) whole layers."""
    ids = torch.tensor([clean])
    plain = bridge(ids)
    base, plain_loss = difference(plain, answer, wrong), loss(plain, ids)
    effects, layers, losses = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0)]
    for layer, position in cells:
        hook = (f"blocks.{layer}.hook_attn_out", partial(zero, position=position))
        effects.append(
            difference(bridge.run_with_hooks(ids, fwd_hooks=[hook]), answer, wrong) - base
        )
    for layer in range(bridge.cfg.n_layers if rest else 0):
        logits = bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.hook_attn_out", zero)])
        layers.append(difference(logits, answer, wrong) - base)
        losses.append(loss(logits, ids) - plain_loss)
    return {
        "effect": torch.cat(effects),
        "layer_effect": torch.cat(layers),
        "loss_change": torch.cat(losses),
    }


def head_ablation(
    bridge: Any, clean: list[int], answer: int, wrong: int, cells: list[list[int]]
) -> Arrays:
    """head_z at zero, all positions."""
    ids = torch.tensor([clean])
    plain = bridge(ids)
    base, plain_loss = difference(plain, answer, wrong), loss(plain, ids)
    effects, losses = [torch.zeros(0)], [torch.zeros(0)]
    for layer, head in cells:
        hook = (f"blocks.{layer}.attn.hook_z", partial(zero_head, head=head))
        logits = bridge.run_with_hooks(ids, fwd_hooks=[hook])
        effects.append(difference(logits, answer, wrong) - base)
        losses.append(loss(logits, ids) - plain_loss)
    return {"effect": torch.cat(effects), "loss_change": torch.cat(losses)}


def causal_tracing(
    bridge: Any, ids: list[int], target: int, noise: str, cells: list[list[int]]
) -> Arrays:
    """The clean stream after a layer put back at one position; all draws of noise in one batch."""
    added = torch.from_numpy(np.load(noise))
    batch = torch.tensor([ids] * len(added))
    logits, cache = bridge.run_with_cache(torch.tensor([ids]))
    of_clean = logits[0, -1].softmax(-1)[target]

    def with_noise(embedded: torch.Tensor, hook: Any) -> torch.Tensor:
        return embedded + added

    def restore(state: torch.Tensor, hook: Any, clean: torch.Tensor, position: int) -> Any:
        state[:, position] = clean[:, position]
        return state

    noised = bridge.run_with_hooks(batch, fwd_hooks=[("hook_embed", with_noise)])
    base = noised[:, -1].softmax(-1)[:, target]
    effects = [torch.zeros(0, len(added))]
    for layer, position in cells:
        edit = partial(restore, clean=cache["resid_post", layer], position=position)
        put = (f"blocks.{layer}.hook_resid_post", edit)
        logits = bridge.run_with_hooks(batch, fwd_hooks=[("hook_embed", with_noise), put])
        effects.append((logits[:, -1].softmax(-1)[:, target] - base)[None])
    return {"effect": torch.cat(effects), "clean": of_clean, "corrupt": base.mean()}


def direct_logit_attribution(bridge: Any, clean: list[int], answer: int, wrong: int) -> Arrays:
    """Heads, MLP layers and the embedding."""
    logits, cache = bridge.run_with_cache(torch.tensor([clean]))
    heads = cache.stack_head_results(pos_slice=-1)
    others = cache.decompose_resid(mode="mlp", pos_slice=-1)
    stack = cache.apply_ln_to_stack(torch.cat([heads, others]), pos_slice=-1)[:, 0]
    direction = bridge.W_U[:, answer] - bridge.W_U[:, wrong]
    found = (stack * bridge.ln_final.weight) @ direction
    count = len(heads)
    return {
        "head": found[:count].reshape(bridge.cfg.n_layers, -1),
        "embedding": found[count],
        "mlp": found[count + 1 :],
        "sum": found.sum(),
        "logit_diff": difference(logits, answer, wrong)[0],
    }


def patterns(bridge: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits; attention, [layer, row, head, query, key]."""
    logits, cache = bridge.run_with_cache(ids, names_filter=lambda n: n.endswith("hook_pattern"))
    return logits, torch.stack([cache["pattern", i] for i in range(bridge.cfg.n_layers)])


def attention_patterns(bridge: Any, ids: list[int]) -> Arrays:
    """All weights, and means over the queries after the first."""
    pattern = patterns(bridge, torch.tensor([ids]))[1][:, 0]
    place = torch.arange(len(ids))
    apart = (place[:, None] - place[None]).abs()
    return {
        "pattern": pattern,
        "first": pattern[..., 1:, 0].mean(-1),
        "entropy": torch.special.entr(pattern).sum(-1)[..., 1:].mean(-1),
        "distance": (pattern * apart).sum(-1)[..., 1:].mean(-1),
    }


def head_detectors(
    bridge: Any, repeated: list[list[int]], others: list[list[int]], length: int
) -> Arrays:
    """Mean attention at offsets, and the loss of both halves; of both batches."""
    found = {}
    for prefix, rows in (("", repeated), ("control_", others)):
        ids = torch.tensor(rows)
        second = ids.shape[1] - length
        logits, pattern = patterns(bridge, ids)
        pattern = pattern.transpose(1, 2)  # [layer, head, row, query, key]

        def back(offset: int, since: int, pattern: torch.Tensor = pattern) -> torch.Tensor:
            return pattern.diagonal(-offset, -2, -1)[..., since - offset :].mean(-1)

        log_p = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        found |= {
            f"{prefix}induction": back(length - 1, second),
            f"{prefix}duplicate_token": back(length, second),
            f"{prefix}loss_second": -log_p[:, second:].mean(-1),
        }
        if not prefix:
            found["previous_token"] = back(1, 1)
            found["loss_first"] = -log_p[:, second - length : second - 1].mean(-1)
    return found


def attributed(
    bridge: Any,
    hook: str,
    heads: bool,
    clean: list[int],
    corrupt: list[int],
    answer: int,
    wrong: int,
) -> Arrays:
    """First-order estimates of patching clean into corrupt, by backward hooks."""
    names = [f"blocks.{layer}.{hook}" for layer in range(bridge.cfg.n_layers)]
    logits, others = bridge.run_with_cache(torch.tensor([clean]), names_filter=names)
    acts: Arrays = {}
    gradients: Arrays = {}

    def start(embedded: torch.Tensor, hook: Any) -> torch.Tensor:
        return embedded.detach().requires_grad_(True)

    def keep(tensor: torch.Tensor, hook: Any, into: Arrays, name: str) -> None:
        into[name] = tensor.detach()  # the hook's own name may be another one

    with (
        torch.enable_grad(),
        bridge.hooks(
            fwd_hooks=[
                ("hook_embed", start),
                *((name, partial(keep, into=acts, name=name)) for name in names),
            ],
            bwd_hooks=[(name, partial(keep, into=gradients, name=name)) for name in names],
        ),
    ):
        value = difference(bridge(torch.tensor([corrupt])), answer, wrong)[0]
        value.backward()
    product = torch.stack([((others[n] - acts[n]) * gradients[n])[0] for n in names])
    effect = product.sum((1, 3)) if heads else product.sum(-1)
    return {"effect": effect, "gap": difference(logits, answer, wrong)[0] - value.detach()}


def linear_probe(bridge: Any, prompts: list[list[int]]) -> Arrays:
    """The stream before each layer at the end of each prompt."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(bridge.cfg.n_layers)]
    found = []
    for ids in prompts:
        _, cache = bridge.run_with_cache(torch.tensor([ids]), names_filter=names)
        found.append(torch.stack([cache[name][0, -1] for name in names]))
    return {"activation": torch.stack(found)}


TECHNIQUES: dict[str, Any] = {
    "baseline": baseline,
    "logit_lens": logit_lens,
    "activation_patching": partial(patched, sweep=patching.get_act_patch_resid_pre, axis="pos"),
    "head_patching": partial(
        patched, sweep=patching.get_act_patch_attn_head_out_all_pos, axis="head"
    ),
    "ablation": ablation,
    "head_ablation": head_ablation,
    "causal_tracing": causal_tracing,
    "direct_logit_attribution": direct_logit_attribution,
    "attention_patterns": attention_patterns,
    "head_detectors": head_detectors,
    "attribution_patching": partial(attributed, hook="hook_resid_pre", heads=False),
    "head_attribution": partial(attributed, hook="attn.hook_z", heads=True),
    "steering": steering,
    "linear_probe": linear_probe,
    "patchscopes": patchscopes,
}


class TechniqueWorker(Worker):
    """Holds the model between requests."""

    def technique(self, name: str, to: str, **request: Any) -> dict[str, Any]:
        """One technique: its seconds, its arrays in a file."""
        self.bridge.requires_grad_(False)
        begun = time.perf_counter()
        found = TECHNIQUES[name](self.bridge, **request)
        taken = time.perf_counter() - begun
        np.savez(to, **{key: value.detach().numpy() for key, value in found.items()})
        return {"seconds": taken}


if __name__ == "__main__":
    worker = TechniqueWorker()
    serve({"load": worker.load, "technique": worker.technique})
