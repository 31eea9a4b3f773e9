"""Giving a model the portable names, and what was measured beside them.

They are attributes of nnsight's model and of its layers, which travel with a job to a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remote_mi.interventions.encoder_decoder import DecodedAnswer
from remote_mi.interventions.final_steps import FinalSteps
from remote_mi.models.structure.portable import Structure


def bind(lm: Any, structure: Structure, prefix: Sequence[int] = ()) -> None:
    """Set the portable names and facts of a structure on a model.

    Args:
        lm: nnsight's model, with or without weights.
        prefix: the tokens with which the answers of an encoder–decoder begin.
    """
    for name, path in structure["names"].items():
        object.__setattr__(lm, name, at(lm, path))
    for name, fact in structure["facts"].items():
        object.__setattr__(lm, name, fact)
    if steps := structure["final_steps"]:
        modules = [at(lm, path) for _, path in steps]
        lm.ln_final = FinalSteps(modules, [function for function, _ in steps])
    if "encoder_side" in structure["names"]:
        answer = DecodedAnswer(lm.encoder_side, lm.decoder_begins, lm.decoder_ends, len(prefix))
        lm.ln_final, lm.answer_prefix = answer, list(prefix)
    for index, described in enumerate(structure["layers"]):
        layer = lm.layers[index]
        for name, path in described["names"].items():
            *owner, own = name.split(".")
            object.__setattr__(at(layer, ".".join(owner)), own, at(layer, path))
        for name, fact in described["facts"].items():
            object.__setattr__(layer, name, fact)
        # A model may have modules of its own by these names, of which nothing is proven, or which
        # mean something else ("ln_mlp" of Falcon).
        object.__setattr__(layer, "portable", list(described["names"]))


def at(envoy: Any, path: str) -> Any:
    """The part of a model at a module's path; a number is a place in a list of modules.

    A submodule has another name here if nnsight has an attribute of its own name ("output").
    """
    for step in filter(None, path.split(".")):
        if step.isdigit():
            envoy = envoy[int(step)]
            continue
        child = envoy._child_map.get(step)
        envoy = child if child is not None else getattr(envoy, step)
    return envoy
