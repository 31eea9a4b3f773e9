"""A model whose code does otherwise than its names say: what is not proven is refused."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from transformers.models.codegen import modeling_codegen
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama
from transformers.models.mixtral import modeling_mixtral
from transformers.models.phi3 import modeling_phi3

from remote_mi.models.structure.portable import describe
from remote_mi.models.structure.twin import make_twin
from remote_mi.models.tiny_models import configuration

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "pad_token_id": 0,
}


def layer_of(config):
    """The names and facts of the first layer, found now."""
    return describe(make_twin(transformers.AutoModelForCausalLM, config))["layers"][0]


def llama():
    return layer_of(configuration("llama", 64))


def phi3():
    return layer_of(transformers.Phi3Config(**SIZES))


def test_halves_in_the_other_order_are_found_in_that_order(monkeypatch):
    assert phi3()["facts"]["gate_up_order"] == "gate_up"

    def swapped(self, x):
        up, gate = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(up * self.activation_fn(gate))

    monkeypatch.setattr(modeling_phi3.Phi3MLP, "forward", swapped)
    assert phi3()["facts"]["gate_up_order"] == "up_gate"


def test_a_gate_and_what_it_multiplies_are_told_apart(monkeypatch):
    assert llama()["names"]["gate_proj"] == "mlp.gate_proj"

    def swapped(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", swapped)
    names = llama()["names"]
    assert (names["gate_proj"], names["up_proj"]) == ("mlp.up_proj", "mlp.gate_proj")


def test_neurons_that_are_no_activation_times_a_matrix_have_no_gate(monkeypatch):
    def clipped(self, x):
        return self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(-0.5, 0.5))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", clipped)
    found = llama()
    assert not {"gate_proj", "up_proj"} & set(found["names"]) and "down_proj" in found["names"]
    for site in ("mlp_gate", "mlp_up"):
        assert "no known activation" in found["facts"]["lacks"][site]


def test_an_input_that_is_added_to_the_output_is_not_the_parts_own(monkeypatch):
    """What the module takes would reach the stream by itself, past the MLP."""

    def added(self, x):
        return x + self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", added)
    found = llama()
    # The whole module is what is added; the neurons' matrix alone is not.
    assert found["names"]["mlp_in"] == "mlp" and "down_proj" not in found["names"]
    assert "no matrix after another" in found["facts"]["lacks"]["mlp_hidden"]


def test_keys_in_the_place_of_queries_are_found_where_they_are(monkeypatch):
    rotate = modeling_llama.apply_rotary_pos_emb

    def swapped(q, k, cos, sin):
        q, k = rotate(q, k, cos, sin)
        return k, q

    plain = modeling_llama.eager_attention_forward

    def attend(module, k, q, *args, **kwargs):
        return plain(module, q, k, *args, **kwargs)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", swapped)
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attend)
    config = configuration("llama", 64)
    config.num_key_value_heads = config.num_attention_heads
    found = layer_of(config)["facts"]
    places = found["operations"]
    for site in ("q_rotated", "k_rotated"):  # by the order of arguments, so not by their effect
        assert site not in places and site in found["lacks"]


@pytest.mark.parametrize(("blocks", "order"), [(4, "qvk"), (2, "vkq"), (1, "kqv"), (8, "qkv")])
def test_a_matrix_of_all_three_is_split_as_the_models_code_splits_it(blocks, order, monkeypatch):
    """CodeGen's code with another arrangement of queries, keys and values."""
    config = transformers.CodeGenConfig(
        vocab_size=64, n_embd=32, n_layer=1, n_head=8, rotary_dim=4, n_positions=64
    )
    plain = torch.split

    def split(whole, size, dim):
        if whole.dim() != 4:  # of sine and cosine
            return plain(whole, size, dim)
        parts = whole.flatten(-2).unflatten(-1, (blocks, 3, -1)).unbind(-2)
        return [parts[order.index(which)].flatten(-2).unflatten(-1, (4, -1)) for which in "qvk"]

    monkeypatch.setattr(modeling_codegen.torch, "split", split)
    facts = layer_of(config)["facts"]
    assert (facts.get("qkv_blocks", 1), facts.get("qkv_order", "qkv")) == (blocks, order)


def test_a_pattern_that_is_no_softmax_of_scores_has_none(monkeypatch):
    plain = modeling_llama.eager_attention_forward

    def halved(module, q, k, v, mask, **kwargs):
        z, pattern = plain(module, q, k, v, mask, **kwargs)
        return 0.5 * z, 0.5 * pattern

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", halved)
    found = llama()["facts"]
    assert "attn_scores" not in found["operations"]
    assert "softmax" in found["lacks"]["attn_scores"]


@functools.cache
def gpt_oss():
    return transformers.GptOssConfig(**SIZES, head_dim=8, num_local_experts=4)


def test_a_sink_is_told_from_a_pattern_that_is_cut(monkeypatch):
    """A row sums to less than 1 by the sink alone, the same number in every row."""
    assert "attn_scores" in layer_of(gpt_oss())["facts"]["operations"]
    plain = modeling_gpt_oss.eager_attention_forward

    def cut(module, q, k, v, mask, **kwargs):
        z, pattern = plain(module, q, k, v, mask, **kwargs)
        less = torch.linspace(0.2, 0.9, pattern.shape[2])
        return z * less[:, None, None], pattern * less[:, None]

    monkeypatch.setattr(modeling_gpt_oss, "eager_attention_forward", cut)
    assert "attn_scores" not in layer_of(gpt_oss())["facts"]["operations"]


def mixtral():
    return layer_of(configuration("mixtral", 64))


def test_experts_that_are_not_summed_by_their_weights_have_none(monkeypatch):
    assert mixtral()["facts"]["expert_arguments"] == [1, 2]
    plain = modeling_mixtral.MixtralExperts.forward
    monkeypatch.setattr(
        modeling_mixtral.MixtralExperts,
        "forward",
        lambda self, x, index, weight: plain(self, x, index, weight.sqrt()),
    )
    found = mixtral()
    assert "experts" not in found["names"]
    assert "sum of weight" in found["facts"]["lacks"]["expert_weights"]


def test_a_router_whose_output_is_no_matrix_of_its_input_has_no_logits(monkeypatch):
    assert mixtral()["names"]["router"] == "mlp.gate"

    def bent(self, x):
        x = x.reshape(-1, self.hidden_dim)
        logits = torch.nn.functional.linear(x, self.weight).tanh()
        top, index = logits.softmax(-1).topk(self.top_k, -1)
        return logits * 1.0, top, index

    monkeypatch.setattr(modeling_mixtral.MixtralTopKRouter, "forward", bent)
    found = mixtral()
    place = found["facts"].get("operations", {}).get("router_logits")
    # The matrix's own product is in the source, and is what is found, before it is bent.
    assert place == {"path": ["torch_nn_functional_linear_0"], "side": "output"}
