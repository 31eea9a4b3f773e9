"""Integrated gradients and saliency against autograd on transformers, and an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, attribution
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

from ..reference import Reference
from .test_gradients import FIRST, LENGTH, metric_of, model_of, ran


@pytest.fixture(scope="module", params=["llama", "gpt2", "neox", "gemma2"])
def few(request, tiny):
    return model_of(request.param, tiny)


def read_outs(reference: Reference, ids: list[int], score: Any, draws: int) -> list[Any]:
    """The metric and, as the control says, differences of random tokens of equal slope."""
    model: Any = reference.model
    weight = model.get_output_embeddings().weight.detach()
    states: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _m, args: states.append(args[0].detach()[:, -1])
    )
    with torch.no_grad():
        model(torch.tensor([ids]))
    hook.remove()
    at = states[0].requires_grad_(True)
    cap = getattr(model.config, "final_logit_softcapping", None)

    def logits_of(state: torch.Tensor) -> torch.Tensor:
        logits = model.get_output_embeddings()(state)[0]
        return torch.tanh(logits / cap) * cap if cap else logits

    def slope(score: Any) -> float:
        return float(torch.autograd.grad(score(logits_of(at)), at)[0].norm())

    generator = torch.Generator().manual_seed(0)
    found = [score]
    for _ in range(draws):
        a, b = torch.randint(len(weight), (2,), generator=generator).tolist()

        def difference(logits: torch.Tensor, a: int = a, b: int = b) -> torch.Tensor:
            return (logits[a] - logits[b]).double()

        factor = slope(score) / slope(difference)
        found.append(lambda x, d=difference, f=factor: f * d(x))
    return found


@pytest.mark.parametrize("baseline, steps", [("corrupt", 12), ("zero", 3)])
@pytest.mark.parametrize("packed", [True, False])
def test_integrated_gradients_are_a_sum_over_the_path(few, baseline, steps, packed, monkeypatch):
    _, reference, lm, pair = few
    if not packed:
        monkeypatch.setattr(
            attribution, "rows_that_fit", lambda *_: 1
        )  # each step a pass of its own
    got = ran(lm, "integrated_gradients", pair, baseline=baseline, steps=steps, control_draws=2)
    model: Any = reference.model
    embed = model.get_input_embeddings()
    x = embed(torch.tensor([pair.clean.ids])).detach()
    start = embed(torch.tensor([pair.corrupt.ids])).detach()
    start = start if baseline == "corrupt" else torch.zeros_like(x)

    def score(logits: torch.Tensor) -> torch.Tensor:
        return metric_of(logits, "logit_diff", pair.answer, pair.wrong)

    scores = read_outs(reference, pair.clean.ids, score, 2)
    points, weights = np.polynomial.legendre.leggauss(steps)
    expected = np.zeros((3, LENGTH))
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        for index, of in enumerate(scores):
            at = (start + float(point) * (x - start)).requires_grad_(True)
            value = of(model(inputs_embeds=at).logits[0, -1])
            gradient = torch.autograd.grad(value, at)[0]
            expected[index] += weight * ((x - start) * gradient)[0].sum(-1).numpy()
    largest = np.abs(expected).max()
    assert largest > 0.05
    np.testing.assert_allclose(got["attribution"], expected[0], atol=2e-4 * largest)
    np.testing.assert_allclose(got["control"], expected[1:], atol=2e-4 * largest)
    with torch.no_grad():
        clean, at_baseline = (
            float(score(model(inputs_embeds=e).logits[0, -1])) for e in (x, start)
        )
    assert float(got["clean"]) == pytest.approx(clean, abs=1e-4)
    assert float(got["at_baseline"]) == pytest.approx(at_baseline, abs=1e-4)
    error = expected[0].sum() - (clean - at_baseline)
    assert float(got["completeness_error"]) == pytest.approx(error, abs=3e-4 * largest + 1e-4)


def test_attributions_of_the_path_between_two_prompts_are_complete(few):
    _, _, lm, pair = few
    got = ran(lm, "integrated_gradients", pair, control_draws=0, steps=500)
    total = float(got["clean"] - got["at_baseline"])
    # The path between two random embeddings passes near 0, where norms turn abruptly.
    assert abs(float(got["completeness_error"])) < 0.05 * abs(total)
    assert float(got["attribution"].sum()) == pytest.approx(total, rel=0.05)
    changed = got["attribution"] != 0
    assert changed.tolist() == [p == FIRST for p in range(LENGTH)]
    assert got["control"].shape == (0, LENGTH)


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_the_rule_is_gauss_legendre(count):
    points, weights = attribution.gauss_legendre(count)
    expected_points, expected_weights = np.polynomial.legendre.leggauss(count)
    np.testing.assert_allclose(points, (expected_points + 1) / 2, atol=1e-12)
    np.testing.assert_allclose(weights, expected_weights / 2, atol=1e-12)


@pytest.mark.parametrize("score", ["logit", "log_prob", "prob"])
@pytest.mark.parametrize("given", [True, False])
def test_saliency_is_the_gradient_at_the_input(few, score, given):
    _, reference, lm, pair = few
    model: Any = reference.model
    ids = pair.clean.ids
    got = ran(
        lm,
        "saliency",
        Prompt(ids, {}, pair.answer if given else None),
        score=score,
        control_draws=2,
    )
    with torch.no_grad():
        target = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    target = pair.answer if given else target
    assert int(got["token"]) == target

    def of(logits: torch.Tensor) -> torch.Tensor:
        return metric_of(logits, score, target, 0)

    for index, read_out in enumerate(read_outs(reference, ids, of, 2)):
        x = model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_(True)
        value = read_out(model(inputs_embeds=x).logits[0, -1])
        gradient = torch.autograd.grad(value, x)[0][0]
        norm, product = gradient.norm(dim=-1), (gradient * x.detach()[0]).sum(-1)
        if index:
            got_norm = got["gradient_norm_control"][index - 1]
            got_product = got["gradient_x_input_control"][index - 1]
        else:
            got_norm, got_product = got["gradient_norm"], got["gradient_x_input"]
            assert float(got["value"]) == pytest.approx(float(value), abs=1e-4)
        atol = 2e-4 * float(norm.max())
        np.testing.assert_allclose(got_norm, norm, rtol=1e-3, atol=atol)
        np.testing.assert_allclose(got_product, product, rtol=1e-3, atol=atol)


def test_an_encoder_is_differentiated_at_its_mask_and_has_no_causal_zeros(tiny):
    folder = tiny("bert")
    model: Any = AutoModelForMaskedLM.from_pretrained(folder).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    texts = ("[MASK] and John went to the store", "[MASK] and Mary went to the store")
    clean, corrupt = (tokenizer(text).input_ids for text in texts)
    end = clean.index(tokenizer.mask_token_id)
    assert end < len(clean) - 1
    answer, wrong = (tokenizer.convert_tokens_to_ids(f"Ġ{n}") for n in ("Mary", "John"))
    prompts = [Prompt(ids, {"end": end}, answer) for ids in (clean, corrupt)]
    pair = Pair(prompts[0], prompts[1], answer, wrong)
    first = pair.first_difference
    assert first is not None and first > end
    acts: dict[str, list[torch.Tensor]] = {}
    for name, ids in (("clean", clean), ("corrupt", corrupt)):
        stream = model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_(True)
        states = model(inputs_embeds=stream, output_hidden_states=True)
        acts[name] = list(states.hidden_states[:-1])
        logits = states.logits[0, end]
    slope = torch.autograd.grad(logits[answer] - logits[wrong], [*acts["corrupt"], stream])
    expected = [
        ((c - k) * g)[0].sum(-1).detach()
        for c, k, g in zip(acts["clean"], acts["corrupt"], slope[:-1], strict=True)
    ]
    got = ran(lm, "attribution_patching", pair, control_draws=1)
    np.testing.assert_allclose(got["effect"], np.stack(expected), atol=1e-4)
    assert np.abs(got["effect"][1:, :first]).min() > 0
    salient = ran(lm, "saliency", prompts[1], control_draws=1)
    single = model(inputs_embeds=stream).logits[0, end, answer]
    np.testing.assert_allclose(
        salient["gradient_norm"], torch.autograd.grad(single, stream)[0][0].norm(dim=-1), rtol=1e-3
    )
    complete = ran(lm, "integrated_gradients", pair, steps=256, control_draws=1)
    total = float(complete["clean"] - complete["at_baseline"])
    assert abs(float(complete["completeness_error"])) < 0.02 * abs(total) + 1e-4
