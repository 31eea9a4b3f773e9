"""What recipes are made of. It travels to the server, so it imports torch, nnsight and
transformers' cache class only, and holds plain functions and plain classes.

- `vocabulary`: Site, Direction, Metric
- `prompts`: what a recipe's body is called with
- `sites`: reading and writing activations by their names on any architecture
- `metrics`: from a final hidden state to numbers, in float32
- `sweeps`: exact patching sweeps, many cells a forward pass

Names are imported on first use, so that reading the vocabulary does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_mi.interventions.metrics import (
        answer_metric,
        no_autocast,
        unembed,
    )
    from remote_mi.interventions.prompts import Pair, Prompt
    from remote_mi.interventions.sites import (
        edit_site,
        head_count,
        read_site,
        reuses_prefix,
        run_residuals,
    )
    from remote_mi.interventions.sweeps import patch_heads, patch_positions
    from remote_mi.interventions.vocabulary import Direction, Metric, Site

_HOMES = {
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
    "Site": "vocabulary",
}

__all__ = [
    "Direction",
    "Metric",
    "Pair",
    "Prompt",
    "Site",
    "answer_metric",
    "edit_site",
    "head_count",
    "no_autocast",
    "patch_heads",
    "patch_positions",
    "read_site",
    "reuses_prefix",
    "run_residuals",
    "unembed",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
