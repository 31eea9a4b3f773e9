"""The attention implementation that transformers chose is kept only if its numbers are the model's."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.models.attention_choice import choose_attention
from remote_mi.models.load import load, unload
from remote_mi.models.spec import ModelSpec

from ...conftest import MARY


@pytest.fixture
def wrong_sdpa(monkeypatch):
    """An sdpa that leaves something out, as some versions leave out a soft-cap."""
    right = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def without_scaling(*given, scaling=None, **named):
        return right(*given, scaling=0.9 * (scaling or 1), **named)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", without_scaling)
    unload()
    yield
    unload()


def test_a_choice_that_changes_the_numbers_is_given_up_and_said(wrong_sdpa, tiny_llama, project):
    result = mi.run("baseline", model=tiny_llama, pairs=[MARY])
    assert result.provenance["record"]["attention"] == "eager"
    assert "changes the model's last states by" in " ".join(result.document["notes"])
    eager = mi.run("baseline", model=ModelSpec(str(tiny_llama), attention="eager"), pairs=[MARY])
    assert float(result["logit_diff"].values) == float(eager["logit_diff"].values)
    asked = mi.run("baseline", model=ModelSpec(str(tiny_llama), attention="sdpa"), pairs=[MARY])
    assert asked.provenance["record"]["attention"] == "sdpa"  # what the user names is used


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_choice_with_the_same_numbers_is_kept(family, tiny, project):
    loaded = load(ModelSpec(str(tiny(family))), Silent())
    assert loaded.record["attention"] == "sdpa" and loaded.notes == []


def test_a_soft_cap_that_sdpa_does_not_take_is_found():
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.4,
        attn_logit_softcapping=1.0,
        query_pre_attn_scalar=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(config).eval()
    model.config._attn_implementation = "sdpa"  # which this version refuses, and others chose
    # Versions of transformers refuse it or leave it out.
    assert re.search("fails .*softcap|changes the model's last states", choose_attention(model))
    assert model.config._attn_implementation == "eager"


def test_half_precision_is_compared_within_its_rounding(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).eval()
    assert choose_attention(model) == "" and model.config._attn_implementation == "sdpa"
