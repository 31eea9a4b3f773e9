"""Direct logit attribution against plain weights, with every norm and projection written out."""

from __future__ import annotations

from typing import Any

import nnsight
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, components, readout
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ...conftest import FAMILIES, MARY, ROOT

HEADS = 4


@pytest.fixture(scope="module")
def attribution():
    card = catalog.find("direct_logit_attribution", ROOT)
    return loading.load_function(card, ROOT)


def called(function, lm, pair, **parameters):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, pair, **parameters))
    return found


def modules(model: Any, family: str) -> dict[str, Any]:
    """Where each family keeps its parts."""
    if family == "gpt2":
        blocks, final = model.transformer.h, model.transformer.ln_f
        return {
            "blocks": blocks,
            "final": final,
            "o": [b.attn.c_proj for b in blocks],
            "mlp": [b.mlp for b in blocks],
        }
    if family.startswith("neox"):
        blocks, final = model.gpt_neox.layers, model.gpt_neox.final_layer_norm
        return {
            "blocks": blocks,
            "final": final,
            "o": [b.attention.dense for b in blocks],
            "mlp": [b.mlp for b in blocks],
        }
    if family == "opt":
        blocks, final = model.model.decoder.layers, model.model.decoder.final_layer_norm
        return {
            "blocks": blocks,
            "final": final,
            "o": [b.self_attn.out_proj for b in blocks],
            "mlp": [b.fc2 for b in blocks],
        }
    blocks = model.model.layers
    if family == "phi":
        return {
            "blocks": blocks,
            "final": model.model.final_layernorm,
            "o": [b.self_attn.dense for b in blocks],
            "mlp": [b.mlp for b in blocks],
        }
    found = {
        "blocks": blocks,
        "final": model.model.norm,
        "o": [b.self_attn.o_proj for b in blocks],
        "mlp": [b.mlp for b in blocks],
    }
    if family.startswith("gemma"):
        found["mlp"] = [b.post_feedforward_layernorm for b in blocks]
        found["after"] = [b.post_attention_layernorm for b in blocks]
    return found


def frozen(norm: Any, x: torch.Tensor):
    """norm at x as a linear map, from its weights: (map, bias)."""
    weight = norm.weight.double()
    if "Gemma" in type(norm).__name__:
        weight = 1 + weight
    if isinstance(norm, torch.nn.LayerNorm):
        scale = (x.var(unbiased=False) + norm.eps).rsqrt()
        return lambda v: (v - v.mean(-1, keepdim=True)) * scale * weight, norm.bias.double()
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    scale = (x.pow(2).mean() + eps).rsqrt()
    return lambda v: v * scale * weight, torch.zeros_like(weight)


def by_hand(model: Any, family: str, ids: list[int], position: int, direction) -> dict[str, Any]:
    """Every contribution at one position, in double precision.

    Args:
        direction: from a vector after the final norm to the contribution, without bias.
    """
    part = modules(model, family)
    seen: dict[Any, torch.Tensor] = {}

    def keep(name: Any, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        seen[name] = value.reshape(-1, value.shape[-1])[position].double()

    hooks = [
        part["blocks"][0].register_forward_pre_hook(
            lambda _m, a, k: keep("stream", a[0] if a else k["hidden_states"]), with_kwargs=True
        )
    ]
    hooks.append(part["final"].register_forward_pre_hook(lambda _m, a: keep("final", a[0])))
    for index, (o, mlp) in enumerate(zip(part["o"], part["mlp"], strict=True)):
        hooks.append(o.register_forward_pre_hook(lambda _m, a, i=index: keep(("z", i), a[0])))
        hooks.append(o.register_forward_hook(lambda _m, _a, out, i=index: keep(("o", i), out)))
        hooks.append(mlp.register_forward_hook(lambda _m, _a, out, i=index: keep(("mlp", i), out)))
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    linear, norm_bias = frozen(part["final"], seen["final"])
    found: dict[str, Any] = {"head": [], "attention_bias": [], "mlp": []}
    for index, o in enumerate(part["o"]):
        weight = o.weight.double() if family == "gpt2" else o.weight.double().T
        bias = torch.zeros_like(norm_bias) if o.bias is None else o.bias.double()
        z = seen[("z", index)].reshape(HEADS, -1)
        shares = torch.einsum("hi,hid->hd", z, weight.reshape(HEADS, z.shape[1], -1))
        if "after" in part:
            then, after_bias = frozen(part["after"][index], seen[("o", index)])
            shares, bias = then(shares), then(bias) + after_bias
        found["head"].append([direction(linear(share)) for share in shares])
        found["attention_bias"].append(direction(linear(bias)))
        found["mlp"].append(direction(linear(seen[("mlp", index)])))
    found["embedding"] = direction(linear(seen["stream"]))
    found["final_norm_bias"] = direction(norm_bias)
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tiny):
    """A model, the plain one, and a pair with two right answers and two wrong ones."""
    folder = tiny(request.param)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        for name, value in plain.named_parameters():  # what starts as 0 must be told apart
            assert value.dim() != 1 or value.abs().max() > 0, name
    first, second = (Prompt(tokenizer(MARY[k]).input_ids, {}, None) for k in ("clean", "corrupt"))
    named = [tokenizer.convert_tokens_to_ids(f"Ġ{n}") for n in ("Mary", "Anna", "John", "Tom")]
    pair = Pair(first, second, named[:2], named[2:])
    lm = load(ModelSpec(str(folder)), Silent()).lm
    return request.param, lm, plain, pair


def directions(plain: Any, pair: Pair):
    weight = plain.lm_head.weight.double()
    of_pair = weight[pair.answers].mean(0) - weight[pair.wrongs].mean(0)
    return weight, lambda v: float(v @ of_pair)


def test_every_contribution_is_the_one_computed_from_the_weights(attribution, case):
    family, lm, plain, pair = case
    got = called(attribution, lm, pair)
    _, direction = directions(plain, pair)
    expected = by_hand(plain, family, pair.clean.ids, pair.end, direction)
    assert np.abs(expected["head"]).max() > 0.05, "there must be something to find"
    for name, values in expected.items():
        np.testing.assert_allclose(got[name].numpy(), values, atol=1e-4, rtol=1e-4, err_msg=name)


def test_the_contributions_sum_to_the_logit_difference(attribution, case):
    _, lm, plain, pair = case
    got = called(attribution, lm, pair)
    with torch.no_grad():
        logits = plain(torch.tensor([pair.clean.ids])).logits[0, -1].double()
    cap = getattr(plain.config, "final_logit_softcapping", None)
    if cap:  # the sum holds before it
        logits = torch.atanh(logits / cap) * cap
    own = float(logits[pair.answers].mean() - logits[pair.wrongs].mean())
    assert float(got["logit_diff"]) == pytest.approx(own, rel=1e-3, abs=1e-4)
    assert float(got["sum"]) == pytest.approx(own, rel=1e-3, abs=1e-4)
    single = ("embedding", "final_norm_bias", "unembedding_bias")
    parts = [got[name].sum() for name in ("head", "mlp", "attention_bias", *single)]
    assert float(sum(parts)) == pytest.approx(own, rel=1e-3, abs=1e-4)


def test_the_control_is_contributions_to_random_differences(attribution, case):
    family, lm, plain, pair = case
    draws = 3
    got = called(attribution, lm, pair, control_draws=draws, seed=5)
    tokens = attribution.__globals__["random_pairs"](pair, draws, 5)
    weight, _ = directions(plain, pair)
    for draw in range(draws):
        one, other = int(tokens[draw]), int(tokens[draws + draw])
        assert one != other
        u = weight[one] - weight[other]
        expected = by_hand(plain, family, pair.clean.ids, pair.end, lambda v, u=u: float(v @ u))
        for name in ("head", "mlp", "embedding"):
            found = got[f"random_{name}"][draw].numpy()
            np.testing.assert_allclose(found, expected[name], atol=1e-4, rtol=1e-4, err_msg=name)
    again = called(attribution, lm, pair, control_draws=draws, seed=6)
    assert not torch.allclose(again["random_head"], got["random_head"])


def test_another_position_is_attributed_where_the_answer_is_read(attribution, case):
    family, lm, plain, pair = case
    early = Pair(Prompt(pair.clean.ids, {"end": 5}, None), pair.corrupt, pair.answers, pair.wrongs)
    got = called(attribution, lm, early)
    _, direction = directions(plain, pair)
    expected = by_hand(plain, family, pair.clean.ids, 5, direction)
    np.testing.assert_allclose(got["head"].numpy(), expected["head"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("limit", [1 << 25, 400])
def test_without_the_weights_at_hand_the_numbers_are_the_same(
    attribution, case, limit, monkeypatch
):
    """As in a sandboxed job, where only the model's modules can be asked."""
    _, lm, _, pair = case
    expected = called(attribution, lm, pair)
    for module in (readout,):
        monkeypatch.setattr(module, "has_weights", lambda lm: False)
    monkeypatch.setattr(components, "rows_that_fit", lambda *_: limit)
    got = called(attribution, lm, pair)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "opt-post-norm"])
def test_a_stream_that_is_no_sum_is_refused(project, tiny, family):
    given = {name: text + " [MASK]" * (family == "bert") for name, text in MARY.items()}
    given |= {name: MARY[name] for name in ("answer", "wrong")}
    with pytest.raises(UsageError, match="normalises its stream in every layer"):
        mi.run("direct_logit_attribution", model=str(tiny(family)), project=project, **given)
    with pytest.raises(UsageError, match="normalises its stream in every layer"):
        mi.plan("direct_logit_attribution", model=str(tiny(family)), project=project, **given)


def test_a_run_gives_means_over_pairs_and_the_control(project, tiny_llama):
    result = mi.run(
        "direct_logit_attribution",
        model=str(tiny_llama),
        phenomenon="ioi:store",
        n=3,
        parameters={"control_draws": 4},
    )
    assert result["head"].values.shape == (3, 4)
    assert float(result["sum"]) == pytest.approx(float(result["logit_diff"]), rel=1e-3, abs=1e-4)
    control = np.stack([one.values for one in result.each("random_head")])
    assert control.shape == (3, 4, 3, 4) and (control < 0).any() and (control > 0).any()
    assert result.control_band("head") == pytest.approx(np.abs(control.mean(0)).max(0), rel=1e-5)
