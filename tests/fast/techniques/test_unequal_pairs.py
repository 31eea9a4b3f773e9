"""Pairs of unequal length: every technique puts in what corresponds, exactly as plain hooks do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.interventions import Pair, Prompt
from remote_mi.prompts.errors import PromptErrors

from ...conftest import MARY
from ..reference import Reference
from .test_gradients import by_hooks

LAYERS, HEADS, TOLERANCE = 3, 4, 1e-4
CAUSAL = ("llama", "gpt2", "neox-parallel", "gemma2", "qwen3")
CLEAN = MARY["clean"]  # 14 tokens: When Mary and John went to the store , John gave a drink to
ANSWERS = {"answer": MARY["answer"], "wrong": MARY["wrong"]}
#: Pairs of texts, and for each position of the clean prompt the corrupt one's that corresponds.
PAIRS: dict[str, tuple[dict[str, Any], list[int | None]]] = {
    "one longer": (
        {"corrupt": CLEAN.replace(", John", ", the Mary"), "align": "ends"},
        [*range(9), 10, 11, 12, 13, 14],
    ),
    "three shorter": (
        {"corrupt": "When Mary went to the store, a Mary drink to", "align": "ends"},
        [0, 1, *[None] * 8, None, 8, 9, 10],
    ),
    "labels": (
        {
            "corrupt": "When John went to the drink store, the Mary gave to",
            "align": "labels",
            "labels": {"who": "Mary and John", "place": "the store", "s2": ", John"},
            "corrupt_labels": {"who": "John", "place": "drink store", "s2": ", the Mary"},
        },
        [0, None, None, 1, 2, 3, 5, 6, None, 9, 10, None, None, 11],
    ),
}


class Case:
    """A pair of texts on a model, with its tokens and what corresponds."""

    def __init__(self, family: str, folder: Any, name: str) -> None:
        self.family, self.model = family, str(folder)
        texts, matches = PAIRS[name]
        self.fields = {"clean": CLEAN, **ANSWERS, **texts}
        self.reference = Reference(folder, family)
        self.reference.model.requires_grad_(False)
        self.end = -1
        if family == "bert":  # [CLS] before, [MASK] and [SEP] after
            self.end, length = -2, len(matches)
            there = max(m for m in matches if m is not None) + 1
            own = [None if m is None else m + 1 for m in matches]
            matches = [0, *own, there + 1, there + 2]
            assert len(matches) == length + 3
        self.matches = matches
        self.clean, self.corrupt = (self.ids(self.fields[k]) for k in ("clean", "corrupt"))
        assert self.clean.shape[1] == len(matches) != self.corrupt.shape[1]
        self.answer, self.wrong = (self.word(ANSWERS[k]) for k in ("answer", "wrong"))

    def ids(self, text: str) -> torch.Tensor:
        return self.reference.ids(f"{text} [MASK]" if self.family == "bert" else text)

    def word(self, text: str) -> int:
        made = self.reference.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(made) == 1
        return made[0]

    def run(self, recipe: str, **given: Any) -> mi.Result:
        return mi.run(recipe, model=self.model, pairs=[self.fields], **given)

    def sides(
        self, direction: str
    ) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int, int]]]:
        """Base, other, and (position of the clean prompt, of the base, of the other)."""
        both = [(p, q) for p, q in enumerate(self.matches) if q is not None]
        if direction == "noise":
            return self.clean, self.corrupt, [(p, p, q) for p, q in both]
        return self.corrupt, self.clean, [(p, q, p) for p, q in both]

    def score(self, ids: torch.Tensor) -> float:
        return self.reference.score(ids, self.answer, self.wrong, self.end)

    def put(
        self, base: torch.Tensor, site: str, layer: int, value: torch.Tensor, places: Any, part: Any
    ) -> float:
        """The score with `value` at (of the base, of the value) places; its change."""

        def change(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            for own, there in places:
                x[:, own, part] = value[:, there, part]
            return x

        patched = (base, site, layer, change, self.answer, self.wrong, self.end)
        return self.reference.patch(*patched) - self.score(base)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of a family for each of them and each pair; one family runs with the quick group."""
    families = {"family": (*CAUSAL, "bert"), "causal": CAUSAL}
    for argument in families.keys() & set(metafunc.fixturenames):
        slow = [pytest.param(name, marks=pytest.mark.slow) for name in families[argument][1:]]
        metafunc.parametrize(argument, ["llama", *slow])
        metafunc.parametrize("name", list(PAIRS))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_cell_is_a_pass_with_what_corresponds_put_in(family, name, tiny, project, direction):
    case = Case(family, tiny(family), name)
    base, other, both = case.sides(direction)
    for site in ("resid_pre", "attn_out"):
        found = case.run("activation_patching", site=site, direction=direction)
        states = case.reference.capture(other, site)
        expected = np.full((LAYERS, len(case.matches)), np.nan)
        for layer in range(LAYERS):
            for clean, own, there in both:
                put = (base, site, layer, states[layer], [(own, there)], slice(None))
                expected[layer, clean] = case.put(*put)
        assert np.nanmax(np.abs(expected)) > 0.02, "there must be something to find"
        np.testing.assert_allclose(found["effect"].values, expected, atol=TOLERANCE)
        assert (np.isnan(found["control"].values) == np.isnan(expected)).all()
        for end, ids in (("clean", case.clean), ("corrupt", case.corrupt)):
            assert float(found[end].values) == pytest.approx(case.score(ids), abs=TOLERANCE)
        assert found["effect"].coords["position"] == found.prompts[0]["tokens"]
        alone = [p for p, match in enumerate(case.matches) if match is None]
        assert found.prompts[0].get("alone", []) == alone
        assert any("aligned by" in note for note in found.notes)
        assert not any("NaN" in note for note in found.notes)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_head_is_put_in_at_the_positions_that_correspond(family, name, tiny, project, direction):
    case = Case(family, tiny(family), name)
    base, other, both = case.sides(direction)
    found = case.run("head_patching", direction=direction)
    states = case.reference.capture(other, "head_z")
    width = states[0].shape[-1] // HEADS
    expected = np.zeros((LAYERS, HEADS))
    for layer in range(LAYERS):
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            places = [(own, there) for _, own, there in both]
            expected[layer, head] = case.put(base, "head_z", layer, states[layer], places, part)
    np.testing.assert_allclose(found["effect"].values, expected, atol=TOLERANCE)
    if direction == "noise":
        resampled = case.run("head_ablation", kind="resample")
        np.testing.assert_allclose(resampled["effect"].values, expected, atol=TOLERANCE)


def test_resampling_ablates_what_has_a_counterpart(family, name, tiny, project):
    case = Case(family, tiny(family), name)
    _, _, both = case.sides("noise")
    found = case.run("ablation", kind="resample")
    states = case.reference.capture(case.corrupt, "attn_out")
    whole, each = np.zeros(LAYERS), np.full((LAYERS, len(case.matches)), np.nan)
    for layer in range(LAYERS):
        put = (case.clean, "attn_out", layer, states[layer])
        whole[layer] = case.put(*put, [(own, there) for _, own, there in both], slice(None))
        for clean, own, there in both:
            each[layer, clean] = case.put(*put, [(own, there)], slice(None))
    np.testing.assert_allclose(found["layer_effect"].values, whole, atol=TOLERANCE)
    np.testing.assert_allclose(found["effect"].values, each, atol=TOLERANCE)
    assert np.isfinite(found["loss_change"].values).all()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_attribution_is_of_what_corresponds(causal, name, tiny, project, direction):
    case = Case(causal, tiny(causal), name)
    base, other, both = case.sides(direction)
    ends = Prompt([1], {}, None)
    pair = Pair(ends, ends, case.answer, case.wrong)
    for recipe, site in (("attribution_patching", "resid_pre"), ("head_attribution", "head_z")):
        found = case.run(recipe, direction=direction, compare="exact")
        own, slopes = by_hooks(case.reference, base[0].tolist(), site, "logit_diff", pair)
        theirs, _ = by_hooks(case.reference, other[0].tolist(), site, "logit_diff", pair)
        places, mine, there = (list(x) for x in zip(*both, strict=True))
        terms = torch.stack(
            [(t[there] - o[mine]) * s[mine] for o, s, t in zip(own, slopes, theirs, strict=True)]
        )
        if recipe == "head_attribution":
            expected = terms.unflatten(-1, (HEADS, -1)).sum((1, 3)).numpy()
        else:
            expected = np.full((LAYERS, len(case.matches)), np.nan)
            expected[:, places] = terms.sum(-1).numpy()
        np.testing.assert_allclose(found["effect"].values, expected, atol=TOLERANCE, rtol=1e-4)
        assert np.isfinite(found["correlation"].values).all()


def test_both_ends_are_read_where_each_prompt_ends(family, name, tiny, project):
    case = Case(family, tiny(family), name)
    found = case.run("baseline")
    for output, ids in (("logit_diff", case.clean), ("corrupt_logit_diff", case.corrupt)):
        assert float(found[output].values) == pytest.approx(case.score(ids), abs=TOLERANCE)


def test_answers_of_several_tokens_follow_both_prompts(tiny, project):
    """The metric is read at the end of the answer, and the answer's tokens correspond."""
    long = {"clean": CLEAN, "answer": " Mary gave a", "wrong": " John gave"}
    long |= PAIRS["three shorter"][0]
    found = mi.run("activation_patching", model=str(tiny("llama")), pairs=[long], metric="log_prob")
    reference = Reference(tiny("llama"), "llama")
    answer = reference.ids(long["answer"])[0].tolist()
    score = {}
    for name in ("clean", "corrupt"):
        ids = reference.ids(long[name])[0].tolist()
        with torch.no_grad():
            logits = reference.model(torch.tensor([ids + answer[:-1]])).logits[0]
        rows = logits[len(ids) - 1 :].log_softmax(-1)
        score[name] = float(sum(rows[i, token] for i, token in enumerate(answer)))
        assert float(found[name].values) == pytest.approx(score[name], abs=TOLERANCE)
    effect = found["effect"].values
    assert effect.shape == (LAYERS, 16) and np.isnan(effect[:, 2:11]).all()
    assert np.isfinite(effect[:, [0, 1, *range(11, 16)]]).all()


def test_a_vector_for_steering_is_the_difference_at_both_ends(tiny, project):
    pairs = [{"clean": CLEAN, **ANSWERS, **PAIRS["three shorter"][0]}]
    given = {"folds": 1, "coefficients": [1.0], "steps": 1, "control_draws": 0}
    found = mi.run("steering", model=str(tiny("llama")), pairs=pairs, **given)
    case = Case("llama", tiny("llama"), "three shorter")
    states = case.reference.capture(case.clean, "resid_pre")
    for layer in range(LAYERS):  # adding the difference once is putting the clean state in
        place = [(case.corrupt.shape[1] - 1, case.clean.shape[1] - 1)]
        put = case.put(case.corrupt, "resid_pre", layer, states[layer], place, slice(None))
        assert float(found["effect"].values[layer, 0]) == pytest.approx(put, abs=TOLERANCE)


def test_prompts_of_equal_length_are_as_without_alignment(tiny, project):
    model = str(tiny("llama"))
    plain = mi.run("activation_patching", model=model, **MARY)
    for align in ("ends", "labels"):
        given = mi.run("activation_patching", model=model, align=align, **MARY)
        np.testing.assert_array_equal(given["effect"].values, plain["effect"].values)
        assert given.notes == plain.notes


def test_pairs_with_and_without_a_counterpart_have_no_mean_there_and_say_so(tiny, project):
    others = ["went to the store, the Mary gave", "went to the drink store, John gave"]
    pairs = [
        {
            "clean": CLEAN,
            "corrupt": CLEAN.replace("went to the store, John gave", other),
            "template": "one",
            "align": "ends",
            **ANSWERS,
        }
        for other in others
    ]
    found = mi.run("activation_patching", model=str(tiny("llama")), pairs=pairs)
    assert found["effect"].values.shape == (LAYERS, 14)
    assert np.isfinite(found["effect"].values).all(), "only the other prompt has such positions"
    pairs[1]["corrupt"], pairs[1]["clean"] = CLEAN.replace(" and John", ""), CLEAN
    found = mi.run("activation_patching", model=str(tiny("llama")), pairs=pairs)
    empty = np.isnan(found["effect"].values).all(0)
    assert empty.nonzero()[0].tolist() == [2, 3]
    note = "2 of 14 positions have no mean, since some of the 2 pairs have no counterpart there"
    assert any(note in text and " and (1)" in text and " John (1)" in text for text in found.notes)


REFUSED = [
    ("integrated_gradients", {}, "with baseline corrupt compares the two prompts position by pos"),
    ("steering", {"method": "activation_addition", "folds": 1}, "with method activation_addition"),
]


@pytest.mark.parametrize("recipe, given, said", REFUSED)
def test_what_needs_equal_lengths_is_refused_before_anything_runs(
    tiny, project, recipe, given, said
):
    pair = {"clean": CLEAN, **ANSWERS, **PAIRS["one longer"][0]}
    with pytest.raises(PromptErrors) as refused:
        mi.run(recipe, model=str(tiny("llama")), pairs=[pair], **given)
    assert said in refused.value.message and "14 tokens" in refused.value.message
    assert not list(project.glob("runs/*"))


def test_what_reads_the_clean_prompt_alone_takes_any_pair(tiny, project):
    pair = {"clean": CLEAN, **ANSWERS, **PAIRS["one longer"][0]}
    given = [
        ("integrated_gradients", {"baseline": "zero", "steps": 4}, "attribution"),
        ("direct_logit_attribution", {}, "mlp"),
        ("logit_lens", {}, "top_prob"),
    ]
    for recipe, parameters, name in given:
        found = mi.run(recipe, model=str(tiny("llama")), pairs=[pair], **parameters)
        equal = mi.run(recipe, model=str(tiny("llama")), pairs=[{**MARY}], **parameters)
        np.testing.assert_allclose(found[name].values, equal[name].values, atol=1e-6)


def test_without_alignment_a_pair_of_unequal_length_is_refused(tiny, project):
    pair = {"clean": CLEAN, "corrupt": PAIRS["one longer"][0]["corrupt"], **ANSWERS}
    with pytest.raises(UsageError, match="they can be aligned: --align ends"):
        mi.run("activation_patching", model=str(tiny("llama")), pairs=[pair])
