"""The one block of code that runs where the model is, on every backend."""

from __future__ import annotations

from typing import Any

import nnsight
import torch

from remote_mi.backends.base import Work
from remote_mi.interventions.attention import use_attention
from remote_mi.interventions.outputs import settled
from remote_mi.recipes.loading import at_home


def run_session(lm: Any, work: Work, backend: Any = None) -> list[dict[str, Any]]:
    """Run all calls of a recipe inside one nnsight session.

    Args:
        lm: the model with portable names.
        work: the calls.
        backend: an nnsight backend; None runs here. One that only captures the block leaves
            nothing to return, and gives [].
    """
    # Plain locals: whatever the block names is captured and travels, so it names nothing else.
    function, parameters = work.function, dict(work.parameters)
    calls = [() if call is None else (call,) for call in work.calls]
    gradients, weights = work.gradients, "attention_weights" in work.card.needs
    outputs: list[dict[str, Any]] = []
    with at_home(function):
        with lm.session(backend=backend):
            before = use_attention(lm, "eager") if weights else ""
            try:
                with torch.set_grad_enabled(gradients):
                    outputs = [settled(function(lm, *call, **parameters)) for call in calls]
            finally:
                if weights:
                    use_attention(lm, before)
            nnsight.save(outputs)
    return outputs
