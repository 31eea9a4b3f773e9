"""The building blocks of recipes. The code is sent to the server, so it imports only torch,
nnsight and transformers' cache class, and consists of plain functions and plain classes.

One idea: *a sweep replaces an activation and measures the end of the run.*

The names below are the kit. They are imported on first use, so that reading the vocabulary does
not import torch. Everything else in these modules supports them and the session around a recipe,
and may change; declaring, finding and sending recipes happens elsewhere.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_mi.interventions.attribution import (
        correlation,
        embeddings,
        gradients,
        input_gradients,
        random_like,
        random_scores,
    )
    from remote_mi.interventions.components import direct_logits
    from remote_mi.interventions.edited_runs import edited
    from remote_mi.interventions.encoder_decoder import model_inputs
    from remote_mi.interventions.forward import by_layer, changes, end_logits, run, stack
    from remote_mi.interventions.generation import generate, row_seeds
    from remote_mi.interventions.means import mean_activations
    from remote_mi.interventions.measures import choice_log_probs, measure
    from remote_mi.interventions.memory import rows_that_fit
    from remote_mi.interventions.model_info import info
    from remote_mi.interventions.noise import embedding_noise
    from remote_mi.interventions.paths import receive, receivers, send
    from remote_mi.interventions.ports import Port
    from remote_mi.interventions.prompts import Pair, Prompt
    from remote_mi.interventions.readout import (
        logits,
        predictions,
        rank_of,
        token_losses,
        top_tokens,
        unembed,
        unembed_each,
    )
    from remote_mi.interventions.rows import prompt_losses, yes_probs
    from remote_mi.interventions.shuffles import shuffled_classes
    from remote_mi.interventions.sites import edit, read
    from remote_mi.interventions.sweeps import sweep
    from remote_mi.interventions.together import replace_sets, sets_of_parts
    from remote_mi.interventions.vocabulary import (
        Artifact,
        Average,
        Direction,
        Metric,
        Prompts,
        PromptText,
        Site,
    )

_HOMES = {
    "attribution": [
        "correlation",
        "embeddings",
        "gradients",
        "input_gradients",
        "random_like",
        "random_scores",
    ],
    "components": ["direct_logits"],
    "edited_runs": ["edited"],
    "encoder_decoder": ["model_inputs"],
    "forward": ["by_layer", "changes", "end_logits", "run", "stack"],
    "generation": ["generate", "row_seeds"],
    "means": ["mean_activations"],
    "measures": ["choice_log_probs", "measure"],
    "memory": ["rows_that_fit"],
    "model_info": ["info"],
    "noise": ["embedding_noise"],
    "paths": ["receive", "receivers", "send"],
    "prompts": ["Pair", "Prompt"],
    "readout": [
        "logits",
        "predictions",
        "rank_of",
        "token_losses",
        "top_tokens",
        "unembed",
        "unembed_each",
    ],
    "rows": ["prompt_losses", "yes_probs"],
    "shuffles": ["shuffled_classes"],
    "sites": ["Port", "edit", "read"],
    "sweeps": ["sweep"],
    "together": ["replace_sets", "sets_of_parts"],
    "vocabulary": ["Artifact", "Average", "Direction", "Metric", "PromptText", "Prompts", "Site"],
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "Average",
    "Direction",
    "Metric",
    "Pair",
    "Port",
    "Prompt",
    "PromptText",
    "Prompts",
    "Site",
    "by_layer",
    "changes",
    "choice_log_probs",
    "correlation",
    "direct_logits",
    "edit",
    "edited",
    "embedding_noise",
    "embeddings",
    "end_logits",
    "generate",
    "gradients",
    "info",
    "input_gradients",
    "logits",
    "mean_activations",
    "measure",
    "model_inputs",
    "predictions",
    "prompt_losses",
    "random_like",
    "random_scores",
    "rank_of",
    "read",
    "receive",
    "receivers",
    "replace_sets",
    "row_seeds",
    "rows_that_fit",
    "run",
    "send",
    "sets_of_parts",
    "shuffled_classes",
    "stack",
    "sweep",
    "token_losses",
    "top_tokens",
    "unembed",
    "unembed_each",
    "yes_probs",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
