"""The parts of an encoder–decoder: the encoder's layers, and how the decoder's answer is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remote_mi.models.structure.observation import Call, factor_between
from remote_mi.models.structure.whole import (
    Unfit,
    Whole,
    find_layers,
    measure_logits,
    outermost_around,
)


def has_two_sides(model: Any) -> bool:
    """Whether a model has an encoder and a decoder."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def begin_answers(inputs: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The inputs of a run with two tokens for the decoder."""
    return {**inputs, "decoder_input_ids": torch.tensor([[1 % size, 2 % size]])}


def find_sides(
    model: Any, inputs: Mapping[str, Any], calls: Sequence[Call]
) -> tuple[Whole, dict[str, str]]:
    """Find the encoder's layers, and the decoder's state that the unembedding takes.

    Returns:
        the parts, whose layers are the encoder's; and the paths of the names "encoder_side",
        "decoder_begins" (its first layer) and "decoder_ends" (what gives that state).

    Raises:
        Unfit: if they are not found.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    encoder, head = model.get_encoder(), model.get_output_embeddings()
    of_encoder = next((c for c in calls if c.module is encoder), None)
    reads = next((c for c in calls if c.module is head), None)
    if of_encoder is None or reads is None:
        raise Unfit("its encoder or its unembedding is no module of its own")
    inside = [c for c in calls if of_encoder.began < c.began < of_encoder.ended]
    later = [c for c in calls if of_encoder.ended < c.began < reads.began]
    layers, blocks = find_layers(model, inside)
    table = encoder.get_input_embeddings()
    if not any(call.module is table for call in inside):
        raise Unfit("its encoder has no token embedding of its own")
    _, answering = find_layers(model, later)
    found = Whole(layers, blocks, "", paths[id(table)], paths[id(head)], final_norm=False)
    for call in sorted((c for c in later if c.ended < reads.began), key=lambda c: c.ended):
        scale = factor_between(call.output, reads.input)
        if scale is not None and len(call.given) == 1 and call.ended > answering[-1].began:
            found.hidden_scale = scale
            ends = call.path
            break
    else:
        raise Unfit("no module of its decoder gives what its unembedding takes")
    found.backbone = outermost_around(calls, [layers, ends], paths[id(head)])
    measure_logits(model, inputs, found)
    begins = answering[0].path
    return found, {
        "encoder_side": of_encoder.path,
        "decoder_begins": begins,
        "decoder_ends": ends,
    }
