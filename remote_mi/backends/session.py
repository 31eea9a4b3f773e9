"""The one block of code that runs where the model is, on every backend."""

from __future__ import annotations

from typing import Any

import nnsight
import torch

from remote_mi.backends.base import Work
from remote_mi.interventions.session import placed, settled, use_attention
from remote_mi.interventions.shared_passes import share_passes
from remote_mi.recipes.loading import recipe_imports


def run_setup(lm: Any, work: Work) -> tuple[Any, ...]:
    """Run a recipe's setup here; a 1-tuple of what it returns for all calls, or () without one."""
    setup, together, parameters = work.setup, list(work.together), dict(work.parameters)
    if setup is None:
        return ()
    shared: tuple[Any, ...] = ()
    with recipe_imports(*work.sent_functions):
        with lm.session(), torch.set_grad_enabled(work.gradients):
            parameters = placed(lm, parameters)
            shared = (setup(lm, together, **parameters),)
            nnsight.save(shared)
    return shared


def run_session(lm: Any, work: Work, backend: Any = None) -> list[dict[str, Any]]:
    """Run all calls of a recipe inside one nnsight session, after its setup if it has one.

    Args:
        lm: the model with portable names.
        work: the calls.
        backend: an nnsight backend; None runs here. With one that only captures the block,
            the result is [].
    """
    # Plain locals: whatever the block refers to is captured and sent along.
    function, parameters = work.function, dict(work.parameters)
    calls = [() if call is None else (call,) for call in work.calls]
    shared, setup, together = work.shared, work.setup, list(work.together)
    gradients, weights = work.gradients, "attention_weights" in work.card.needs
    outputs: list[dict[str, Any]] = []
    with recipe_imports(*work.sent_functions):
        with lm.session(backend=backend):
            before = use_attention(lm, "eager") if weights else ""
            passes = share_passes([call[0] for call in calls if call])
            parameters = placed(lm, parameters)
            try:
                with torch.set_grad_enabled(gradients):
                    if setup is not None and not shared:
                        shared = (setup(lm, together, **parameters),)
                    outputs = [
                        settled(function(lm, *call, *shared, **parameters)) for call in calls
                    ]
            finally:
                if passes is not None:
                    passes.close()
                if weights:
                    use_attention(lm, before)
            nnsight.save(outputs)
    return outputs
