"""A module that is bound to a wrong name, or a number that is forgotten, is refused on loading.

Queries and keys are told apart on the twin only, by their effect on the pattern; the last tests
hold that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.models import tiny_models
from remote_mi.models.load import load
from remote_mi.models.proof import prove
from remote_mi.models.spec import ModelSpec
from remote_mi.models.structure.attention import Attention, _columns, _Search, packed_columns
from remote_mi.models.structure.block import find_block
from remote_mi.models.structure.observation import observe
from remote_mi.models.structure.twin import make_twin

from ...families import checks

#: An object, the name on it, and what it is set to.
Bound = tuple[Any, str, Any]
TINY = ("llama", "gpt2", "neox", "gemma2")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny model: of a family, or of one of the classes."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tiny(name) if name in TINY else tmp_path_factory.mktemp("class")
            if name not in TINY:
                checks.save(name.removeprefix("class "), made[name])
        return made[name]

    return of


def each(lm: Any, name: str, value: Callable[[Any], Any]) -> list[Bound]:
    """A name on every layer, or on a part of it."""
    *owner, own = name.split(".")
    found = []
    for layer in lm.layers:
        on = layer
        for step in owner:
            on = getattr(on, step)
        found.append((on, own, value(layer)))
    return found


MUTATIONS: dict[str, tuple[str, Callable[[Any], list[Bound]]]] = {
    "the norm before the last MLP as the final norm": (
        "llama",
        lambda lm: [(lm, "ln_final", lm.layers[-1].post_attention_layernorm)],
    ),
    "the first norm as the final norm": (
        "llama",
        lambda lm: [(lm, "ln_final", lm.layers[0].input_layernorm)],
    ),
    "a fused matrix split by heads instead of thirds": (
        "gpt2",
        lambda lm: each(lm, "qkv_blocks", lambda _: 4),
    ),
    "a fused matrix split in thirds instead of by heads": (
        "neox",
        lambda lm: each(lm, "qkv_blocks", lambda _: 1),
    ),
    "a fused matrix split in another order": (
        "class codegen",
        lambda lm: each(lm, "qkv_order", lambda _: "qkv"),
    ),
    "a fused matrix split into fewer blocks": (
        "class codegen",
        lambda lm: each(lm, "qkv_blocks", lambda _: 2),
    ),
    "a value that is a key": (
        "llama",
        lambda lm: each(lm, "self_attn.v_proj", lambda layer: layer.self_attn.k_proj),
    ),
    "what attention adds, without its multiplier": (
        "class granite",
        lambda lm: each(lm, "attn_add_factor", lambda _: 1.0),
    ),
    "what the MLP adds, without its multiplier": (
        "class granite",
        lambda lm: each(lm, "mlp_add_factor", lambda _: 1.0),
    ),
    "logits that are not divided": ("class granite", lambda lm: [(lm, "logit_scale", 1.0)]),
    "logits that are not multiplied": ("class cohere", lambda lm: [(lm, "logit_scale", 1.0)]),
    "a final state that is not scaled": ("class minicpm3", lambda lm: [(lm, "hidden_scale", 1.0)]),
    "a forgotten bound of the logits": ("class gemma2", lambda lm: [(lm, "logit_cap", None)]),
    "attention and MLP exchanged": (
        "llama",
        lambda lm: [
            *each(lm, "attn_add", lambda layer: layer.mlp),
            *each(lm, "mlp_add", lambda layer: layer.self_attn),
        ],
    ),
    "attention and MLP exchanged, side by side": (
        "class cohere",
        lambda lm: [
            *each(lm, "attn_add", lambda layer: layer.mlp),
            *each(lm, "mlp_add", lambda layer: layer.self_attn),
        ],
    ),
    "what attention gives before the norm after it": (
        "gemma2",
        lambda lm: each(lm, "attn_add", lambda layer: layer.self_attn),
    ),
    "what the MLP gives before the norm after it": (
        "class olmo2",
        lambda lm: each(lm, "mlp_add", lambda layer: layer.mlp),
    ),
    "another matrix as the output projection": (
        "llama",
        lambda lm: each(lm, "self_attn.o_proj", lambda layer: layer.self_attn.q_proj),
    ),
    "another matrix as the down-projection": (
        "llama",
        lambda lm: each(lm, "down_proj", lambda layer: layer.mlp.up_proj),
    ),
    "another stream between attention and MLP": (
        "llama",
        lambda lm: each(lm, "ln_mlp", lambda layer: layer.input_layernorm),
    ),
    "the number that a stream ends with, forgotten": (
        "class gemma4_text",
        lambda lm: each(lm, "stream_times", lambda _: ""),
    ),
    "what a further part adds, forgotten": (
        "class granitemoehybrid",
        lambda lm: each(lm, "adds", lambda layer: layer.adds[:2]),
    ),
    "the experts as the further part": (
        "class granitemoehybrid",
        lambda lm: each(lm, "other_add", lambda layer: layer.mlp_add),
    ),
    "one layer only with another projection": (
        "llama",
        lambda lm: [(lm.layers[1].self_attn, "v_proj", lm.layers[1].self_attn.k_proj)],
    ),
}


@contextmanager
def bound(on: Any, name: str, value: Any) -> Iterator[None]:
    """A context in which an attribute of an object is another."""
    missing = object()
    before = on.__dict__.get(name, missing)
    object.__setattr__(on, name, value)
    try:
        yield
    finally:
        if before is missing:
            del on.__dict__[name]
        else:
            object.__setattr__(on, name, before)


@pytest.mark.parametrize("mutation", sorted(MUTATIONS, key=lambda name: MUTATIONS[str(name)][0]))
def test_a_wrong_binding_is_refused(folder, mutation):
    name, mutate = MUTATIONS[mutation]
    lm = load(ModelSpec(str(folder(name))), Silent()).lm
    prove(lm)
    with ExitStack() as changes:
        for on, attribute, value in mutate(lm):
            changes.enter_context(bound(on, attribute, value))
        with pytest.raises(UsageError, match=r"the portable names do not hold|do not divide"):
            prove(lm)
    prove(lm)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_queries_keys_and_values_are_told_apart_by_their_effect(family):
    """Each acts as itself and as none of the others."""
    auto: Any = AutoModelForCausalLM
    config = tiny_models.configuration(family, 64)
    config.num_key_value_heads = config.num_attention_heads
    twin = make_twin(auto, config)
    inputs = {"input_ids": torch.tensor([[17, 5, 11, 7, 3, 13]]), "use_cache": False}
    calls, _ = observe(twin, inputs)
    path = {"gpt2": "transformer.h.1", "neox": "gpt_neox.layers.1"}.get(family, "model.layers.1")
    attention = {"gpt2": "attn", "neox": "attention"}.get(family, "self_attn")
    block = find_block(next(call for call in calls if call.path == path), calls)
    within = {call.path.removeprefix(f"{path}.{attention}.").strip("."): call for call in calls}
    whole = next(call for call in calls if call.path == f"{path}.{attention}")
    projection = within[{"gpt2": "c_proj", "neox": "dense"}.get(family, "o_proj")]
    pattern = whole.given[1]
    search = _Search(Attention(heads=4, key_heads=4), block, whole, projection, pattern)
    if family == "llama":
        columns = {which: _columns(32, 4) for which in "qkv"}
        source = {which: within[f"{which}_proj"] for which in "qkv"}
    else:
        arranged = Attention(heads=4, key_heads=4, blocks=1 if family == "gpt2" else 4)
        columns = dict(zip("qkv", packed_columns(96, arranged), strict=True))
        fused = within["c_attn" if family == "gpt2" else "query_key_value"]
        source = dict.fromkeys("qkv", fused)
    for which in "qkv":
        call, own = source[which], columns[which]
        assert search._acts(call, "q", own) == (which == "q")
        assert search._acts(call, "k", own) == (which == "k")
        assert search._carries(call, own) == search._gives(call, own) == (which == "v")
