"""Ablation against one forward pass a cell, by plain hooks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nnsight
import numpy as np
import pytest
import torch

from remote_mi.backends.base import Work
from remote_mi.backends.dry_run import expected_outputs
from remote_mi.backends.ndif.source_checks import check_source
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, readout
from remote_mi.interventions.session import settled
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ...conftest import MARY
from ..backends.test_preflight import SERVER, weightless
from ..interventions.test_sweeps import unit_of
from ..reference import Reference

FEW = ("llama", "gpt2", "neox", "gemma2", "opt", "bert")
LAYERS, HEADS, TOLERANCE = 3, 4, 1e-4


@pytest.fixture(scope="module", params=FEW)
def few(request, tiny):
    return made(request.param, tiny)


@pytest.fixture(scope="module")
def llama(tiny):
    return made("llama", tiny)


def made(family: str, tiny: Any) -> SimpleNamespace:
    """A model, and two pairs of different lengths."""
    folder = tiny(family)
    reference = Reference(folder, family)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    answer, wrong = (token_of(reference, MARY[k]) for k in ("answer", "wrong"))
    pairs = [Pair(*prompts(reference, family, cut), answer, wrong) for cut in (0, 7)]
    return SimpleNamespace(family=family, reference=reference, lm=lm, pairs=pairs)


def token_of(reference: Reference, text: str) -> int:
    return int(reference.tokenizer(text, add_special_tokens=False).input_ids[0])


def prompts(reference: Reference, family: str, cut: int) -> list[Prompt]:
    """The clean and the corrupt prompt without their first `cut` words."""
    found = []
    for name in ("clean", "corrupt"):
        text = MARY[name].split(" ", cut)[-1]
        if family == "bert":
            ids = reference.ids(text + " [MASK]")[0].tolist()
            end = ids.index(reference.tokenizer.mask_token_id)
            found.append(Prompt(ids, {"end": end}, None))
        else:
            found.append(Prompt(reference.ids(text)[0].tolist(), {}, None))
    return found


def ran(lm: Any, recipe: str, pairs: list[Pair], **parameters: Any) -> dict[str, Any]:
    """The outputs of a recipe for each pair, all its parameters filled in."""
    card = catalog.find(recipe, Path())
    function = loading.load_function(card, Path())
    given = card.resolve(parameters)
    with torch.no_grad(), lm.session():
        setup = (function.__globals__[card.setup](lm, pairs, **given),) if card.setup else ()
        outputs = nnsight.save([settled(function(lm, pair, *setup, **given)) for pair in pairs])
    assert all(set(each) == set(card.returns) for each in outputs)
    return {name: [each[name] for each in outputs] for name in card.returns}


def measured(model: SimpleNamespace, pair: Pair, hooks: list[Any]) -> np.ndarray:
    """(logit difference, loss) of the clean prompt, with hooks in place."""
    with torch.no_grad():
        logits = model.reference.model(torch.tensor([pair.clean.ids])).logits[0].double()
    for hook in hooks:
        hook.remove()
    score = logits[pair.end, pair.answer] - logits[pair.end, pair.wrong]
    log_probs = logits.log_softmax(-1)
    if model.family == "bert":
        loss = -log_probs[pair.end, pair.answer]
    else:
        loss = -log_probs[:-1].gather(-1, torch.tensor(pair.clean.ids[1:])[:, None]).mean()
    return np.array([float(score), float(loss)])


def captured(model: SimpleNamespace, prompt: Prompt, site: str) -> list[torch.Tensor]:
    ids = torch.tensor([prompt.ids])
    if site == "resid_mid":
        return model.reference.middle_stream(ids)
    return model.reference.capture(ids, site)


def values_by_hand(model: SimpleNamespace, pair: Pair, site: str, kind: str) -> list[torch.Tensor]:
    """What is put in place, [1, position, width] for each layer."""
    own = captured(model, pair.clean, site)
    if kind == "zero":
        return [torch.zeros_like(x) for x in own]
    if kind == "resample":
        return captured(model, pair.corrupt, site)
    runs = [captured(model, other.clean, site) for other in model.pairs]
    means = [torch.cat([run[i][0] for run in runs]).mean(0) for i in range(LAYERS)]
    return [mean.expand_as(x) for mean, x in zip(means, own, strict=True)]


def replaced(
    model: SimpleNamespace, pair: Pair, site: str, layer: int, value: torch.Tensor, where: Any
) -> np.ndarray:
    """Metric and loss of a run in which a part of an activation is what it is in `value`."""
    if site == "resid_mid":
        before = captured(model, pair.clean, "resid_pre")[layer]
        value, site = value - before, "attn_out"

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[where] = value[where]
        return x

    return measured(model, pair, [model.reference.hook(site, layer, change)])


@pytest.mark.parametrize("kind", ["mean", "zero", "resample"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out"])
def test_every_ablation_equals_a_forward_pass_of_its_own(few, site, kind):
    if site == "resid_mid" and few.family == "bert":
        with pytest.raises(ValueError, match="does not exist here"):
            ran(few.lm, "ablation", few.pairs, site=site, kind=kind)
        return
    got = ran(few.lm, "ablation", few.pairs, site=site, kind=kind)
    for index, pair in enumerate(few.pairs):
        plain = measured(few, pair, [])
        assert float(got["clean"][index]) == pytest.approx(plain[0], abs=TOLERANCE)
        assert float(got["clean_loss"][index]) == pytest.approx(plain[1], abs=TOLERANCE)
        values = values_by_hand(few, pair, site, kind)
        own = captured(few, pair.clean, site)
        width = own[0].shape[-1]
        cells = np.zeros((2, LAYERS, len(pair.clean.ids)))
        layers = np.zeros((2, LAYERS, 2))
        for layer in range(LAYERS):
            unit = unit_of(pair.clean.ids, width, 1, 1, 0, layer)
            distance = (values[layer] - own[layer]).norm(dim=-1, keepdim=True)
            for row, value in enumerate((values[layer], own[layer] + distance * unit)):
                layers[row, layer] = replaced(few, pair, site, layer, value, ...) - plain
                for p in range(len(pair.clean.ids)):
                    where = (slice(None), p)
                    cells[row, layer, p] = (replaced(few, pair, site, layer, value, where) - plain)[
                        0
                    ]
        assert np.abs(cells).max() > 0.05, "there must be something to find"
        near = {"atol": TOLERANCE, "rtol": 1e-4}
        np.testing.assert_allclose(got["effect"][index], cells[0], **near)
        np.testing.assert_allclose(got["control"][index][0], cells[1], **near)
        np.testing.assert_allclose(got["layer_effect"][index], layers[0, :, 0], **near)
        np.testing.assert_allclose(got["loss_change"][index], layers[0, :, 1], **near)
        np.testing.assert_allclose(got["layer_control"][index][0], layers[1, :, 0], **near)
        np.testing.assert_allclose(got["loss_control"][index][0], layers[1, :, 1], **near)


@pytest.mark.parametrize("kind", ["mean", "zero", "resample"])
def test_every_head_ablation_equals_a_forward_pass_of_its_own(few, kind):
    got = ran(few.lm, "head_ablation", few.pairs, kind=kind)
    for index, pair in enumerate(few.pairs):
        plain = measured(few, pair, [])
        values = values_by_hand(few, pair, "head_z", kind)
        own = captured(few, pair.clean, "head_z")
        size = own[0].shape[-1] // HEADS
        expected = np.zeros((2, LAYERS, HEADS, 2))
        for layer in range(LAYERS):
            unit = unit_of(pair.clean.ids, size * HEADS, HEADS, 1, 0, layer)
            for head in range(HEADS):
                part = (..., slice(head * size, (head + 1) * size))
                distance = (values[layer][part] - own[layer][part]).norm(dim=-1, keepdim=True)
                random = own[layer].clone()
                random[part] += distance * unit[part]
                for row, value in enumerate((values[layer], random)):
                    run = replaced(few, pair, "head_z", layer, value, part)
                    expected[row, layer, head] = run - plain
        assert np.abs(expected[..., 0]).max() > 0.05, "there must be something to find"
        near = {"atol": TOLERANCE, "rtol": 1e-4}
        np.testing.assert_allclose(got["effect"][index], expected[0, ..., 0], **near)
        np.testing.assert_allclose(got["loss_change"][index], expected[0, ..., 1], **near)
        np.testing.assert_allclose(got["control"][index][0], expected[1, ..., 0], **near)
        np.testing.assert_allclose(got["loss_control"][index][0], expected[1, ..., 1], **near)
        assert float(got["clean"][index]) == pytest.approx(plain[0], abs=TOLERANCE)
        assert float(got["clean_loss"][index]) == pytest.approx(plain[1], abs=TOLERANCE)


@pytest.mark.parametrize("recipe", ["ablation", "head_ablation"])
def test_without_draws_there_is_no_control_and_the_rest_is_the_same(llama, recipe):
    with_control = ran(llama.lm, recipe, llama.pairs, control_draws=3)
    without = ran(llama.lm, recipe, llama.pairs, control_draws=0)
    for name, values in without.items():
        for one, other in zip(values, with_control[name], strict=True):
            if "control" in name:
                assert one.shape[0] == 0 and other.shape[0] == 3
                assert one.shape[1:] == other.shape[1:]
            else:
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_random_directions_follow_from_the_seed_and_differ_between_draws(llama):
    first, again, other = (
        ran(llama.lm, "ablation", llama.pairs, control_draws=2, seed=seed)["control"][0]
        for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert (first - other).abs().max() > 1e-3
    assert (first[0] - first[1]).abs().max() > 1e-3


def test_identical_prompts_resampled_have_no_effect_at_all(few):
    pair = few.pairs[0]
    same = Pair(pair.clean, Prompt(pair.clean.ids, pair.positions, None), pair.answer, pair.wrong)
    for recipe in ("ablation", "head_ablation"):
        got = ran(few.lm, recipe, [same], kind="resample")
        for name in set(got) - {"clean", "clean_loss", "answer_prob"}:
            assert (got[name][0] == 0).all() and got[name][0].numel() > 0, (recipe, name)


@pytest.mark.parametrize("recipe", ["ablation", "head_ablation"])
@pytest.mark.parametrize("metric", ["logit_diff", "prob"])
@pytest.mark.parametrize("kind", ["mean", "resample"])
def test_without_the_weights_at_hand_the_numbers_are_the_same(
    few, recipe, metric, kind, monkeypatch
):
    """As in a sandboxed job, where only the model's modules can be asked."""
    expected = ran(few.lm, recipe, few.pairs, metric=metric, kind=kind)
    monkeypatch.setattr(readout, "has_weights", lambda lm: False)
    got = ran(few.lm, recipe, few.pairs, metric=metric, kind=kind)
    for name, values in expected.items():
        for one, other in zip(values, got[name], strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_the_loss_of_many_rows_is_cut_into_parts_without_changing(llama, monkeypatch):
    whole = ran(llama.lm, "head_ablation", llama.pairs)
    monkeypatch.setattr(readout, "rows_that_fit", lambda device, row: 3)
    parts = ran(llama.lm, "head_ablation", llama.pairs)
    for one, other in zip(whole["loss_change"], parts["loss_change"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "recipe", ["ablation", "head_ablation", "activation_patching", "head_patching"]
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "bert"])
def test_the_shapes_are_known_before_it_is_sent(tiny, recipe, family):
    model = made(family, tiny)
    card = catalog.find(recipe, Path())
    given = card.resolve({})
    function = loading.load_function(card, Path())
    assert check_source(card, function, Path(), SERVER) == []
    together = model.pairs if card.setup else ()
    work = Work(card, function, model.pairs[:1], given, "key", together=together)
    found = expected_outputs(weightless(tiny(family)), work)
    assert found.outputs is not None, found.reason
    outputs = ran(model.lm, recipe, model.pairs, **given)
    for name, values in outputs.items():
        assert found.outputs[0][name] == (tuple(values[0].shape), "float32"), name
