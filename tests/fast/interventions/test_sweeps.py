"""The exact sweeps against one forward pass a cell, by plain hooks, on every architecture."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import nnsight
import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.interventions import (
    Pair,
    Prompt,
    dealing,
    measure,
    memory,
    readout,
    run,
    sweep,
    sweeps,
)
from remote_mi.interventions.growing_batch import Cell, GrowingBatch
from remote_mi.interventions.model_info import reuses_prefix
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

from ...conftest import FAMILIES, MARY, PARALLEL
from ..reference import Reference

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


def patch(lm, pair, site, direction, metric, draws=0, seed=0, by="position"):
    """As the recipes of patching: effect and control of a sweep, and the metric of both runs."""
    base, other = pair.base_and_other(direction)
    found = sweep(
        lm,
        base,
        site,
        put=run(lm, other, site),
        measure=measure(lm, metric, pair),
        by=by,
        control=draws,
        seed=seed,
    )
    ends = pair.ends(direction, base=found.base, other=found.donor)
    return {"effect": found.effect, "control": found.control, **ends}


def patch_heads(lm, pair, direction, metric, draws=0, seed=0):
    return patch(lm, pair, "head_z", direction, metric, draws, seed, "head")


def unit_of(ids, width, heads, draws, seed, layer):
    return sweeps.unit_directions([*ids, layer], len(ids), width, heads, draws, seed)


def fit_rows(monkeypatch, rows):
    """Let memory hold so many rows of a pass."""
    monkeypatch.setattr(dealing, "rows_that_fit", lambda device, size: rows)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "resid_mid"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_cell_equals_a_forward_pass_of_its_own(both, site, direction):
    family, reference, lm, pair, clean, corrupt = both
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    if site == "resid_mid" and family in PARALLEL:
        with pytest.raises(ValueError, match="does not exist here"):
            swept(lm, patch, pair, site, direction, "logit_diff")
        return
    got = swept(lm, patch, pair, site, direction, "logit_diff")
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
    assert np.abs(expected).max() > 0.01, "the reference must have something to find"
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
def test_the_grouping_of_layers_does_not_change_a_number(both, rows, monkeypatch):
    _, _, lm, pair, _, _ = both
    whole = swept(lm, patch, pair, "resid_pre", "denoise", "logit_diff")
    fit_rows(monkeypatch, rows)
    grouped = swept(lm, patch, pair, "resid_pre", "denoise", "logit_diff")
    torch.testing.assert_close(grouped["effect"], whole["effect"], atol=1e-5, rtol=1e-5)


def test_positions_before_the_first_difference_are_exactly_zero(both):
    _, _, lm, pair, _, _ = both
    got = swept(lm, patch, pair, "mlp_out", "denoise", "logit_diff")
    assert pair.first_difference == 9
    assert (got["effect"][:, :9] == 0).all()
    assert got["effect"][:, 9:].abs().max() > 0


@pytest.mark.parametrize("cells", ["positions", "heads"])
def test_identical_prompts_have_no_effect_at_all(both, cells):
    _, _, lm, pair, _, _ = both
    same = Pair(pair.clean, Prompt(list(pair.clean.ids), {}, None), pair.answer, pair.wrong)
    if cells == "positions":
        got = swept(lm, patch, same, "resid_pre", "denoise", "logit_diff")
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
    got = swept(lm, patch, first, "resid_pre", "denoise", "logit_diff")
    gap = got["clean"] - got["corrupt"]
    assert float(got["effect"][0, 0]) == pytest.approx(float(gap), abs=1e-4)


def test_a_difference_in_the_last_token_is_found(both):
    _, _, lm, pair, _, _ = both
    other = Prompt([*pair.clean.ids[:-1], pair.wrong], {}, None)
    last = Pair(pair.clean, other, pair.answer, pair.wrong)
    got = swept(lm, patch, last, "resid_pre", "denoise", "logit_diff")
    gap = got["clean"] - got["corrupt"]
    torch.testing.assert_close(got["effect"][:, -1], gap.expand(3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("metric", ["logit", "prob", "log_prob"])
def test_metrics_are_those_of_the_models_own_logits(both, metric):
    _, reference, lm, pair, clean, corrupt = both
    got = swept(lm, patch, pair, "resid_pre", "denoise", metric)
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
    expected = swept(lm, patch, pair, "resid_pre", "denoise", metric)
    monkeypatch.setattr(readout, "has_weights", lambda lm: False)
    got = swept(lm, patch, pair, "resid_pre", "denoise", metric)
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
        got = readout._logits_of_the_module(lm, hidden)

    def worst(logits):
        return float(((logits - logits[0]) - (exact - exact[0])).abs().max())

    assert exact.abs().max() > 20
    assert worst(got) < worst(rounded) / 4 and worst(got) < 0.03


@pytest.fixture
def passes(monkeypatch):
    """The first token of every pass, and the cells that joined at each layer."""
    seen = []
    plain = GrowingBatch.run

    def counted(self, start, cells, layers):
        seen.append((start, len(cells), len(layers)))
        return plain(self, start, cells, layers)

    monkeypatch.setattr(GrowingBatch, "run", counted)
    return seen


@pytest.mark.parametrize("site", ["resid_pre", "mlp_out"])
def test_the_dealing_of_positions_to_passes_does_not_change_a_number(
    both, site, passes, monkeypatch
):
    """With passes that cost nothing every position is a pass of its own."""
    _, _, lm, pair, _, _ = both
    arguments = (pair, site, "denoise", "logit_diff", 2)
    whole = swept(lm, patch, *arguments)
    assert len(passes) == 1
    monkeypatch.setattr(dealing, "PASS_TOKENS", 0)
    monkeypatch.setattr(sweeps, "PASS_TOKENS", 0)
    dealt = swept(lm, patch, *arguments)
    if reuses_prefix(lm):
        assert [start for start, _, _ in passes[1:]] == [9, 10, 11, 12, 13]
    else:
        assert {start for start, _, _ in passes} == {0}
    for name, value in whole.items():
        torch.testing.assert_close(dealt[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [2, 5, 9])
def test_cells_are_dealt_to_passes_when_memory_does_not_hold_a_layers(
    both, rows, passes, monkeypatch
):
    _, _, lm, pair, _, _ = both
    whole = swept(lm, patch_heads, pair, "noise", "logit_diff", 1)
    passes.clear()
    fit_rows(monkeypatch, rows)
    cut = swept(lm, patch_heads, pair, "noise", "logit_diff", 1)
    assert all(1 + 2 * cells * layers <= max(rows, 3) for _, cells, layers in passes)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=1e-5, rtol=1e-5)


def _cost(length, layers, shared, parts, variants):
    """Tokens × layers of a way to deal cells to passes, counted row by row."""
    total = 0
    for part in parts:
        run = length - min(part[0].first, shared)
        rows = 1
        for _ in range(layers):
            rows += variants * len(part)
            total += run * rows + dealing.PASS_TOKENS
    return total


@pytest.mark.parametrize(
    "shared, variants, apart", [(11, 1, 0), (11, 2, 3), (11, 4, 60), (0, 2, 0)]
)
def test_the_plan_is_the_cheapest_of_all(tiny_llama, monkeypatch, shared, variants, apart):
    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    monkeypatch.setattr(dealing, "PASS_TOKENS", apart)
    cells = [Cell([p]) for p in range(3, 12)]
    count = len(lm.layers)
    load_of = dealing.Load(range(count), count, 12, 1, variants, lambda tokens: 1 << 20)
    price, passes = dealing.deal(load_of, cells, shared)
    assert [cell for _, part, _ in passes for cell in part] == cells
    assert all(start == min(part[0].first, shared) for start, part, _ in passes)
    ways = []
    for cuts in itertools.product((False, True), repeat=len(cells) - 1):
        parts = [[cells[0]]]
        for cell, cut in zip(cells[1:], cuts, strict=True):
            parts.append([cell]) if cut else parts[-1].append(cell)
        ways.append(_cost(12, len(lm.layers), shared, parts, variants))
    assert price == pytest.approx(min(ways))
    assert price == pytest.approx(
        _cost(12, len(lm.layers), shared, [part for _, part, _ in passes], variants)
    )
    assert len(set(ways)) > 1


@pytest.mark.parametrize("site", ["resid_pre", "attn_out"])
def test_a_control_moves_each_activation_as_far_in_a_random_direction(both, site):
    _, reference, lm, pair, clean, corrupt = both
    got = swept(lm, patch, pair, site, "denoise", "logit_diff", 2, 5)["control"]
    plain = reference.score(corrupt, pair.answer, pair.wrong)
    own, source = reference.capture(corrupt, site), reference.capture(clean, site)
    expected = np.zeros((2, 3, 14))
    for layer in range(3):
        unit = unit_of(pair.corrupt.ids, own[0].shape[-1], 1, 2, 5, layer)
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(2, 14))
        for draw, position in itertools.product(range(2), range(9, 14)):

            def change(value, layer=layer, draw=draw, position=position, unit=unit):
                value = value.clone()
                far = (source[layer][0, position] - own[layer][0, position]).norm()
                value[0, position] += far * unit[draw, position]
                return value

            score = reference.patch(corrupt, site, layer, change, pair.answer, pair.wrong)
            expected[draw, layer, position] = score - plain
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(got.numpy(), expected, atol=TOLERANCE)


def test_a_control_of_a_head_keeps_to_the_head(both):
    _, reference, lm, pair, clean, corrupt = both
    got = swept(lm, patch_heads, pair, "noise", "logit_diff", 1, 5)["control"]
    plain = reference.score(clean, pair.answer, pair.wrong)
    own, source = reference.capture(clean, "head_z"), reference.capture(corrupt, "head_z")
    width = own[0].shape[-1]
    expected = np.zeros((1, 3, 4))
    for layer in range(3):
        unit = unit_of(pair.clean.ids, width, 4, 1, 5, layer)
        for head in range(4):
            part = slice(head * width // 4, (head + 1) * width // 4)

            def change(value, layer=layer, part=part, unit=unit):
                value = value.clone()
                far = (source[layer] - own[layer])[0, :, part].norm(dim=-1, keepdim=True)
                value[0, :, part] += far * unit[0, :, part]
                return value

            score = reference.patch(clean, "head_z", layer, change, pair.answer, pair.wrong)
            expected[0, layer, head] = score - plain
    np.testing.assert_allclose(got.numpy(), expected, atol=TOLERANCE)


def test_random_directions_differ_between_seeds_layers_and_prompts():
    drawn = [
        unit_of(ids, 8, 2, 1, seed, layer)
        for ids, seed, layer in (([1, 2], 0, 0), ([1, 2], 1, 0), ([1, 2], 0, 1), ([1, 3], 0, 0))
    ]
    for one, other in itertools.combinations(drawn, 2):
        assert (one - other).abs().max() > 0.01
    again = unit_of([1, 2], 8, 2, 1, 0, 0)
    torch.testing.assert_close(again, drawn[0], atol=0, rtol=0)


@pytest.mark.parametrize("cells", ["positions", "heads"])
def test_in_an_encoder_positions_before_the_first_difference_count_too(tiny, cells):
    reference = Reference(tiny("bert"), "bert")
    lm = load(ModelSpec(str(tiny("bert"))), Silent()).lm
    clean, corrupt = (reference.ids(MARY[k] + " [MASK]") for k in ("clean", "corrupt"))
    end = clean[0].tolist().index(reference.tokenizer.mask_token_id)
    answer, wrong = (reference.ids(MARY[k])[0, 1].item() for k in ("answer", "wrong"))
    made = [Prompt(ids[0].tolist(), {"end": end}, None) for ids in (clean, corrupt)]
    pair = Pair(*made, answer, wrong)
    plain = reference.score(corrupt, answer, wrong, end)
    site = "mlp_out" if cells == "positions" else "head_z"
    source = reference.capture(clean, site)
    if cells == "positions":
        got = swept(lm, patch, pair, site, "denoise", "logit_diff")["effect"]
        parts = [(slice(None), p) for p in range(len(made[0].ids))]
    else:
        got = swept(lm, patch_heads, pair, "denoise", "logit_diff")["effect"]
        size = source[0].shape[-1] // 4
        parts = [(..., slice(h * size, (h + 1) * size)) for h in range(4)]
    expected = np.zeros((3, len(parts)))
    for layer, index in itertools.product(range(3), range(len(parts))):

        def change(value, layer=layer, part=parts[index]):
            value = value.clone()
            value[part] = source[layer][part]
            return value

        hook = reference.hook(site, layer, change)
        expected[layer, index] = reference.score(corrupt, answer, wrong, end) - plain
        hook.remove()
    if cells == "positions":
        assert np.abs(expected[:, : pair.first_difference]).max() > 0.01
    np.testing.assert_allclose(got.numpy(), expected, atol=TOLERANCE)


def test_what_a_sweep_cannot_do_is_refused(tiny_llama):
    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    one, other = Prompt([5, 6, 7], {}, None), Prompt([5, 6, 8], {}, None)
    longer = Prompt([5, 6, 8, 9], {}, None)

    def at_end(hidden):
        return hidden[:, -1, 0]

    for message, put_in, asked in (
        ("keeps attn_out, not resid_pre", (other, "attn_out"), {}),
        ("keeps None, not resid_pre", (other, None), {}),
        ("runs of 3 and of 4 tokens", (longer, "resid_pre"), {}),
        ("has 2 rows", ([one, other], "resid_pre"), {}),
        ("positions .3. do not lie in a prompt of 3 tokens", (other, "resid_pre"), {"at": [3]}),
        ("positions .-1. do not lie", (other, "resid_pre"), {"at": [-1]}),
        ("there is no layer -1", (other, "resid_pre"), {"layers": [-1]}),
        ("by='token' is not one of", (other, "resid_pre"), {"by": "token"}),
    ):
        with pytest.raises(ValueError, match=message), torch.no_grad(), lm.session():
            sweep(lm, one, "resid_pre", run(lm, *put_in), at_end, **asked)

    for message, base, site, asked in (
        ("resid_pre has no heads", one, "resid_pre", {"by": "head"}),
        ("unknown site 'middle'", one, "middle", {}),
        ("of one prompt, not of several", [one, other], "resid_pre", {}),
        ("a control of one replacement", one, "resid_pre", {"control": 2}),
    ):
        with pytest.raises(ValueError, match=message), torch.no_grad(), lm.session():
            start = run(lm, base) if isinstance(base, list) else base
            put = torch.zeros(2, 1, 1, 1) if "control" in asked else 0.0
            values = [put] * len(lm.layers) if "control" in asked else put
            sweep(lm, start, site, values, at_end, **asked)


@pytest.mark.parametrize(
    "planned, free, taken",
    [
        (None, 80 << 30, 40 << 30),  # nobody planned it: half of what is free
        (2 << 30, 80 << 30, 2 << 30),  # limits.gpu_memory leaves little beside the weights
        (60 << 30, 80 << 30, 60 << 30),
        (60 << 30, 8 << 30, 6 << 30),  # somebody else took it meanwhile
    ],
)
def test_rows_on_a_gpu_take_what_was_planned(monkeypatch, planned, free, taken):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 96 << 30))
    with memory.memory(planned):
        assert memory.rows_that_fit(torch.device("cuda:0"), 1) == taken
        assert memory.rows_that_fit(torch.device("cpu"), 1) == (planned or 1 << 30)
    assert memory._planned is None


def test_what_the_plan_gives_a_sweep_reaches_it(project, tiny_llama, monkeypatch):
    found = mi.plan("activation_patching", model=tiny_llama, project=project, **MARY)
    seen = []
    plain = dealing.rows_that_fit

    def noted(device, row):
        seen.append(memory._planned)
        return plain(device, row)

    monkeypatch.setattr(dealing, "rows_that_fit", noted)
    mi.run("activation_patching", model=tiny_llama, project=project, **MARY)
    assert seen and found.chosen.rows_bytes
    assert all(size == pytest.approx(found.chosen.rows_bytes, rel=0.5) for size in seen)
