"""Attention patterns and head detectors against the plain model's own attention weights."""

from __future__ import annotations

import math
from typing import Any

import nnsight
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, readout
from remote_mi.models.abilities import check_needs_by_model
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ...conftest import ENCODERS, FAMILIES, MARY, ROOT

LENGTH = 6


@pytest.fixture(scope="module")
def patterns():
    return loading.load_function(catalog.find("attention_patterns", ROOT), ROOT)


@pytest.fixture(scope="module")
def detectors():
    return loading.load_function(catalog.find("head_detectors", ROOT), ROOT)


def called(function, lm, *arguments, **parameters):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, *arguments, **parameters))
    return found


@pytest.fixture(scope="module", params=[*FAMILIES, *ENCODERS])
def case(request, tiny):
    """A model with eager attention, and the plain one."""
    folder = tiny(request.param)
    auto = AutoModelForMaskedLM if request.param in ENCODERS else AutoModelForCausalLM
    plain = auto.from_pretrained(folder, attn_implementation="eager").eval()
    lm = load(ModelSpec(str(folder), attention="eager"), Silent()).lm
    ids = AutoTokenizer.from_pretrained(folder)(MARY["clean"]).input_ids
    return request.param, lm, plain, ids


def attention(plain, ids: list[int]) -> np.ndarray:
    """[layer, head, query, key]"""
    with torch.no_grad():
        out = plain(torch.tensor([ids]), output_attentions=True)
    return torch.cat(out.attentions).double().numpy()


def test_patterns_and_their_summaries_are_those_of_the_plain_model(patterns, case):
    family, lm, plain, ids = case
    got = called(patterns, lm, Prompt(ids, {}, None))
    expected = attention(plain, ids)
    np.testing.assert_allclose(got["pattern"].numpy(), expected, atol=1e-5)
    n = len(ids)
    for layer in range(expected.shape[0]):
        window = getattr(plain.config, "sliding_window", None)
        kinds = getattr(plain.config, "layer_types", None)
        if kinds and kinds[layer] != "sliding_attention":
            window = None
        uniform = []
        for query in range(1, n):
            first_key = max(0, query - window + 1) if window else 0
            keys = range(n) if family in ENCODERS else range(first_key, query + 1)
            share = 1 / len(keys)
            apart = sum(abs(query - key) for key in keys) * share
            uniform.append([share if 0 in keys else 0.0, math.log(len(keys)), apart])
        means = np.mean(uniform, 0)
        for name, value in zip(("first", "entropy", "distance"), means, strict=True):
            assert float(got[f"uniform_{name}"][layer]) == pytest.approx(value, abs=1e-5), name
        for head in range(4):
            a = expected[layer, head]
            rows = []
            for query in range(1, n):
                entropy = -sum(w * math.log(w) for w in a[query] if w > 0)
                distance = sum(a[query, key] * abs(query - key) for key in range(n))
                rows.append([a[query, 0], entropy, distance])
            first, entropy, distance = np.mean(rows, 0)
            assert float(got["first"][layer, head]) == pytest.approx(first, abs=1e-5)
            assert float(got["entropy"][layer, head]) == pytest.approx(entropy, abs=1e-4)
            assert float(got["distance"][layer, head]) == pytest.approx(distance, abs=1e-4)


def test_chosen_layers_come_in_the_order_asked_for(patterns, case):
    _, lm, plain, ids = case
    got = called(patterns, lm, Prompt(ids, {}, None), layers=[2, 0])
    expected = attention(plain, ids)
    np.testing.assert_allclose(got["pattern"].numpy(), expected[[2, 0]], atol=1e-5)
    assert tuple(got["first"].shape) == (2, 4)
    with pytest.raises(ValueError, match="no layer 3"):
        called(patterns, lm, Prompt(ids, {}, None), layers=[3])


def test_a_prompt_of_one_token_attends_to_itself(patterns, case):
    _, lm, _, _ = case
    got = called(patterns, lm, Prompt([5], {}, None))
    assert (got["pattern"] == 1).all() and (got["first"] == 1).all()
    assert (got["entropy"] == 0).all() and (got["distance"] == 0).all()


def test_without_eager_attention_there_are_no_weights(patterns, tiny):
    lm = load(ModelSpec(str(tiny("llama")), attention="sdpa"), Silent()).lm
    with pytest.raises(ValueError, match="eager"):
        called(patterns, lm, Prompt([5, 6, 7], {}, None))


def scores_by_hand(plain, ids: list[int], start: int) -> dict[str, Any]:
    """Every score of one sequence, cell by cell."""
    a = attention(plain, ids)
    second = range(start + LENGTH, start + 2 * LENGTH)
    with torch.no_grad():
        log_p = plain(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    loss = {q: -float(log_p[q - 1, ids[q]]) for q in range(1, len(ids))}
    halves = [range(s + 1, s + LENGTH) for s in (start, start + LENGTH)]
    return {
        "induction": np.mean([a[:, :, q, q - LENGTH + 1] for q in second], 0),
        "duplicate_token": np.mean([a[:, :, q, q - LENGTH] for q in second], 0),
        "previous_token": np.mean([a[:, :, q, q - 1] for q in range(1, len(ids))], 0),
        "loss_first": np.mean([loss[q] for q in halves[0]]),
        "loss_second": np.mean([loss[q] for q in halves[1]]),
    }


def random_tokens(size, sequences):
    """The tokens of seed 1: of each sequence, two halves of different tokens."""
    low, high = int(0.02 * size), int(0.8 * size)
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randperm(high - low, generator=generator) + low for _ in range(sequences)]
    return [row[: 2 * LENGTH].tolist() for row in drawn]


@pytest.mark.parametrize("rows", [1 << 10, 1])
def test_the_scores_are_those_of_the_plain_model(detectors, case, monkeypatch, rows):
    family, lm, plain, _ = case
    if family in ENCODERS:
        with pytest.raises(UsageError, match="it is an encoder"):
            check_needs_by_model("head_detectors", ("causal",), family, lm)
        return
    monkeypatch.setitem(detectors.__globals__, "rows_that_fit", lambda *_: rows)
    got = called(detectors, lm, length=LENGTH, sequences=3, seed=1)
    size = plain.config.vocab_size
    for draw, row in enumerate(random_tokens(size, 3)):
        assert len(set(row)) == 2 * LENGTH, "no token comes twice by chance"
        assert int(0.02 * size) <= min(row) and max(row) < int(0.8 * size)
        first, second = row[:LENGTH], row[LENGTH:]
        repeated = scores_by_hand(plain, [1, *first, *first], 1)
        other = scores_by_hand(plain, [1, *first, *second], 1)
        for name, value in repeated.items():
            np.testing.assert_allclose(got[name][..., draw], value, atol=1e-4, err_msg=name)
        for name in ("induction", "duplicate_token", "loss_second"):
            found = got[f"control_{name}"][..., draw]
            np.testing.assert_allclose(found, other[name], atol=1e-4, err_msg=name)
    chance = np.mean([1 / (q + 1) for q in range(1, 2 * LENGTH + 1)])
    assert float(got["control_previous_token"]) == pytest.approx(chance, abs=1e-6)


def test_without_a_bos_token_the_sequences_begin_at_once(detectors, tiny, monkeypatch):
    folder = tiny("llama")
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    lm = load(ModelSpec(str(folder), attention="eager"), Silent()).lm
    monkeypatch.setattr(lm.config, "bos_token_id", None)
    got = called(detectors, lm, length=LENGTH, sequences=1, seed=1)
    first = random_tokens(plain.config.vocab_size, 1)[0][:LENGTH]
    for name, value in scores_by_hand(plain, [*first, *first], 0).items():
        np.testing.assert_allclose(got[name][..., 0], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_weights_at_hand_the_scores_are_the_same(detectors, tiny, family, monkeypatch):
    lm = load(ModelSpec(str(tiny(family)), attention="eager"), Silent()).lm
    expected = called(detectors, lm, length=LENGTH, sequences=2)
    for module in (readout,):
        monkeypatch.setattr(module, "has_weights", lambda lm: False)
    got = called(detectors, lm, length=LENGTH, sequences=2)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"length": 40}, "more than the model's 64"),
        ({"lowest": 0.5, "highest": 0.51}, "widen the range"),
        ({"lowest": 0.9, "highest": 0.1}, "widen the range"),
    ],
)
def test_sequences_that_cannot_be_made_are_refused(detectors, tiny, given, said):
    lm = load(ModelSpec(str(tiny("llama")), attention="eager"), Silent()).lm
    with pytest.raises(ValueError, match=said):
        called(detectors, lm, **given)


def test_runs_of_both_give_named_results(project, tiny_llama):
    model = mi.ModelSpec(str(tiny_llama), attention="eager")
    found = mi.run("attention_patterns", model=model, prompt=MARY["clean"], layers=[1])
    assert found["pattern"].values.shape == (1, 4, 14, 14)
    found = mi.run(
        "head_detectors", model=model, parameters={"length": LENGTH, "sequences": 4, "seed": 2}
    )
    assert found["induction"].values.shape[:2] == (3, 4)
