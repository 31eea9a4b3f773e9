"""Rates of a behaviour against plain generation, plain judging and plain counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import RunFailed
from remote_mi.common.statistics.intervals import share_interval

from ...tokenizers import save_model, wrapped

QUESTION = "Text: {text}\nIs this about Mary? Answer yes or no:"
PROMPTS = [
    ("When Mary and John went to the store, John", "store"),
    ("Then, Tom and John had a long argument, and afterwards Tom said to", "talk"),
    ("After Anna", "other"),
    ("When Lucy and Tom went to the store, Tom gave a drink to", "store"),
    ("Then, Mark and Lucy had a long argument, and afterwards", "talk"),
    ("Paul and Lucy went to the park", "other"),
]


def prompts(behaviour):
    return [{"prompt": text, "behaviour": behaviour, "label": name} for text, name in PROMPTS]


@pytest.fixture(scope="module")
def plain(tiny):
    folder = tiny("llama")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def texts(plain, steps):
    """The greedy text of each prompt, as transformers writes it."""
    model, tokenizer = plain
    found = []
    for prompt, _ in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        own = model.generate(ids, max_new_tokens=steps, do_sample=False, pad_token_id=0)
        found.append(own[0, ids.shape[1] :].tolist())
    return found


def test_rates_are_those_of_plain_texts(project, tiny, plain):
    model, tokenizer = plain
    expected = texts(plain, 5)
    words = [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    letter = next(c for c in "aeiostnr" if 0 < sum(c in w.lower() for w in words) < len(words))
    result = mi.run(
        "behaviour", model=tiny("llama"), pairs=prompts({"contains": [letter]}), steps=5
    )
    got = [row.values[0] for row in result.each("text")]
    assert [[i for i in row if i >= 0] for row in got] == expected
    shows = np.array([float(letter in w.lower()) for w in words])
    assert [float(one.values[0]) for one in result.each("shows")] == shows.tolist()
    overall = share_interval(shows)
    for end in ("values", "low", "high"):
        own = {"values": "value"}.get(end, end)
        np.testing.assert_allclose(getattr(result["shows"], end), getattr(overall, own), atol=1e-6)
    names = [name for _, name in PROMPTS]
    rates = result["class_rate"]
    assert rates.coords["class"] == sorted(set(names))
    for index, name in enumerate(sorted(set(names))):
        own = share_interval(shows[[n == name for n in names]])
        rest = shows[[n != name for n in names]].mean()
        assert float(rates.values[index]) == pytest.approx(float(own.value), abs=1e-6)
        assert float(rates.low[index]) == pytest.approx(float(own.low), abs=1e-6)
        difference = float(result["difference"].values[index])
        assert difference == pytest.approx(float(own.value) - rest, abs=1e-6)
    for (prompt, _), loss in zip(PROMPTS, result.each("loss"), strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            whole = float(model(ids, labels=ids).loss)
        assert float(loss) == pytest.approx(whole, abs=1e-4)


def test_another_behaviour_of_the_same_texts_runs_no_pass(project, tiny):
    first = mi.run("behaviour", model=tiny("llama"), pairs=prompts({"contains": ["e"]}), steps=3)
    again = mi.run("behaviour", model=tiny("llama"), pairs=prompts({"matches": "^.a"}), steps=3)
    assert first.provenance["record"]["forward_passes"] > 0
    assert again.provenance["record"]["parts_from_cache"] == 1
    assert again.provenance["key"] != first.provenance["key"]
    same = mi.run("behaviour", model=tiny("llama"), pairs=prompts({"matches": "^.a"}), steps=3)
    assert same.provenance["key"] == again.provenance["key"]


def byte_llama(size):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def test_a_question_is_answered_by_the_models_own_probabilities(project, tmp_path):
    folder, tokenizer = tmp_path / "bytes", wrapped("byte-level BPE")
    model = save_model(folder, tokenizer, byte_llama)
    pairs = prompts({"yes_no": QUESTION})
    result = mi.run("behaviour", model=folder, pairs=pairs, steps=3)
    other = mi.run("behaviour", model=folder, pairs=prompts({"contains": ["a"]}), steps=3)
    assert other.provenance["record"]["parts_from_cache"] == 0, "a question is a pass of its own"
    before, after = (tokenizer(t).input_ids for t in QUESTION.split("{text}"))
    firsts = {
        word: {tokenizer(QUESTION.split("{text}")[1] + s + w).input_ids[len(after)]
               for w in (word, word.title()) for s in ("", " ")}
        for word in ("yes", "no")
    }  # fmt: skip
    yes, no = (sorted(firsts[a] - firsts[b]) for a, b in (("yes", "no"), ("no", "yes")))
    ends = {tokenizer.eos_token_id}
    for text, prob, shows in zip(
        texts((model, tokenizer), 3), result.each("yes_prob"), result.each("shows"), strict=True
    ):
        ids = [*before, *[t for t in text if t not in ends], *after]
        with torch.no_grad():
            p = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        expected = float(p[yes].sum() / (p[yes].sum() + p[no].sum()))
        assert float(prob.values[0, 0]) == pytest.approx(expected, abs=1e-4)
        assert float(shows.values[0]) == (expected > 0.5)


def test_draws_depend_on_the_prompt_and_the_seed_alone(project, tiny):
    asked = {"steps": 4, "temperature": 1.0, "draws": 3}
    whole = mi.run("behaviour", model=tiny("llama"), pairs=prompts({"contains": ["a"]}), **asked)
    last = prompts({"contains": ["a"]})[-1:]
    alone = mi.run("behaviour", model=tiny("llama"), pairs=last, **asked)
    np.testing.assert_array_equal(whole.each("text")[-1].values, alone.each("text")[0].values)
    assert len({tuple(row) for row in alone.each("text")[0].values.tolist()}) > 1
    other = mi.run("behaviour", model=tiny("llama"), pairs=last, parameters={**asked, "seed": 1})
    assert (other.each("text")[0].values != alone.each("text")[0].values).any()


def test_both_prompts_of_a_pair_are_classes(project, tiny):
    pairs = [
        {"clean": PROMPTS[i][0], "corrupt": PROMPTS[i + 1][0], "behaviour": {"contains": ["a"]}}
        for i in (0, 2, 4)
    ]
    result = mi.run("behaviour", model=tiny("llama"), pairs=pairs, steps=3)
    assert [p["clean"] for p in result.prompts] == [text for text, _ in PROMPTS]
    assert result["class_rate"].coords["class"] == ["clean", "corrupt"]
    assert len(set(result.document["clusters"])) == 3, "a pair is one sample"


def test_a_rate_of_nothing_and_a_slow_expression_are_told(project, tiny, monkeypatch):
    result = mi.run("behaviour", model=tiny("llama"), pairs=prompts({"contains": ["ß"]}), steps=2)
    assert any("no text shows the behaviour" in note for note in result.notes)
    assert float(result["shows"].values) == 0 and float(result["shows"].high) > 0.3
    monkeypatch.setattr("remote_mi.prompts.behaviours.LONGEST_SEARCH", 1e-9)
    with pytest.raises(RunFailed, match="searched the text of prompt 1 for more than"):
        mi.run(
            "behaviour",
            model=tiny("llama"),
            pairs=prompts({"matches": "(.+)+(.+)+(.+)+\\1ß"}),
            steps=2,
        )


def test_a_rebuilt_run_judges_alike(project, tiny):
    from remote_mi.jobs.reproduction.rebuild import read_kept, recorded_job, what_changed

    result = mi.run("behaviour", model=tiny("llama"), pairs=prompts({"contains": ["a"]}), steps=2)
    kept = read_kept(result.path)
    assert what_changed(kept, recorded_job(kept, result.path / "source", project)) == ""
