"""What recipes are made of. It travels to the server, so it imports torch, nnsight and
transformers' cache class only, and holds plain functions and plain classes.

- `vocabulary`: Site, Direction, Metric
- `prompts`: what a recipe's body is called with
- `sites`: reading and writing activations by their names on any architecture
- `gradients`: gradients of a metric at activations and at the input
- `metrics`: from a final hidden state to numbers, in float32
- `heads`: what single components add to the stream and to a logit; attention weights
- `generation`: rows that join the run of a prompt, and greedy continuations
- `sweeps`: exact sweeps over cells, many of them a forward pass (`grown_pass`)
- `ablations`, `tracing`: what is put in place by ablation and by causal tracing

Names are imported on first use, so that reading the vocabulary does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_mi.interventions.ablations import (
        ablate_positions,
        ablate_whole,
        ablation_values,
        metric_and_loss,
        site_means,
    )
    from remote_mi.interventions.generation import generate, run_joined
    from remote_mi.interventions.gradients import (
        input_gradients,
        pair_gradients,
        path_gradients,
        pearson,
        random_directions,
        random_scores,
        run_embeddings,
        site_gradients,
        token_embeddings,
        top_token,
    )
    from remote_mi.interventions.grown_pass import plain_pass, shared_base
    from remote_mi.interventions.heads import (
        attention_weights,
        freeze_norm,
        linear_logits,
        refuse_other_streams,
        split_heads,
        stream_parts,
    )
    from remote_mi.interventions.metrics import (
        answer_logits,
        answer_metric,
        log_normalizer,
        no_autocast,
        soft_cap,
        unembed,
    )
    from remote_mi.interventions.prompts import Pair, Prompt
    from remote_mi.interventions.sites import (
        edit_site,
        head_count,
        is_causal,
        read_site,
        reuses_prefix,
        run_residuals,
        skip_unembedding,
        text_config,
    )
    from remote_mi.interventions.sweeps import (
        first_changed,
        patch_heads,
        patch_positions,
        sweep_cells,
    )
    from remote_mi.interventions.tracing import embedding_noise, embedding_std, restore_states
    from remote_mi.interventions.vocabulary import Direction, Metric, PromptText, Site

_HOMES = {
    "is_causal": "sites",
    "ablate_positions": "ablations",
    "ablate_whole": "ablations",
    "ablation_values": "ablations",
    "metric_and_loss": "ablations",
    "site_means": "ablations",
    "plain_pass": "grown_pass",
    "shared_base": "grown_pass",
    "first_changed": "sweeps",
    "sweep_cells": "sweeps",
    "embedding_noise": "tracing",
    "embedding_std": "tracing",
    "restore_states": "tracing",
    "generate": "generation",
    "run_joined": "generation",
    "pearson": "gradients",
    "input_gradients": "gradients",
    "pair_gradients": "gradients",
    "path_gradients": "gradients",
    "random_directions": "gradients",
    "random_scores": "gradients",
    "run_embeddings": "gradients",
    "site_gradients": "gradients",
    "token_embeddings": "gradients",
    "top_token": "gradients",
    "soft_cap": "metrics",
    "text_config": "sites",
    "skip_unembedding": "sites",
    "log_normalizer": "metrics",
    "answer_logits": "metrics",
    "stream_parts": "heads",
    "split_heads": "heads",
    "refuse_other_streams": "heads",
    "linear_logits": "heads",
    "freeze_norm": "heads",
    "attention_weights": "heads",
    "answer_metric": "metrics",
    "no_autocast": "metrics",
    "unembed": "metrics",
    "Pair": "prompts",
    "Prompt": "prompts",
    "head_count": "sites",
    "read_site": "sites",
    "reuses_prefix": "sites",
    "run_residuals": "sites",
    "edit_site": "sites",
    "patch_heads": "sweeps",
    "patch_positions": "sweeps",
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
    "ablate_positions",
    "ablate_whole",
    "ablation_values",
    "answer_logits",
    "answer_metric",
    "attention_weights",
    "edit_site",
    "embedding_noise",
    "embedding_std",
    "first_changed",
    "freeze_norm",
    "generate",
    "head_count",
    "input_gradients",
    "is_causal",
    "linear_logits",
    "log_normalizer",
    "metric_and_loss",
    "no_autocast",
    "pair_gradients",
    "patch_heads",
    "patch_positions",
    "path_gradients",
    "pearson",
    "plain_pass",
    "random_directions",
    "random_scores",
    "read_site",
    "refuse_other_streams",
    "restore_states",
    "reuses_prefix",
    "run_embeddings",
    "run_joined",
    "run_residuals",
    "shared_base",
    "site_gradients",
    "site_means",
    "skip_unembedding",
    "soft_cap",
    "split_heads",
    "stream_parts",
    "sweep_cells",
    "text_config",
    "token_embeddings",
    "top_token",
    "unembed",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
