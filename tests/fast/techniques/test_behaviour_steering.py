"""Steered texts against a loop with a plain hook, and their rates against plain counting."""

from __future__ import annotations

import nnsight
import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, generation
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ..reference import Reference

LAYER, STEPS, COEFFICIENTS = 2, 4, [-6.0, 6.0]
NEUTRAL = [7, 19, 3, 28, 40, 11]
ROWS = [
    ([5, 17, 9, 30, 12], [5, 17, 9, 31]),
    ([6, 18, 25], [6, 18, 24, 13, 40, 11]),
    ([8, 2, 33, 21], [9, 2, 33, 22]),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def both(request, tiny):
    folder = tiny(request.param)
    return Reference(folder, request.param), load(ModelSpec(str(folder)), Silent()).lm


@pytest.fixture(scope="module")
def steer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    function = loading.load_function(catalog.find("behaviour_steering", folder), folder)

    def run(lm, pairs, **given):
        asked = {"layer": LAYER, "coefficients": COEFFICIENTS, "steps": STEPS, "control_draws": 2}
        neutral = Prompt(NEUTRAL, {}, None)
        with torch.no_grad(), lm.session():
            found = nnsight.save(function(lm, pairs, neutral=neutral, **{**asked, **given}))
        return found

    return run


def made(rows=ROWS):
    found = []
    for pair in rows:
        apart = len(pair[0]) != len(pair[1])
        matches = [None] * len(pair[0]) if apart else None
        prompts = [Prompt(list(ids), {}, None) for ids in pair]
        found.append(Pair(*prompts, [], [], matches=matches))
    return found


def adds(vector, first):
    def change(stream):
        stream = stream.clone()
        stream[:, first:] += vector
        return stream

    return change


def text(reference, ids, vector):
    """The greedy continuation of a prompt with a vector from its end on, run whole every step."""
    row = list(ids)
    hook = reference.hook("resid_pre", LAYER, adds(vector, len(ids) - 1))
    with torch.no_grad():
        for _ in range(STEPS):
            row.append(int(reference.model(torch.tensor([row])).logits[0, -1].argmax()))
    hook.remove()
    return row[len(ids) :]


def loss(reference, vector):
    ids = torch.tensor([NEUTRAL])
    hook = reference.hook("resid_pre", LAYER, adds(vector, 0))
    with torch.no_grad():
        found = float(reference.model(ids, labels=ids).loss)
    hook.remove()
    return found


def test_texts_and_losses_are_those_of_a_hook(both, steer, monkeypatch):
    reference, lm = both
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])
    found = steer(lm, made(), folds=3)
    ends = [
        [reference.capture(torch.tensor([ids]), "resid_pre")[LAYER][0, -1] for ids in pair]
        for pair in ROWS
    ]
    contrasts = [clean - corrupt for clean, corrupt in ends]
    zero, changed = torch.zeros_like(contrasts[0]), 0
    losses = []
    for index, (clean, corrupt) in enumerate(ROWS):
        vector = sum(c for i, c in enumerate(contrasts) if i != index) / 2
        assert found["clean_text"][index].tolist() == text(reference, clean, zero)
        plain = text(reference, corrupt, zero)
        assert found["plain_text"][index].tolist() == plain
        expected = [text(reference, corrupt, c * vector) for c in COEFFICIENTS]
        assert found["steered_text"][index].tolist() == expected
        changed += sum(row != plain for row in expected)
        losses.append([loss(reference, c * vector) - loss(reference, zero) for c in COEFFICIENTS])
    assert changed, "the vector changes some text"
    np.testing.assert_allclose(found["loss_change"], np.mean(losses, 0), atol=1e-4)
    assert float(found["loss"]) == pytest.approx(loss(reference, zero), abs=1e-4)
    assert found["random_text"][0].shape == (2, len(COEFFICIENTS), STEPS)


@pytest.mark.parametrize(
    "rows, given, said",
    [
        (ROWS[:1], {}, "1 pairs cannot be dealt into 2 folds"),
        (ROWS, {"layer": 3}, "there is no layer 3"),
        ([(ROWS[0][0], ROWS[0][0])] * 2, {}, "end in the same state"),
    ],
)
def test_what_cannot_be_steered_is_refused(both, steer, rows, given, said):
    with pytest.raises(ValueError, match=said):
        steer(both[1], made(rows), **given)


def test_rates_and_their_changes_are_counted_from_the_texts(project, tiny):
    pairs = [
        {
            "clean": f"When {a} and {b} went to the store, {b}",
            "corrupt": f"Then, {b} had a long argument with {a}, and afterwards",
            "behaviour": {"contains": ["o"]},
        }
        for a, b in (("Mary", "John"), ("Tom", "Lucy"), ("Anna", "Paul"), ("Lucy", "Mark"))
    ]
    asked = {"steps": 4, "coefficients": [1.0, 5.0], "control_draws": 2}
    result = mi.run("behaviour_steering", model=tiny("llama"), pairs=pairs, **asked)

    def shows(rows):
        flat = rows.reshape(-1, rows.shape[-1])
        return np.reshape(["o" in result.passage(r).lower() for r in flat], rows.shape[:-1])

    plain, steered, clean = (
        np.array([shows(one.values) for one in result.each(f"{n}_text")], float)
        for n in ("plain", "steered", "clean")
    )
    np.testing.assert_allclose(result["steered_shows"].values, steered.mean(0), atol=1e-6)
    change = steered - plain[:, None]
    np.testing.assert_allclose(result["change"].values, change.mean(0), atol=1e-6)
    assert float(result["gap"].values) == pytest.approx((clean - plain).mean(), abs=1e-6)
    assert result.verdict.output == "gap"
    assert result.explained("change").shape == (2,)
    assert result["steered_shows"].coords["coefficient"] == [1.0, 5.0]
