"""Answers of several tokens: read as a whole, exactly as plain passes with the answer appended."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, measure, run
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.errors import PromptErrors

from ...conftest import MARY
from ..reference import Reference

FAMILIES = ("llama", "gpt2", "neox-parallel", "gemma2", "qwen3")
NUMBERS = ("log_prob", "log_prob_per_token", "wrong_log_prob", "whole_accuracy", "logit_diff")
LONG = {**MARY, "answer": " Mary gave a", "wrong": " Mary gave the"}
PARTED = {**MARY, "answer": " Mary gave a drink", "wrong": " John"}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny):
    folder = tiny(request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    return request.param, folder, plain, AutoTokenizer.from_pretrained(folder)


def ids_of(tokenizer, text):
    return tokenizer(text)["input_ids"]


def log_probs(plain, tokenizer, text, answer):
    """log p of each token of the answer after the text, one pass with the answer appended."""
    before, whole = ids_of(tokenizer, text), ids_of(tokenizer, text + answer)
    with torch.no_grad():
        found = plain(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    return [float(found[i - 1, whole[i]]) for i in range(len(before), len(whole))]


def test_a_baseline_reads_whole_answers_and_differences_where_they_part(model, project):
    _, folder, plain, tokenizer = model
    # " Mary gave" is shared, so that the difference is read after it.
    parts = [(MARY["clean"] + " Mary gave", " a", " the"), (MARY["clean"], " Mary", " John")]
    for pair, (text, a, b) in zip((LONG, PARTED), parts, strict=True):
        found = mi.run("baseline", pairs=[pair], model=str(folder))
        numbers = {name: float(found[name].values) for name in NUMBERS}
        right, wrong = (
            log_probs(plain, tokenizer, pair["clean"], pair[name]) for name in ("answer", "wrong")
        )
        first = (log_probs(plain, tokenizer, text, one)[0] for one in (a, b))
        assert numbers["log_prob"] == pytest.approx(sum(right), abs=1e-4)
        assert numbers["log_prob_per_token"] == pytest.approx(sum(right) / len(right), abs=1e-4)
        assert numbers["wrong_log_prob"] == pytest.approx(sum(wrong), abs=1e-4)
        assert numbers["whole_accuracy"] == (sum(right) > sum(wrong))
        assert numbers["logit_diff"] == pytest.approx(next(first) - next(first), abs=1e-4)
        assert any("answers of several tokens" in note for note in found.notes)


@pytest.mark.parametrize("metric", ["log_prob", "logit_diff"])
def test_every_cell_is_a_pass_with_the_answer_appended(model, project, metric):
    family, folder, _, tokenizer = model
    found = mi.run("activation_patching", pairs=[PARTED], model=str(folder), metric=metric)
    reference = Reference(folder, family)
    beyond = ids_of(tokenizer, PARTED["clean"] + PARTED["answer"])[:-1]
    own = len(ids_of(tokenizer, PARTED["clean"]))
    other = ids_of(tokenizer, PARTED["corrupt"]) + beyond[own:]
    whole = [*beyond[own:], ids_of(tokenizer, PARTED["clean"] + PARTED["answer"])[-1]]
    clean, corrupt = torch.tensor([beyond]), torch.tensor([other])
    john = ids_of(tokenizer, " John")[0]

    def score(ids):
        with torch.no_grad():
            logits = reference.model(ids).logits[0].float()
        if metric == "logit_diff":
            return float(logits[own - 1, whole[0]] - logits[own - 1, john])
        rows = logits[own - 1 :].log_softmax(-1)
        return float(sum(rows[i, token] for i, token in enumerate(whole)))

    effect = found["effect"].values
    assert effect.shape == (3, len(beyond))
    base = score(corrupt)
    assert float(found["clean"].values) == pytest.approx(score(clean), abs=1e-4)
    assert float(found["corrupt"].values) == pytest.approx(base, abs=1e-4)
    states = reference.capture(clean, "resid_pre")
    for layer in range(3):
        for position in range(len(beyond)):

            def change(value, layer=layer, position=position):
                value = value.clone()
                value[:, position] = states[layer][:, position]
                return value

            hook = reference.hook("resid_pre", layer, change)
            try:
                expected = score(corrupt) - base
            finally:
                hook.remove()
            assert effect[layer, position] == pytest.approx(expected, abs=1e-4)
    assert abs(effect).max() > 1e-3


def test_attribution_is_of_the_whole_answer(model, project):
    """The sum over the difference of embeddings, by autograd on the plain model."""
    _, folder, plain, tokenizer = model
    found = mi.run("attribution_patching", pairs=[PARTED], model=str(folder), metric="log_prob")
    clean = ids_of(tokenizer, PARTED["clean"] + PARTED["answer"])
    own = len(ids_of(tokenizer, PARTED["clean"]))
    corrupt = ids_of(tokenizer, PARTED["corrupt"]) + clean[own:]
    table = plain.get_input_embeddings()
    at = table(torch.tensor([corrupt[:-1]])).detach().requires_grad_(True)
    logits = plain(inputs_embeds=at).logits[0].float().log_softmax(-1)
    total = sum(logits[i - 1, clean[i]] for i in range(own, len(clean)))
    slope = torch.autograd.grad(total, at)[0]
    change = table(torch.tensor([clean[:-1]])) - at
    expected = (slope * change).sum(-1)[0].detach().numpy()
    np.testing.assert_allclose(found["effect"].values[0], expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-4


def test_the_loss_of_a_prompt_is_not_that_of_its_answer(model):
    _, folder, plain, tokenizer = model
    lm = load(ModelSpec(str(folder)), Silent()).lm
    ids = ids_of(tokenizer, MARY["clean"])
    whole = ids_of(tokenizer, MARY["clean"] + " Mary gave a")[len(ids) :]
    prompt = Prompt(ids + whole[:-1], {"end": len(ids) - 1}, whole[0], None, whole)
    with torch.no_grad(), lm.session():
        base = run(lm, prompt)
        loss = measure(lm, "loss", prompt)(base.hidden)[0].save()
        cut = measure(lm, "loss", prompt)(base.hidden[:, 1:])[0].save()
    with torch.no_grad():
        logits = plain(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    each = [-float(logits[i, token]) for i, (_, token) in enumerate(pairwise(ids))]
    assert float(loss) == pytest.approx(sum(each) / len(each), abs=1e-4)
    assert float(cut) == pytest.approx(sum(each[1:]) / len(each), abs=1e-4)


def test_steering_adds_at_the_end_and_after_and_continues_the_prompt_alone(project, tiny_llama):
    pairs = [PARTED, {**PARTED, "clean": MARY["clean"].replace("drink", "bottle")}]
    pairs[1]["corrupt"] = MARY["corrupt"].replace("drink", "bottle")
    given = {"model": str(tiny_llama), "layers": [1], "coefficients": [0.0, 4.0]}
    long = mi.run("steering", pairs=pairs, metric="log_prob", **given)
    short = mi.run("steering", pairs=[{**p, "answer": " Mary"} for p in pairs], **given)
    assert (long["plain_text"].values == short["plain_text"].values).all()
    effect = long["effect"].values  # [layer, coefficient], over pairs
    assert abs(effect[:, 1]).max() > 1e-3 and abs(effect[:, 0]).max() < 1e-6


@pytest.mark.parametrize(
    ("answer", "wrong", "said"),
    [
        (" Mary gave", " Mary", "which is one of them whole: nothing tells right and wrong apart"),
        (" Mary gave", " Mary gave", "are the same tokens, ' Mary gave'"),
        ([" Mary gave", " drink"], [" John"], "one of 2 right answers is 2 tokens"),
        ([" Mary gave", " drink"], [" Mary"], "go on with the same token, ' Mary'"),
        (" Mary", " Mary", "answer and wrong answer are the same token, ' Mary'"),
    ],
)
def test_answers_that_cannot_be_told_apart_are_refused(project, tiny_llama, answer, wrong, said):
    pair = {k: v for k, v in MARY.items() if k in ("clean", "corrupt")}
    pair |= {"answers": answer} if isinstance(answer, list) else {"answer": answer}
    pair |= {"wrongs": wrong} if isinstance(wrong, list) else {"wrong": wrong}
    with pytest.raises(PromptErrors, match=said):
        mi.run("baseline", pairs=[pair], model=str(tiny_llama))


def test_one_prompt_follows_one_token(project, tiny_llama):
    given = {"model": str(tiny_llama), "prompt": MARY["clean"]}
    with pytest.raises(UsageError, match=r"the target ' Mary gave' is 2 tokens.*must be one"):
        mi.run("logit_lens", target=" Mary gave", **given)
    of_pair = mi.run("logit_lens", pairs=[PARTED], model=str(tiny_llama))
    alone = mi.run("logit_lens", target=" Mary", **given)
    assert (of_pair["target_prob"].values == alone["target_prob"].values).all()
    assert any("the first one is followed" in note for note in of_pair.notes)
