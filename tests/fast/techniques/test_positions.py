"""Labels and sets of layers as cells, and heads at single positions, against plain hooks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.interventions import Pair, Prompt

from ...conftest import MARY
from .test_ablation import HEADS, LAYERS, captured, made, measured, ran

FAMILIES = ("llama", "gpt2", "neox", "gemma2", "qwen3", "bert")
NEAR = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny):
    found = made(request.param, tiny)
    pair = found.pairs[0]
    positions = {"end": pair.clean.end, "names": 3, "second": pair.first_difference or 9}
    clean, corrupt = (
        Prompt(one.ids, positions, None, {"names": (1, 3)}) for one in (pair.clean, pair.corrupt)
    )
    found.pair = Pair(clean, corrupt, pair.answer, pair.wrong)
    return found


def replaced(model, pair, base, site, layer, value, where):
    """Change of the metric if a part of an activation of a prompt's run is what it is in `value`."""
    run = Pair(base, base, pair.answer, pair.wrong)

    def change(x):
        x = x.clone()
        x[where] = value.expand_as(x)[where]
        return x

    plain = measured(model, run, [])[0]
    return measured(model, run, [model.reference.hook(site, layer, change)])[0] - plain


CELLS = {"names": [1, 2, 3], "second": None, "4": [4], "all": None}


def places(pair, name):
    own = {"second": [pair.clean.positions["second"]], "all": list(range(len(pair.clean.ids)))}
    return CELLS[name] or own[name]


@pytest.mark.parametrize("recipe", ["activation_patching", "ablation"])
def test_the_tokens_of_a_label_are_replaced_at_once_and_only_in_the_chosen_layers(model, recipe):
    pair, kind = model.pair, {"kind": "zero"} if recipe == "ablation" else {}
    given = {"positions": list(CELLS), "layers": [0, 2], "site": "attn_out", **kind}
    got = ran(model.lm, recipe, [pair], **given)
    base = pair.clean if recipe == "ablation" else pair.corrupt
    there = captured(model, pair.clean, "attn_out")
    expected = np.zeros((2, len(CELLS)))
    for row, (column, name) in itertools.product(range(2), enumerate(CELLS)):
        layer = (0, 2)[row]
        value = torch.zeros(()) if recipe == "ablation" else there[layer]
        where = (slice(None), places(pair, name))
        expected[row, column] = replaced(model, pair, base, "attn_out", layer, value, where)
    assert np.abs(expected).max() > 1e-3, "there must be something to find"
    np.testing.assert_allclose(got["effect"][0], expected, **NEAR)
    assert got["control"][0].shape == (1, 2, len(CELLS))
    if recipe == "ablation":
        np.testing.assert_allclose(got["layer_effect"][0], expected[:, -1], **NEAR)


@pytest.mark.parametrize("kind", ["denoise", "resample", "mean", "zero"])
def test_a_head_at_a_position_equals_a_forward_pass_of_its_own(model, kind):
    pair = model.pair
    got = ran(model.lm, "heads_by_position", [pair], kind=kind, control_draws=1)
    base, other = (pair.corrupt, pair.clean) if kind == "denoise" else (pair.clean, pair.corrupt)
    own = captured(model, base, "head_z")
    values = captured(model, other, "head_z")
    if kind in ("zero", "mean"):
        values = [x[0].mean(0) * (kind == "mean") for x in own]
    length, size = len(pair.clean.ids), own[0].shape[-1] // HEADS
    expected = np.zeros((LAYERS, HEADS, length))
    some = [0, 3, 9, length - 1]
    for layer, head, place in itertools.product(range(LAYERS), range(HEADS), some):
        where = (slice(None), place, slice(head * size, (head + 1) * size))
        expected[layer, head, place] = replaced(
            model, pair, base, "head_z", layer, values[layer], where
        )
    assert np.abs(expected).max() > 1e-3, "there must be something to find"
    np.testing.assert_allclose(got["effect"][0][..., some], expected[..., some], **NEAR)
    assert got["control"][0].shape == (1, LAYERS, HEADS, length)


@pytest.mark.parametrize("recipe", ["head_patching", "head_ablation"])
def test_heads_of_some_layers_are_those_of_the_whole_map(model, recipe):
    whole, part = (
        ran(model.lm, recipe, [model.pair], layers=of)["effect"][0] for of in (None, [2])
    )
    torch.testing.assert_close(part, whole[2:], atol=1e-5, rtol=1e-4)


def test_an_estimate_for_a_label_is_the_sum_of_its_tokens(model):
    if model.family not in ("llama", "gpt2"):
        return
    given = {"pairs": [MARY], "model": str(model.reference.model.name_or_path)}
    whole = mi.run("attribution_patching", **given)
    cells = mi.run("attribution_patching", **given, positions="all,9", layers="1-2")
    expected = whole["effect"].values[1:]
    np.testing.assert_allclose(cells["effect"].values[:, 0], expected.sum(1), atol=1e-5)
    np.testing.assert_allclose(cells["effect"].values[:, 1], expected[:, 9], atol=1e-6)


def test_cells_are_named_in_results_averaged_over_templates_and_read_again(project, tiny_llama):
    given = {"model": str(tiny_llama), "phenomenon": "ioi", "n": 4, "layers": "0-1"}
    whole = mi.run("activation_patching", **given)
    found = mi.run("activation_patching", **given, positions="s2,all")
    assert found["recovery"].coords == {"layer": [0, 1], "position": ["[s2]", "[all]"]}
    column = whole["effect"].coords["position"].index("[s2]")
    np.testing.assert_allclose(
        found["effect"].values[:, 0], whole["effect"].values[:, column], atol=1e-6
    )
    np.testing.assert_allclose(found["effect"].values[0, 1], found["gap"].values, atol=1e-5)
    again = mi.load_run(found.id8)
    assert again.each("effect")[3].coords["position"] == ["[s2]", "[all]"]
    assert "[s2]" in str(again)
    assert again.holds("effect", at={"position": "[s2]"}, every="< 1000")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"positions": "s3"}, "no label 's3'"),
        ({"positions": "99"}, "position 99 does not lie in a prompt of"),
        ({"layers": "1-9"}, "there is no layer"),
        ({"layers": "2-1"}, "'2-1' is not whole numbers, e.g. 1,2,3 or 4-8"),
        ({"layers": "1,1"}, "not in ascending order, each once"),
    ],
)
def test_cells_that_do_not_exist_are_refused_in_one_line(project, tiny_llama, given, said):
    with pytest.raises(RemoteMIError, match=said) as refused:
        mi.run("activation_patching", model=str(tiny_llama), phenomenon="ioi:store", n=1, **given)
    assert "\n" not in refused.value.message
    assert isinstance(refused.value, UsageError) or "99" in said or "order" in said
