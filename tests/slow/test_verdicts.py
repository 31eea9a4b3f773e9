"""What verdicts and marks say of real runs: what is known is found with 8 pairs, and chance is not.

Verdicts are held against behaviours that are not there: answers that belong to other pairs, and
models with random weights. Effects of a model are real, whatever its answers, so single cells are
no such case; the simulations of tests/benchmarks/coverage.py are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from remote_mi.common.statistics.intervals import mean_interval
from remote_mi.models import tiny_models
from remote_mi.prompts import phenomena

from .test_known_numbers import NAMES

REPEATED = 400
RANDOM_MODELS = 100


def told(result, output):
    """The cells that stand out, by index."""
    sized = ~result.without_size(output)
    return {tuple(map(int, at)) for at in np.argwhere(~result.explained(output) & sized)}


@pytest.fixture(scope="module")
def heads(embedded):
    return embedded("head_patching", phenomenon="ioi:store", n=8)


def test_the_known_heads_are_told_with_8_pairs(heads):
    verdict = heads.verdict
    assert verdict.status == "shown" and verdict.against == 0 and verdict.answer_prob > 0.1
    found = told(heads, "recovery")
    assert {(23, 3), (20, 0), (29, 1), (29, 0), (24, 4)} <= found
    assert len(found) < 40, "most of the 270 heads are not claimed"


def test_the_way_of_the_name_is_told_with_8_pairs(embedded):
    result = embedded("activation_patching", phenomenon="ioi:store", n=8)
    found, labels = told(result, "recovery"), result.prompts[0]["labels"]
    s2, end = labels["s2"], labels["end"]
    assert {(layer, s2) for layer in range(5, 20)} <= found
    assert {(layer, end) for layer in range(25, 30)} <= found


def test_swapped_answers_turn_every_sign_and_are_asked_about(embedded):
    examples = phenomena.find("gendered_pronoun", Path.cwd()).prompts(6).examples
    pairs, swapped = [], []
    for one in examples:
        pair = {"clean": one.clean, "corrupt": one.corrupt}
        pairs.append({**pair, "answer": one.answer, "wrong": one.wrong})
        swapped.append({**pair, "answer": one.wrong, "wrong": one.answer})
    plain, result = (embedded("attribution_patching", pairs=some) for some in (pairs, swapped))
    assert plain.verdict.status == "shown" and result.verdict.status == "opposite"
    assert "swapped?" in result.verdict.says
    effect, recovery = result["effect"].values, result["recovery"].values
    assert np.abs(recovery).max() > 0.1
    assert (np.sign(recovery) == np.sign(effect)).all()
    assert recovery == pytest.approx(-plain["recovery"].values, abs=1e-4)


def test_answers_of_other_pairs_are_no_behaviour(embedded):
    rng = np.random.default_rng(0)
    text = "When {} and {} went to the store, {} gave a drink to"
    pairs = []
    for _ in range(40):
        io, s, right, wrong = (str(name) for name in rng.choice(NAMES, 4, replace=False))
        clean, corrupt = text.format(io, s, s), text.format(io, s, io)
        pairs.append(
            {"clean": clean, "corrupt": corrupt, "answer": f" {right}", "wrong": f" {wrong}"}
        )
    result = embedded("baseline", pairs=pairs)
    clean, corrupt = (result.each(name) for name in ("logit_diff", "corrupt_logit_diff"))
    gaps = np.array([float(a) - float(b) for a, b in zip(clean, corrupt, strict=True)])
    alarms = sum(
        bool(mean_interval(rng.choice(gaps, 8, replace=False)).excludes_zero)
        for _ in range(REPEATED)
    )
    assert stats.binomtest(alarms, REPEATED, 0.05, "greater").pvalue > 0.001
    assert mean_interval(gaps).low < 0 < mean_interval(gaps).high


@pytest.mark.parametrize("phenomenon", ["ioi:store", "subject_verb_agreement"])
def test_models_with_random_weights_show_no_behaviour(tmp_path, phenomenon):
    """Each of many models is judged on 8 pairs, by the gap that a verdict judges."""
    examples = phenomena.find(phenomenon.partition(":")[0], Path.cwd()).prompts(16).examples
    told = [(e.clean, e.corrupt, str(e.answer), str(e.wrong)) for e in examples]
    size = tiny_models.save_tokenizer(tmp_path, [text for texts in told for text in texts])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [[tokenizer(text).input_ids for text in texts] for texts in told]
    prompts = [ids for clean, corrupt, *_ in rows for ids in (clean, corrupt)]
    longest = max(map(len, prompts))
    # What follows a prompt changes nothing at its end.
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])
    ends = torch.tensor([len(ids) - 1 for ids in prompts])
    answers = torch.tensor([answer[0] for *_, answer, _ in rows])
    wrongs = torch.tensor([wrong[0] for *_, wrong in rows])
    alarms = 0
    for seed in range(RANDOM_MODELS):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_models.configuration("llama", size)).eval()
        tiny_models.set_biases(model)
        with torch.no_grad():
            logits = model(padded).logits[torch.arange(len(padded)), ends]
        of_pairs = logits.unflatten(0, (-1, 2))  # [pair, clean and corrupt, vocabulary]
        index = torch.arange(len(rows))
        favour = of_pairs[index, :, answers] - of_pairs[index, :, wrongs]
        chosen = np.random.default_rng(seed).permutation(len(rows))[:8]
        gaps = (favour[:, 0] - favour[:, 1]).double().numpy()[chosen]
        alarms += bool(mean_interval(gaps).excludes_zero)
    assert stats.binomtest(alarms, RANDOM_MODELS, 0.05, "greater").pvalue > 0.001
