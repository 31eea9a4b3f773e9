"""Continuations and steering against plain hooks on the transformers models."""

from __future__ import annotations

import nnsight
import numpy as np
import pytest
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, dealing, generate, generation, random_like
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ..reference import Reference

TOLERANCE = 1e-4
FAMILIES = ("llama", "gpt2", "neox", "gemma2")
LONG = ([5, 17, 9, 30, 12, 44, 8, 21, 33, 7], [5, 17, 9, 31, 12, 44, 9, 21, 33, 7])
SHORT = ([6, 18, 25, 13, 40, 11, 7], [6, 18, 24, 13, 40, 11, 7])
COEFFICIENTS = [-1.5, 0.0, 2.0]


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny):
    folder = tiny(request.param)
    return Reference(folder, request.param), load(ModelSpec(str(folder)), Silent()).lm


@pytest.fixture(scope="module")
def llama(tiny):
    folder = tiny("llama")
    return Reference(folder, "llama"), load(ModelSpec(str(folder)), Silent()).lm


@pytest.fixture(scope="module")
def steering(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    return loading.load_function(catalog.find("steering", folder), folder)


def within(lm, function, *arguments, **parameters):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, *arguments, **parameters))
    return found


def pair_of(texts, answer, wrong):
    clean, corrupt = (Prompt(list(ids), {}, None) for ids in texts)
    return Pair(clean, corrupt, answer, wrong)


def two_pairs():
    return [pair_of(LONG, 3, 4), pair_of(SHORT, 14, 15)]


def continued(reference, ids, steps, layer, change):
    """Greedy continuation, the whole row run again at every step, with a hook."""
    row = list(ids)
    hook = reference.hook("resid_pre", layer, change)
    with torch.no_grad():
        for _ in range(steps):
            row.append(int(reference.model(torch.tensor([row])).logits[0, -1].argmax()))
    hook.remove()
    return row[len(ids) :]


def from_position(vector, first):
    def change(stream):
        stream = stream.clone()
        stream[:, first:] += vector
        return stream

    return change


@pytest.mark.parametrize("weights", [True, False], ids=["kept", "run again"])
@pytest.mark.parametrize("shared", [0, 4])
def test_edited_continuations_equal_a_loop_with_a_hook(both, weights, shared, monkeypatch):
    reference, lm = both
    torch.manual_seed(1)
    vectors = torch.randn(3, 1, 32) * torch.tensor([0.0, 3.0, 8.0])[:, None, None]
    first, ids = 6, LONG[0]

    def edit(stream, places, rows):
        return torch.where((places >= first)[:, :, None], stream + vectors[rows], stream)

    expected = [continued(reference, ids, 5, 1, from_position(v, first)) for v in vectors]
    assert len({tuple(row) for row in expected}) > 1, "the vectors must change the text"
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])
    monkeypatch.setattr(generation, "has_weights", lambda lm: weights)
    got = within(lm, generate, [ids] * 3, 5, {1: edit}, shared)
    assert got.tolist() == expected


def test_an_unedited_continuation_equals_transformers_own(both):
    reference, lm = both
    ids = [LONG[0], LONG[1]]
    own = reference.model.generate(
        torch.tensor(ids),
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        use_cache=False,
    )
    got = within(lm, generate, ids, 6)
    ended = torch.where(got < 0, own[:, 10:], got)
    assert ended.tolist() == own[:, 10:].tolist()


def test_nothing_follows_the_end_of_a_text(llama, monkeypatch):
    _, lm = llama
    whole = within(lm, generate, [LONG[0]], 6)[0].tolist()
    end = whole[2]
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [end])
    got = within(lm, generate, [LONG[0]], 6)[0].tolist()
    last = whole.index(end)
    assert got == whole[: last + 1] + [-1] * (5 - last)


def contrast(reference, pair):
    """h(clean) − h(corrupt) before each layer, [layer, position, d_model]."""
    clean, corrupt = (
        torch.cat(reference.capture(torch.tensor([p.ids]), "resid_pre"))
        for p in (pair.clean, pair.corrupt)
    )
    return clean - corrupt


def by_hooks(reference, pair, vectors, places):
    """The change of the logit difference, [layer, coefficient], one forward pass each.

    vectors: [layer, position, d_model]; places: the positions they are added to.
    """
    ids = torch.tensor([pair.corrupt.ids])
    plain = reference.score(ids, pair.answer, pair.wrong)
    effect = np.zeros((len(vectors), len(COEFFICIENTS)))
    for layer, vector in enumerate(vectors):
        for column, coefficient in enumerate(COEFFICIENTS):

            def change(stream, vector=vector, coefficient=coefficient):
                stream = stream.clone()
                stream[:, places] += coefficient * vector
                return stream

            score = reference.patch(ids, "resid_pre", layer, change, pair.answer, pair.wrong)
            effect[layer, column] = score - plain
    return effect


@pytest.mark.parametrize("tokens", [1, 8192], ids=["a pass a layer", "one pass"])
def test_a_mean_difference_of_the_other_pairs_is_added_at_the_end(
    both, steering, tokens, monkeypatch
):
    reference, lm = both
    monkeypatch.setattr(dealing, "rows_that_fit", lambda *_: tokens)
    pairs = [*two_pairs(), pair_of(([6, 9, 41, 50], [6, 10, 41, 50]), 20, 21)]
    got = within(lm, steering, pairs, coefficients=COEFFICIENTS, folds=3, control_draws=1, steps=2)
    differences = [contrast(reference, pair)[:, -1:] for pair in pairs]
    for index, pair in enumerate(pairs):
        others = [d for i, d in enumerate(differences) if i != index]
        expected = by_hooks(reference, pair, sum(others) / 2, [len(pair.clean.ids) - 1])
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(got["effect"][index].numpy(), expected, atol=TOLERANCE)
        assert got["effect"][index][:, 1].abs().max() < 1e-5, "coefficient 0 changes nothing"
        ids = {"clean": pair.clean.ids, "corrupt": pair.corrupt.ids}
        scores = {
            k: reference.score(torch.tensor([v]), pair.answer, pair.wrong) for k, v in ids.items()
        }
        for name, score in {**scores, "gap": scores["clean"] - scores["corrupt"]}.items():
            assert float(got[name][index]) == pytest.approx(score, abs=TOLERANCE)


def test_activation_addition_adds_the_other_pair_at_its_own_positions(both, steering):
    reference, lm = both
    pairs = two_pairs()
    got = within(
        lm,
        steering,
        pairs,
        method="activation_addition",
        coefficients=COEFFICIENTS,
        folds=2,
        control_draws=1,
        steps=2,
    )
    for index, other in ((0, 1), (1, 0)):
        vectors = contrast(reference, pairs[other])
        count = min(len(SHORT[0]), len(LONG[0]))
        expected = by_hooks(reference, pairs[index], vectors[:, :count], list(range(count)))
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(got["effect"][index].numpy(), expected, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["mean_difference", "activation_addition"])
def test_the_text_is_that_of_a_loop_with_a_hook(both, steering, method, monkeypatch):
    reference, lm = both
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])
    pair = pair_of(LONG, 3, 4)
    got = within(
        lm,
        steering,
        [pair],
        method=method,
        coefficients=[-4.0, 4.0],
        folds=1,
        control_draws=0,
        steps=4,
        layers=[1, 2],
        text_layer=2,
    )
    vector = contrast(reference, pair)[2]
    assert tuple(got["effect"][0].shape) == (2, 2)

    def text(coefficient):
        def change(stream):
            stream = stream.clone()
            if method == "mean_difference":
                stream[:, 9:] += coefficient * vector[9]
            else:
                stream[:, :10] += coefficient * vector
            return stream

        return continued(reference, pair.corrupt.ids, 4, 2, change)

    assert got["plain_text"].tolist() == text(0.0)
    assert got["steered_text"].tolist() == [text(-4.0), text(4.0)]


def test_a_pair_the_other_way_round_counts_with_the_opposite_sign(llama, steering):
    reference, lm = llama
    pair, turned = pair_of(LONG, 3, 4), pair_of((LONG[1], LONG[0]), 4, 3)
    got = within(
        lm, steering, [pair, turned], coefficients=COEFFICIENTS, folds=1, control_draws=0, steps=1
    )
    vector = contrast(reference, pair)[:, -1:]
    for index, (one, sign) in enumerate(((pair, 1.0), (turned, -1.0))):
        expected = by_hooks(reference, one, sign * vector, [9])
        np.testing.assert_allclose(got["effect"][index].numpy(), expected, atol=TOLERANCE)


def test_the_control_is_the_size_of_the_effect_of_other_directions_of_that_length(
    llama, steering, monkeypatch
):
    _, lm = llama
    vector = torch.randn(3, 2, 32)
    directions = random_like(vector, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions.norm(dim=-1), vector.norm(dim=-1).expand(5, -1, -1))
    cosines = torch.nn.functional.cosine_similarity(directions, vector[None], dim=-1)
    assert cosines.abs().max() < 0.7
    monkeypatch.setitem(steering.__globals__, "random_like", lambda v, *_: torch.stack([2 * v, -v]))
    got = within(
        lm, steering, two_pairs(), coefficients=[-2.0, -1.0, 1.0, 2.0], control_draws=2, steps=1
    )
    for effect, control in zip(got["effect"], got["random_effect"], strict=True):
        torch.testing.assert_close(control[0, :, 1], effect[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(control[1], effect.flip(1), atol=1e-4, rtol=1e-4)
    assert [int(fold) for fold in got["fold"]] in ([0, 1], [1, 0])


def test_it_is_the_same_for_the_same_seed_and_another_for_another(llama, steering):
    _, lm = llama
    runs = [within(lm, steering, two_pairs(), control_draws=2, steps=1, seed=s) for s in (0, 0, 1)]
    first, again, other = (torch.stack(run["random_effect"]) for run in runs)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("method", ["mean_difference", "activation_addition"])
def test_identical_prompts_give_no_direction(llama, steering, method):
    same = pair_of((LONG[0], LONG[0]), 3, 4)
    with pytest.raises(ValueError, match="no direction to steer along"):
        within(llama[1], steering, [same], method=method, folds=1, steps=1)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"folds": 3}, "2 pairs cannot be dealt into 3 folds"),
        ({"layers": [3]}, "there is no layer 3"),
        ({"layers": [2, 1]}, "not in ascending order"),
        ({"layers": [1], "text_layer": 2}, "text_layer 2 is not one of"),
    ],
)
def test_what_cannot_be_done_is_refused(llama, steering, given, said):
    with pytest.raises(ValueError, match=said):
        within(llama[1], steering, two_pairs(), **given)
