"""Attention patterns."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import Heatmap, recipe
from remote_mi.interventions import Prompt, info, run, stack


@recipe(
    over="prompt",
    returns={
        "pattern": ("layer", "head", "query", "key"),
        "first": ("layer", "head"),
        "entropy": ("layer", "head"),
        "distance": ("layer", "head"),
        "uniform_first": ("layer",),
        "uniform_entropy": ("layer",),
        "uniform_distance": ("layer",),
    },
    controls={"first": "uniform_first"},
    evidence="observational",
    figures=[
        Heatmap("first", title="attention to the first position"),
        Heatmap("entropy", unit="nats"),
        Heatmap("distance", unit="positions"),
        Heatmap("pattern", rows="query", columns="key"),
    ],
    needs=("attention_weights",),
    references=["elhage2021framework", "xiao2023sinks"],
)
def attention_patterns(
    lm: Any, prompt: Prompt, *, layers: list[int] | None = None
) -> dict[str, Any]:
    """What every attention head attends to.

    Run the prompt and read the attention weights a as computed by the model: each head's softmax
    over the keys that a query sees, a[query, key], which sums to 1. Averaged over the queries
    after the first (which, in a causal model, sees only itself):

        first    = a[q, 0]                      attention to the first position (an attention sink)
        entropy  = −Σ_k a[q, k] log a[q, k]     0: one key; log(keys): all keys equally
        distance = Σ_k a[q, k] · |q − k|        how far away it attends

    Entropy in nats, distance in positions. Attention is not the amount of information moved: a
    head that attends to the first position often adds almost nothing.
    Control: `uniform_…` is the same for a head that attends equally to all keys that a query sees
    (in a layer with a sliding window: those within it).
    Cost: 1 forward pass, with eager attention.
    What this does not show: what a head moves, and whether anything uses it: a head can attend to a
    token and write nothing of it, and at late positions a token's state is about much more than the
    token. A pattern that looks meaningful is no evidence of a mechanism; ablate or patch the head
    to test one.
    Not implemented: weighting by the size of what is moved (value-weighted patterns).

    Args:
        layers: which layers to return, counted from 0; all by default.
    """
    wanted = info(lm).chosen(layers)
    weights = run(lm, prompt, "attn_pattern", layers=wanted).values
    pattern = stack([weights[layer][0] for layer in wanted])
    seen = (pattern > 0).any(1)  # weights of hidden keys are exactly 0; [layer, query, key]
    uniform = summaries(seen / seen.sum(-1, keepdim=True))
    return {
        "pattern": pattern,
        **summaries(pattern),
        **{f"uniform_{name}": values for name, values in uniform.items()},
    }


def summaries(pattern: torch.Tensor) -> dict[str, torch.Tensor]:
    """Means over the queries after the first: from [..., query, key] to three tensors [...]."""
    place = torch.arange(pattern.shape[-1], device=pattern.device)
    apart = (place[:, None] - place[None]).abs()
    by_query = {
        "first": pattern[..., 0],
        "entropy": torch.special.entr(pattern).sum(-1),
        "distance": (pattern * apart).sum(-1),
    }
    start = min(1, pattern.shape[-2] - 1)  # a prompt of one token has but one query
    return {name: values[..., start:].mean(-1) for name, values in by_query.items()}
