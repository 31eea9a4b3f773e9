"""Gradient techniques against autograd and finite differences with plain hooks on transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nnsight
import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt
from remote_mi.interventions.session import settled
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ...conftest import FAMILIES, MARY, PARALLEL
from ..interventions.test_sweeps import patch, patch_heads
from ..reference import Reference

SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
LENGTH, FIRST, DRAWS = 14, 9, 4


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny):
    return model_of(request.param, tiny)


@pytest.fixture(scope="module", params=["llama", "gpt2", "neox", "gemma2"])
def few(request, tiny):
    return model_of(request.param, tiny)


def model_of(family: str, tiny: Any) -> tuple[str, Reference, Any, Pair]:
    folder = tiny(family)
    reference = Reference(folder, family)
    reference.model.requires_grad_(False)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    clean, corrupt = (reference.ids(MARY[k])[0].tolist() for k in ("clean", "corrupt"))
    answer, wrong = (reference.ids(MARY[k])[0].tolist()[0] for k in ("answer", "wrong"))
    pair = Pair(Prompt(clean, {}, answer), Prompt(corrupt, {}, None), answer, wrong)
    assert (len(clean), pair.first_difference) == (LENGTH, FIRST)
    return family, reference, lm, pair


def ran(lm: Any, recipe: str, call: Any, **parameters: Any) -> dict[str, Any]:
    """The outputs of a recipe, all its parameters filled in; arrays."""
    card = catalog.find(recipe, Path())
    function = loading.load_function(card, Path())
    given = card.resolve(parameters)
    with lm.session(), torch.set_grad_enabled(True):
        outputs = nnsight.save(settled(function(lm, call, **given)))
    assert set(outputs) == set(card.returns)
    return {name: np.asarray(value) for name, value in outputs.items()}


def metric_of(logits: torch.Tensor, metric: str, answer: int, wrong: int) -> torch.Tensor:
    logits = logits.double()
    log_probs = logits.log_softmax(-1)
    return {
        "logit_diff": logits[answer] - logits[wrong],
        "logit": logits[answer],
        "log_prob": log_probs[answer],
        "prob": log_probs[answer].exp(),
        "prob_diff": log_probs[answer].exp() - log_probs[wrong].exp(),
    }[metric]


def by_hooks(
    reference: Reference, ids: list[int], site: str, metric: str, pair: Pair
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Activations of a site and the metric's gradients there, by hooks and autograd."""
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int, value: torch.Tensor) -> torch.Tensor:
        found[layer] = value
        return value  # what is kept goes on, so that the graph runs through it

    layers = range(len(reference.blocks))
    hooks = [reference.hook("resid_pre", 0, lambda x: x.detach().requires_grad_(True))]
    for layer in layers:
        if site == "resid_mid":
            middle = reference.middle[layer]
            hooks.append(
                middle.register_forward_pre_hook(
                    lambda _m, args, layer=layer: found.update({layer: args[0]})
                )
            )
        else:
            hooks.append(reference.hook(site, layer, lambda x, layer=layer: keep(layer, x)))
    logits = reference.model(torch.tensor([ids])).logits[0, -1]
    for hook in hooks:
        hook.remove()
    acts = [found[layer] for layer in layers]  # OPT has rows and positions in one dimension
    grads = torch.autograd.grad(metric_of(logits, metric, pair.answer, pair.wrong), acts)
    shape = (-1, acts[0].shape[-1])
    return [act.detach().reshape(shape) for act in acts], [grad.reshape(shape) for grad in grads]


def expected_terms(reference, pair, site, direction, metric="logit_diff") -> list[torch.Tensor]:
    """(other − base) × gradient of each layer, [position, width]."""
    base, other = pair.corrupt.ids, pair.clean.ids
    if direction == "noise":
        base, other = other, base
    acts, grads = by_hooks(reference, base, site, metric, pair)
    others, _ = by_hooks(reference, other, site, metric, pair)
    return [(o - a) * g for a, o, g in zip(acts, others, grads, strict=True)]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_effect_is_the_difference_times_the_gradient(both, site, direction):
    family, reference, lm, pair = both
    given = {"site": site, "direction": direction, "control_draws": DRAWS}
    if site == "resid_mid" and family in PARALLEL:
        with pytest.raises(ValueError, match="does not exist here"):
            ran(lm, "attribution_patching", pair, **given)
        return
    got = ran(lm, "attribution_patching", pair, **given)
    expected = np.stack([t.sum(-1) for t in expected_terms(reference, pair, site, direction)])
    assert np.abs(expected).max() > 0.01, "the reference must have something to find"
    np.testing.assert_allclose(got["effect"], expected, atol=1e-4, rtol=1e-4)
    assert (got["effect"][:, :FIRST] == 0).all() and (got["control"][..., :FIRST] == 0).all()
    assert got["correlation"].shape == (0,)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_heads_are_parts_of_the_same(both, direction):
    _, reference, lm, pair = both
    got = ran(lm, "head_attribution", pair, direction=direction, control_draws=DRAWS)
    terms = expected_terms(reference, pair, "head_z", direction)
    expected = np.stack([t.unflatten(-1, (4, -1)).sum((0, 2)) for t in terms])
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(got["effect"], expected, atol=1e-4, rtol=1e-4)
    assert got["control"].shape == (DRAWS, 3, 4)


@pytest.mark.parametrize("metric", ["logit", "log_prob", "prob", "prob_diff"])
@pytest.mark.parametrize("recipe", ["attribution_patching", "head_attribution"])
def test_every_metric_is_differentiated(few, recipe, metric):
    _, reference, lm, pair = few
    heads = recipe == "head_attribution"
    terms = expected_terms(reference, pair, "head_z" if heads else "resid_pre", "denoise", metric)
    if heads:
        terms = [t.unflatten(-1, (4, -1)).sum(0) for t in terms]
    expected = np.stack([t.sum(-1) for t in terms])
    got = ran(lm, recipe, pair, metric=metric, control_draws=0)
    np.testing.assert_allclose(got["effect"], expected, atol=1e-4 * np.abs(expected).max() + 1e-9)
    with torch.no_grad():
        for name, prompt in (("clean", pair.clean), ("corrupt", pair.corrupt)):
            logits = reference.model(torch.tensor([prompt.ids])).logits[0, -1]
            value = float(metric_of(logits, metric, pair.answer, pair.wrong))
            assert float(got[name]) == pytest.approx(value, abs=1e-5, rel=1e-5)
    assert float(got["gap"]) == pytest.approx(float(got["clean"] - got["corrupt"]), abs=1e-6)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "head_z"])
def test_the_effect_is_that_of_a_small_patch(few, site, tiny):
    """Exact patching with a small part of the difference; no autograd."""
    family, _, lm, pair = few
    reference = Reference(tiny(family), family)
    reference.model.double()
    base, other = (torch.tensor([p.ids]) for p in (pair.corrupt, pair.clean))
    acts, others = reference.capture(base, site), reference.capture(other, site)
    heads = site == "head_z"
    recipe = "head_attribution" if heads else "attribution_patching"
    got = ran(lm, recipe, pair, control_draws=0, **({} if heads else {"site": site}))["effect"]
    for layer in range(3):
        for cell in range(4) if heads else (FIRST, LENGTH - 1):
            difference = others[layer] - acts[layer]
            kept = torch.zeros_like(difference)
            if heads:
                width = kept.shape[-1] // 4
                kept[..., cell * width : (cell + 1) * width] = 1
            else:
                kept[:, cell] = 1

            def slope(step, difference=difference, kept=kept, layer=layer):
                scores = [
                    reference.patch(
                        base,
                        site,
                        layer,
                        lambda value, sign=sign: value + sign * kept * difference,
                        pair.answer,
                        pair.wrong,
                    )
                    for sign in (step, -step)
                ]
                return (scores[0] - scores[1]) / (2 * step)

            # Some norms compute in float32 whatever the dtype: no tiny steps, so two of them.
            expected = (4 * slope(5e-3) - slope(1e-2)) / 3
            assert got[layer, cell] == pytest.approx(expected, rel=2e-3, abs=5e-4)


@pytest.mark.parametrize("recipe", ["attribution_patching", "head_attribution"])
def test_the_correlation_is_that_with_the_exact_map(few, recipe):
    _, _, lm, pair = few
    got = ran(lm, recipe, pair, compare="exact", control_draws=0)
    with torch.no_grad(), lm.session():
        if recipe == "attribution_patching":
            exact = patch(lm, pair, "resid_pre", "denoise", "logit_diff")
        else:
            exact = patch_heads(lm, pair, "denoise", "logit_diff")
        exact = nnsight.save(exact)
    expected = np.corrcoef(got["effect"].ravel(), exact["effect"].numpy().ravel())[0, 1]
    assert float(got["correlation"][0]) == pytest.approx(expected, abs=1e-5)


def test_the_last_stream_of_a_linear_end_is_exact(few):
    """Where nothing but the final norm follows, a patch and its estimate tell the same story."""
    _, _, lm, pair = few
    got = ran(lm, "attribution_patching", pair, site="mlp_out", compare="exact", control_draws=0)
    assert (got["effect"][-1, :-1] == 0).all(), "at the last layer only the last position counts"
    assert got["effect"][-1, -1] != 0


@pytest.mark.parametrize("recipe", ["attribution_patching", "head_attribution"])
def test_identical_prompts_have_no_effect_at_all(few, recipe):
    _, _, lm, pair = few
    same = Pair(pair.clean, Prompt(list(pair.clean.ids), {}, None), pair.answer, pair.wrong)
    got = ran(lm, recipe, same, control_draws=DRAWS)
    assert (got["effect"] == 0).all() and (got["control"] == 0).all()
    assert float(got["gap"]) == 0


def test_the_control_has_the_size_of_a_random_direction(few):
    """E |r · g| of a random direction is about √(2/π d) · |difference| · |gradient|."""
    _, reference, lm, pair = few
    got = ran(lm, "attribution_patching", pair, control_draws=1000)["control"]
    acts, grads = by_hooks(reference, pair.corrupt.ids, "resid_pre", "logit_diff", pair)
    others, _ = by_hooks(reference, pair.clean.ids, "resid_pre", "logit_diff", pair)
    for layer in range(3):
        lengths = (others[layer] - acts[layer]).norm(dim=-1) * grads[layer].norm(dim=-1)
        expected = lengths * (2 / np.pi / acts[0].shape[-1]) ** 0.5
        np.testing.assert_allclose(
            np.abs(got[:, layer, FIRST:]).mean(0), expected[FIRST:], rtol=0.15, atol=1e-5
        )
    again = ran(lm, "attribution_patching", pair, control_draws=3)["control"]
    other = ran(lm, "attribution_patching", pair, control_draws=3, seed=1)["control"]
    np.testing.assert_array_equal(
        again, ran(lm, "attribution_patching", pair, control_draws=3)["control"]
    )
    assert np.abs(again - other).max() > 1e-3


def test_the_cost_is_two_forward_passes(project, tiny_llama):
    def passes(recipe: str, **given: Any) -> int:
        result = mi.run(recipe, model=str(tiny_llama), **{**MARY, **given})
        return result.provenance["record"]["forward_passes"]

    assert passes("attribution_patching") == 2
    assert passes("head_attribution") == 2
    assert passes("integrated_gradients", steps=5) == 2
    result = mi.run("saliency", model=str(tiny_llama), prompt=MARY["clean"], target=" Mary")
    assert result.provenance["record"]["forward_passes"] == 1
