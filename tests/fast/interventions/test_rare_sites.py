"""Sites that few architectures have, each on one that has it, against plain hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from remote_mi.models.tiny_models import set_biases

from ...conftest import save_tokenizer
from . import test_sites

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
    "initializer_range": 0.4,
}
EXPERTS = {"head_dim": 8, "num_experts_per_tok": 2}
#: Called otherwise than the families of `conftest`, whose tests are slow: these are quick.
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "one-matrix-for-both": ("Phi3Config", COMMON),
    "experts-and-norms": (
        "Qwen3MoeConfig",
        {
            **COMMON,
            **EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 24,
            "mlp_only_layers": [1],
        },
    ),
    "sinks": ("GptOssConfig", {**COMMON, **EXPERTS, "num_local_experts": 4}),
}
#: Which rows are tried on which, and on which layers they exist.
TRIED = [
    *[("one-matrix-for-both", site, [0, 1, 2]) for site in ("mlp_gate", "mlp_up", "k_rotated")],
    *[("experts-and-norms", site, [0, 1, 2]) for site in ("q_normed", "k_normed")],
    *[("experts-and-norms", site, [0, 2]) for site in ("router_logits", "expert_weights")],
    ("experts-and-norms", "mlp_gate", [1]),
    *[
        ("sinks", site, [0, 1, 2])
        for site in ("attn_scores", "router_logits", "expert_weights", "q_rotated")
    ],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    models = {}

    def get(kind):
        if kind not in models:
            folder = tmp_path_factory.mktemp(kind)
            name, options = MADE[kind]
            config = getattr(transformers, name)(**options, vocab_size=save_tokenizer(folder))
            torch.manual_seed(0)
            whole = transformers.AutoModelForCausalLM.from_config(config)
            set_biases(whole)
            whole.eval().save_pretrained(folder)
            models[kind] = test_sites.made(kind, lambda _family: folder)
        return models[kind]

    return get


@pytest.fixture(params=TRIED, ids=lambda tried: "-".join(tried[:2]))
def case(request, made, monkeypatch):
    kind, site, layers = request.param
    monkeypatch.setattr(test_sites, "having", lambda _family, _site: layers)
    return made(kind), site


def test_a_rare_site_is_read_and_edited_as_hooks_do(case):
    test_sites.test_it_is_read_as_a_hook_reads_it(*case)
    test_sites.test_it_is_edited_as_a_hook_edits_it(*case)


def test_a_rare_site_is_differentiated_as_hooks_do(case):
    test_sites.test_its_gradient_is_that_of_a_hook_that_adds_to_it(*case)


@pytest.mark.parametrize("by", ["position", "head"])
def test_a_rare_site_is_swept_as_hooks_do(case, by):
    test_sites.test_every_cell_of_a_sweep_is_a_run_with_a_hook(*case, by)
