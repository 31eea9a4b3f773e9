"""What recipes are made of. It travels to the server, so it imports torch, nnsight and
transformers' cache class only, and holds plain functions and plain classes.

- `vocabulary`: Site, Direction, Metric, PromptText
- `prompts`: what a recipe's body is called with
- `sites`: reading and writing activations by their names on any architecture
- `metrics`: from a final hidden state to numbers, in float32
- `heads`: attention weights, and what each head adds
- `grown_pass`, `sweeps`: exact sweeps, many cells a forward pass
- `ablations`, `tracing`: the sweeps of two techniques
- `gradients`: gradients of a metric at sites and inputs
- `generation`: continuing a prompt under edits
- `attention`, `outputs`: what the session around a recipe needs

The names below are the kit; a technique may take more from the modules. They are imported on first
use, so that reading the vocabulary does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_mi.interventions.generation import generate
    from remote_mi.interventions.gradients import input_gradients, random_directions, site_gradients
    from remote_mi.interventions.grown_pass import plain_pass, shared_base
    from remote_mi.interventions.heads import attention_weights, split_heads
    from remote_mi.interventions.metrics import (
        all_logits,
        answer_logits,
        answer_metric,
        has_unembedding,
        no_autocast,
        rank_of,
        top_tokens,
        unembed,
    )
    from remote_mi.interventions.prompts import Pair, Prompt
    from remote_mi.interventions.sites import (
        edit_site,
        edit_stream,
        head_count,
        is_causal,
        read_site,
        read_stream,
        reuses_prefix,
        run_residuals,
        skip_unembedding,
    )
    from remote_mi.interventions.sweeps import patch_heads, patch_positions, sweep_cells
    from remote_mi.interventions.vocabulary import Direction, Metric, PromptText, Site

_HOMES = {
    "shared_base": "grown_pass",
    "plain_pass": "grown_pass",
    "edit_stream": "sites",
    "generate": "generation",
    "input_gradients": "gradients",
    "random_directions": "gradients",
    "site_gradients": "gradients",
    "attention_weights": "heads",
    "split_heads": "heads",
    "all_logits": "metrics",
    "answer_logits": "metrics",
    "answer_metric": "metrics",
    "has_unembedding": "metrics",
    "no_autocast": "metrics",
    "rank_of": "metrics",
    "top_tokens": "metrics",
    "unembed": "metrics",
    "Pair": "prompts",
    "Prompt": "prompts",
    "edit_site": "sites",
    "head_count": "sites",
    "is_causal": "sites",
    "read_site": "sites",
    "read_stream": "sites",
    "reuses_prefix": "sites",
    "run_residuals": "sites",
    "skip_unembedding": "sites",
    "patch_heads": "sweeps",
    "patch_positions": "sweeps",
    "sweep_cells": "sweeps",
    "Direction": "vocabulary",
    "Metric": "vocabulary",
    "PromptText": "vocabulary",
    "Site": "vocabulary",
}

__all__ = [
    "Direction",
    "Metric",
    "Pair",
    "Prompt",
    "PromptText",
    "Site",
    "all_logits",
    "answer_logits",
    "answer_metric",
    "attention_weights",
    "edit_site",
    "edit_stream",
    "generate",
    "has_unembedding",
    "head_count",
    "input_gradients",
    "is_causal",
    "no_autocast",
    "patch_heads",
    "patch_positions",
    "plain_pass",
    "random_directions",
    "rank_of",
    "read_site",
    "read_stream",
    "reuses_prefix",
    "run_residuals",
    "shared_base",
    "site_gradients",
    "skip_unembedding",
    "split_heads",
    "sweep_cells",
    "top_tokens",
    "unembed",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
