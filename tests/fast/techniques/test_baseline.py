"""The baseline against the plain model's own logits."""

from __future__ import annotations

import nnsight
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, readout
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ...conftest import ENCODERS, FAMILIES, MARY, ROOT

MASKED = {
    "clean": "When Mary and John went to the store, John gave a drink to[MASK].",
    "corrupt": "When Mary and John went to the store, Mary gave a drink to[MASK].",
}


@pytest.fixture(scope="module")
def baseline():
    return loading.load_function(catalog.find("baseline", ROOT), ROOT)


def called(function, lm, pair, **parameters):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, pair, **parameters))
    return found


@pytest.fixture(scope="module", params=[*FAMILIES, *ENCODERS])
def case(request, tiny):
    """A model, a pair with two right answers, and the plain model's logits of both prompts."""
    folder = tiny(request.param)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    masked = request.param in ENCODERS
    plain = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(folder)
    texts = MASKED if masked else MARY
    clean, corrupt = (tokenizer(texts[name]).input_ids for name in ("clean", "corrupt"))
    end = clean.index(tokenizer.mask_token_id) if masked else len(clean) - 1
    with torch.no_grad():
        logits = plain.eval()(torch.tensor([clean, corrupt])).logits[:, end].double()
    answers = [tokenizer.convert_tokens_to_ids(f"Ġ{name}") for name in ("Mary", "Anna")]
    wrong = tokenizer.convert_tokens_to_ids("ĠJohn")
    first, second = (Prompt(ids, {"end": end}, None) for ids in (clean, corrupt))
    lm = load(ModelSpec(str(folder)), Silent()).lm
    return lm, Pair(first, second, answers, [wrong]), logits


def test_every_number_is_that_of_the_models_own_logits(baseline, case):
    lm, pair, logits = case
    got = called(baseline, lm, pair, top=4)
    for row, before in enumerate(("", "corrupt_")):
        probs = logits[row].softmax(-1)
        right = [float(logits[row, token]) for token in pair.answers]
        difference = sum(right) / 2 - float(logits[row, pair.wrong])
        prob = sum(float(probs[token]) for token in pair.answers)
        ranked = logits[row].argsort(descending=True).tolist()
        rank = min(ranked.index(token) for token in pair.answers)
        expected = {
            "logit_diff": difference,
            "prob": prob,
            "prob_diff": prob - float(probs[pair.wrong]),
            "accuracy": float(difference > 0),
            "rank": rank,
            "top1": float(ranked[0] in pair.answers),
        }
        for name, value in expected.items():
            assert float(got[before + name]) == pytest.approx(value, abs=1e-4), before + name
        assert got[before + "top_token"].tolist() == ranked[:4]
        torch.testing.assert_close(
            got[before + "top_prob"].double(), probs[ranked[:4]], atol=1e-5, rtol=1e-5
        )
    both = (got["logit_diff"] + got["corrupt_logit_diff"]) / 2
    assert float(got["prior_logit_diff"]) == pytest.approx(float(both), abs=1e-5)


def test_the_most_probable_token_as_answer_is_top1_and_rank_0(baseline, case):
    lm, pair, logits = case
    order = logits[0].argsort(descending=True).tolist()
    best = called(baseline, lm, Pair(pair.clean, pair.corrupt, order[0], order[1]))
    assert (float(best["accuracy"]), float(best["top1"]), float(best["rank"])) == (1, 1, 0)
    worst = called(baseline, lm, Pair(pair.clean, pair.corrupt, order[-1], order[0]))
    assert (float(worst["accuracy"]), float(worst["top1"])) == (0, 0)
    assert float(worst["rank"]) == len(order) - 1


def test_accuracy_follows_the_probabilities_where_they_are_the_metric(baseline, case):
    """Mean logits and summed probabilities of several answers can disagree."""
    lm, pair, logits = case
    order = logits[0].argsort(descending=True).tolist()
    mixed = Pair(pair.clean, pair.corrupt, [order[0], order[-1]], [order[1]])
    by_logits = called(baseline, lm, mixed)
    by_probs = called(baseline, lm, mixed, metric="prob_diff")
    assert float(by_logits["logit_diff"]) < 0 < float(by_probs["prob_diff"])
    assert (float(by_logits["accuracy"]), float(by_probs["accuracy"])) == (0, 1)


def test_several_pairs_have_means_with_intervals(project, tiny_llama):
    given = {"model": str(tiny_llama), "phenomenon": "ioi:store", "n": 6}
    result = mi.run("baseline", **given)
    assert 0 <= float(result["accuracy"]) <= 1
    for name in ("accuracy", "logit_diff", "prob", "top1"):
        low, high = (float(result.arrays[f"{name}:{end}"]) for end in ("low", "high"))
        assert low <= float(result[name]) <= high


def test_a_head_without_weights_gives_all_logits_at_once(baseline, tiny_llama, monkeypatch):
    loaded = load(ModelSpec(str(tiny_llama)), Silent())
    ids = [loaded.tokenizer(MARY[name]).input_ids for name in ("clean", "corrupt")]
    first, second = (Prompt(each, {"end": len(each) - 1}, None) for each in ids)
    pair = Pair(first, second, [5], [6])
    right = called(baseline, loaded.lm, pair)
    monkeypatch.setattr(readout, "VOCABULARY_CHUNK", 16)
    monkeypatch.setattr(readout, "has_weights", lambda lm: False)
    seen = []
    head = loaded.lm.lm_head._module.register_forward_hook(lambda *_: seen.append(1))
    got = called(baseline, loaded.lm, pair)
    head.remove()
    # The model's own twice, which is skipped, and ours: not one for each piece of the vocabulary.
    assert len(seen) == 3
    assert set(got) == set(right)
    for name, value in right.items():
        torch.testing.assert_close(torch.as_tensor(got[name]), torch.as_tensor(value), msg=name)
