"""Testing on the weights that a prefix is unaffected by whatever follows it.

Sweeps and generation compute the keys and values of a prefix once and share them between rows.
The configuration says whether a model allows it (`remote_mi.interventions.model_info`); here that
is compared with what the model does, so that a window, a state or a rotary embedding that the
configuration does not mention costs time instead of correctness.
"""

from __future__ import annotations

from typing import Any

import nnsight
import torch
from transformers import DynamicCache

from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.model_info import context_length, reuses_prefix, steady_length
from remote_mi.interventions.ports import read_stream
from remote_mi.interventions.readout import skip_unembedding

_IDS = (17, 5, 11, 7, 3, 13)
_PREFIX = 3


def prove_prefix(lm: Any) -> None:
    """Set `lm.prefix_proved`: whether a shared prefix gives the numbers of a complete run.

    Two tests on six tokens: a run of the last ones with the keys and values of the first is
    compared with a complete run; and the states of the first ones with the last token as far away
    as the model allows are compared with those with it adjacent.
    """
    if not reuses_prefix(lm):
        return
    size = int(lm.embed_tokens.weight.shape[0])
    ids = [token % size for token in _IDS]
    with torch.no_grad():
        try:
            lm.prefix_proved = _continues(lm, ids) and _forgets_what_follows(lm, ids)
        except Exception:  # an unsupported kind of cache may fail in any way
            lm.prefix_proved = False


def _continues(lm: Any, ids: list[int]) -> bool:
    """Whether a run on the keys and values of the first tokens agrees with a complete run.

    That has the model's own positions: some count from 1 (PaliGemma).
    """
    whole, cache = _run(lm, ids)
    prefix = DynamicCache()
    for index, layer in enumerate(cache.layers):
        prefix.update(layer.keys[:, :, :_PREFIX], layer.values[:, :, :_PREFIX], index)
    rest, _ = _run(lm, ids[_PREFIX:], range(_PREFIX, len(ids)), prefix)
    with lm.trace(**model_inputs(lm, [ids]), use_cache=False):
        uncached = nnsight.save(read_stream(lm, len(lm.layers))[0])
        skip_unembedding(lm)
    return _same(rest, whole[_PREFIX:]) and _same(uncached, whole)


def _forgets_what_follows(lm: Any, ids: list[int]) -> bool:
    """Whether the first tokens do not depend on the position of the last."""
    far = min(steady_length(lm), context_length(lm)) - 1
    near, _ = _run(lm, ids, range(len(ids)))
    moved, _ = _run(lm, ids, [*range(len(ids) - 1), max(far, len(ids) - 1)])
    return _same(moved[:-1], near[:-1])


def _run(
    lm: Any, ids: list[int], positions: Any = None, cache: Any = None
) -> tuple[torch.Tensor, Any]:
    """The stream after the last layer, [position, d_model], and the keys and values."""
    given = {}
    if positions is not None:
        given = {"position_ids": torch.tensor([list(positions)]), "past_key_values": cache}
    with lm.trace(**model_inputs(lm, [ids]), **given, use_cache=True):
        after = read_stream(lm, len(lm.layers))[0]
        skip_unembedding(lm)
        found = nnsight.save((after, lm.output.past_key_values))
    return found


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two streams are equal up to rounding, position by position."""
    allowed = 0.05 if one.dtype in (torch.float16, torch.bfloat16) else 1e-3
    gap = (one.float() - other.float()).norm(dim=-1)
    return bool((gap <= allowed * other.float().norm(dim=-1)).all())
