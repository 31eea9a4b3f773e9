"""The exact sweeps against one forward pass a cell, by plain hooks, on every architecture."""

from __future__ import annotations

from types import SimpleNamespace

import nnsight
import numpy as np
import pytest
import torch

from remote_mi.interventions import Pair, Prompt, metrics, patch_heads, patch_positions
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.progress import Silent

from ..conftest import FAMILIES, MARY
from .reference import Reference

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny):
    folder = tiny(request.param)
    reference = Reference(folder, request.param)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    clean, corrupt = reference.ids(MARY["clean"]), reference.ids(MARY["corrupt"])
    answer, wrong = (reference.ids(MARY[k])[0, 0].item() for k in ("answer", "wrong"))
    pair = Pair(
        Prompt(clean[0].tolist(), {}, None), Prompt(corrupt[0].tolist(), {}, None), answer, wrong
    )
    return request.param, reference, lm, pair, clean, corrupt


def swept(lm, function, *arguments):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, *arguments))
    return found


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "resid_mid"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_cell_equals_a_forward_pass_of_its_own(both, site, direction):
    family, reference, lm, pair, clean, corrupt = both
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    if site == "resid_mid" and family == "neox-parallel":
        with pytest.raises(ValueError, match="does not exist here"):
            swept(lm, patch_positions, pair, site, direction, "logit_diff")
        return
    got = swept(lm, patch_positions, pair, site, direction, "logit_diff")
    plain = reference.score(base, pair.answer, pair.wrong)
    if site == "resid_mid":
        patches = reference.middle_stream(source)
        before = reference.capture(base, "resid_pre")
    else:
        patches = reference.capture(source, site)
    expected = np.zeros((3, clean.shape[1]))
    for layer in range(3):
        for position in range(8, clean.shape[1]):  # the first difference is at 9

            def change(value, layer=layer, position=position):
                value = value.clone()
                patch = patches[layer][:, position]
                if site == "resid_mid":  # the sum is changed by what attention adds to it
                    patch = patch - before[layer][:, position]
                value[:, position] = patch
                return value

            where = "attn_out" if site == "resid_mid" else site
            score = reference.patch(base, where, layer, change, pair.answer, pair.wrong)
            expected[layer, position] = score - plain
    assert np.abs(expected).max() > 0.05, "the reference must have something to find"
    np.testing.assert_allclose(got["effect"].numpy(), expected, atol=TOLERANCE)
    assert float(got["clean"]) == pytest.approx(
        reference.score(clean, pair.answer, pair.wrong), abs=TOLERANCE
    )
    assert float(got["corrupt"]) == pytest.approx(
        reference.score(corrupt, pair.answer, pair.wrong), abs=TOLERANCE
    )


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_head_equals_a_forward_pass_of_its_own(both, direction):
    _, reference, lm, pair, clean, corrupt = both
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    got = swept(lm, patch_heads, pair, direction, "logit_diff")
    plain = reference.score(base, pair.answer, pair.wrong)
    patches = reference.capture(source, "head_z")
    width = patches[0].shape[-1] // 4
    expected = np.zeros((3, 4))
    for layer in range(3):
        for head in range(4):
            part = slice(head * width, (head + 1) * width)

            def change(value, layer=layer, part=part):
                value = value.clone()
                value[..., part] = patches[layer][..., part]
                return value

            score = reference.patch(base, "head_z", layer, change, pair.answer, pair.wrong)
            expected[layer, head] = score - plain
    np.testing.assert_allclose(got["effect"].numpy(), expected, atol=TOLERANCE)


@pytest.mark.parametrize("rows", [1, 4, 7, 12])
def test_the_grouping_of_layers_does_not_change_a_number(both, rows):
    _, _, lm, pair, _, _ = both
    whole = swept(lm, patch_positions, pair, "resid_pre", "denoise", "logit_diff")
    grouped = swept(lm, patch_positions, pair, "resid_pre", "denoise", "logit_diff", rows)
    torch.testing.assert_close(grouped["effect"], whole["effect"], atol=1e-5, rtol=1e-5)


def test_positions_before_the_first_difference_are_exactly_zero(both):
    _, _, lm, pair, _, _ = both
    got = swept(lm, patch_positions, pair, "mlp_out", "denoise", "logit_diff")
    assert pair.first_difference == 9
    assert (got["effect"][:, :9] == 0).all()
    assert got["effect"][:, 9:].abs().max() > 0


@pytest.mark.parametrize("sweep", ["positions", "heads"])
def test_identical_prompts_have_no_effect_at_all(both, sweep):
    _, _, lm, pair, _, _ = both
    same = Pair(pair.clean, Prompt(list(pair.clean.ids), {}, None), pair.answer, pair.wrong)
    if sweep == "positions":
        got = swept(lm, patch_positions, same, "resid_pre", "denoise", "logit_diff")
        assert tuple(got["effect"].shape) == (3, 14)
    else:
        got = swept(lm, patch_heads, same, "denoise", "logit_diff")
        assert tuple(got["effect"].shape) == (3, 4)
    assert (got["effect"] == 0).all()
    assert float(got["clean"]) == pytest.approx(float(got["corrupt"]), abs=1e-5)


def test_a_difference_in_the_first_token_needs_no_shared_prefix(both):
    _, _, lm, pair, _, _ = both
    other = Prompt([pair.wrong, *pair.clean.ids[1:]], {}, None)
    first = Pair(pair.clean, other, pair.answer, pair.wrong)
    got = swept(lm, patch_positions, first, "resid_pre", "denoise", "logit_diff")
    gap = got["clean"] - got["corrupt"]
    assert float(got["effect"][0, 0]) == pytest.approx(float(gap), abs=1e-4)


def test_a_difference_in_the_last_token_is_found(both):
    _, _, lm, pair, _, _ = both
    other = Prompt([*pair.clean.ids[:-1], pair.wrong], {}, None)
    last = Pair(pair.clean, other, pair.answer, pair.wrong)
    got = swept(lm, patch_positions, last, "resid_pre", "denoise", "logit_diff")
    gap = got["clean"] - got["corrupt"]
    torch.testing.assert_close(got["effect"][:, -1], gap.expand(3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("metric", ["logit", "prob", "log_prob"])
def test_metrics_are_those_of_the_models_own_logits(both, metric):
    _, reference, lm, pair, clean, corrupt = both
    got = swept(lm, patch_positions, pair, "resid_pre", "denoise", metric)
    with torch.no_grad():
        for name, ids in (("clean", clean), ("corrupt", corrupt)):
            logits = reference.model(ids).logits[0, -1]
            log_probs = logits.log_softmax(-1)
            expected = {"logit": logits, "prob": log_probs.exp(), "log_prob": log_probs}[metric]
            assert float(got[name]) == pytest.approx(float(expected[pair.answer]), abs=1e-4)


@pytest.mark.parametrize("metric", ["logit_diff", "logit", "prob", "log_prob"])
def test_without_the_weights_at_hand_the_numbers_are_the_same(both, metric, monkeypatch):
    """As in a sandboxed job, where only the model's modules can be asked."""
    _, _, lm, pair, _, _ = both
    expected = swept(lm, patch_positions, pair, "resid_pre", "denoise", metric)
    monkeypatch.setattr(metrics, "has_weights", lambda lm: False)
    got = swept(lm, patch_positions, pair, "resid_pre", "denoise", metric)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_half_precision_modules_tell_close_rows_apart(bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 32, bias=bias, dtype=torch.bfloat16)
    lm = SimpleNamespace(
        lm_head=head,
        interleaver=SimpleNamespace(interleaving=True),
        backbone=SimpleNamespace(interleaver=SimpleNamespace(interleaving=True)),
    )
    hidden = 30 * torch.randn(1, 64) + torch.cat([torch.zeros(1, 64), torch.randn(8, 64)])
    hidden = hidden.bfloat16()
    exact = hidden.float() @ head.weight.float().T + (head.bias.float() if bias else 0.0)
    with torch.no_grad():
        rounded = head(hidden).float()
        got = metrics._logits_of_the_module(lm, hidden)

    def worst(logits):
        return float(((logits - logits[0]) - (exact - exact[0])).abs().max())

    assert exact.abs().max() > 20
    assert worst(got) < worst(rounded) / 4 and worst(got) < 0.03
