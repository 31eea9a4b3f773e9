"""Patchscopes against one forward pass a cell, by plain hooks."""

from __future__ import annotations

import nnsight
import numpy as np
import pytest
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, dealing, generation, readout
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ..reference import Reference

FAMILIES = ("llama", "gpt2", "neox", "gemma2")
SOURCE = [5, 17, 9, 30, 12]
INSPECTION = [20, 21, 22, 20, 21, 22, 23]
TOP, STEPS = 3, 4


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny):
    folder = tiny(request.param)
    return Reference(folder, request.param), load(ModelSpec(str(folder)), Silent()).lm


@pytest.fixture(scope="module")
def llama(tiny):
    folder = tiny("llama")
    return Reference(folder, "llama"), load(ModelSpec(str(folder)), Silent()).lm


@pytest.fixture(scope="module")
def patchscopes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    return loading.load_function(catalog.find("patchscopes", folder), folder)


@pytest.fixture(autouse=True)
def texts_do_not_end(monkeypatch):
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])


def within(lm, function, prompt, **parameters):
    given = {"inspection": Prompt(INSPECTION, {}, None), "top": TOP, "steps": STEPS, **parameters}
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, prompt, **given))
    return found


def probabilities(reference, row, layer=None, state=None):
    """p of the next token, with one state put at the placeholder."""
    hook = None
    if layer is not None:

        def change(stream):
            stream = stream.clone()
            stream[:, len(INSPECTION) - 1] = state
            return stream

        hook = reference.hook("resid_pre", layer, change)
    with torch.no_grad():
        found = reference.model(torch.tensor([row])).logits[0, -1].double().softmax(-1)
    if hook:
        hook.remove()
    return found


def text(reference, layer=None, state=None):
    row = list(INSPECTION)
    for _ in range(STEPS):
        row.append(int(probabilities(reference, row, layer, state).argmax()))
    return row[len(INSPECTION) :]


@pytest.mark.parametrize("into", [None, 1])
@pytest.mark.parametrize("target", [None, 40])
def test_every_cell_equals_a_forward_pass_of_its_own(both, patchscopes, into, target, monkeypatch):
    reference, lm = both
    prompt = Prompt(SOURCE, {"second": 1, "end": 4}, target)
    # Other states in the place of random ones, so that the control can be computed as well.
    monkeypatch.setitem(
        patchscopes.__globals__, "random_like", lambda h, *_: torch.stack([-h, 2 * h.flip(1)])
    )
    got = within(lm, patchscopes, prompt, into=into, at="second")
    states = torch.cat(reference.capture(torch.tensor([SOURCE]), "resid_pre"))
    with torch.no_grad():
        own = reference.model(torch.tensor([SOURCE])).logits[0].argmax(-1)
    wanted = own if target is None else torch.full((5,), target)
    plain = probabilities(reference, INSPECTION)
    np.testing.assert_allclose(got["unpatched_prob"].numpy(), plain[wanted], atol=1e-5)
    spread = 0.0
    for layer in range(3):
        place = layer if into is None else into
        for position in range(5):
            state, token = states[layer, position], wanted[position]
            p = probabilities(reference, INSPECTION, place, state)
            others = [
                probabilities(reference, INSPECTION, place, s)[token]
                for s in (-state, 2 * states[layer, 4 - position])
            ]
            best = p.topk(TOP)
            cell = (layer, position)
            assert float(got["target_prob"][cell]) == pytest.approx(float(p[token]), abs=1e-5)
            np.testing.assert_allclose(got["top_prob"][cell].numpy(), best.values, atol=1e-5)
            assert got["top_token"][cell].tolist() == best.indices.tolist()
            np.testing.assert_allclose(
                got["random_prob"][(slice(None), *cell)].numpy(), others, atol=1e-5
            )
            spread = max(spread, float(p.max() - plain[p.argmax()]))
        assert got["text"][layer].tolist() == text(reference, place, states[layer, 1])
        assert got["text"][layer, 0] == got["top_token"][layer, 1, 0]
    assert spread > 0.05, "the states must change what is read"
    assert got["unpatched_text"].tolist() == text(reference)


def test_the_placeholders_own_state_changes_nothing(both, patchscopes):
    _, lm = both
    got = within(lm, patchscopes, Prompt(INSPECTION, {}, None), control_draws=0)
    torch.testing.assert_close(
        got["target_prob"][:, -1], got["unpatched_prob"][-1].expand(3), atol=1e-6, rtol=1e-4
    )
    assert got["text"].tolist() == [got["unpatched_text"].tolist()] * 3
    assert tuple(got["random_prob"].shape) == (0, 3, len(INSPECTION))


def test_the_random_states_follow_from_the_seed(llama, patchscopes):
    _, lm = llama
    runs = [within(lm, patchscopes, Prompt(SOURCE, {}, 40), seed=seed) for seed in (0, 0, 1)]
    one, same, other = (run["random_prob"] for run in runs)
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_the_number_of_rows_a_pass_changes_no_number(llama, patchscopes, monkeypatch):
    _, lm = llama
    prompt = Prompt(SOURCE, {}, 40)
    whole = within(lm, patchscopes, prompt)
    monkeypatch.setattr(dealing, "rows_that_fit", lambda *_: 2)
    monkeypatch.setattr(readout, "rows_that_fit", lambda *_: 4)
    apart = within(lm, patchscopes, prompt)
    for name, value in whole.items():
        torch.testing.assert_close(apart[name], value, atol=1e-6, rtol=1e-4)


def test_what_does_not_exist_is_refused(llama, patchscopes):
    _, lm = llama
    with pytest.raises(ValueError, match="no position 'subject'; it has end"):
        within(lm, patchscopes, Prompt(SOURCE, {}, None), at="subject")
    with pytest.raises(ValueError, match="there is no layer 3"):
        within(lm, patchscopes, Prompt(SOURCE, {}, None), into=3)
