"""Every row of the table of sites against plain hooks, on every architecture."""

from __future__ import annotations

import typing
from types import SimpleNamespace

import nnsight
import pytest
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import (
    Pair,
    Prompt,
    Site,
    edit,
    gradients,
    info,
    measure,
    read,
    run,
    sweep,
)
from remote_mi.interventions.forward import is_empty
from remote_mi.interventions.ports import name_layers
from remote_mi.interventions.readout import logits, skip_unembedding
from remote_mi.interventions.sites import SITES, part_count
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

from ...conftest import ENCODERS, FAMILIES, PARALLEL
from ..reference import Reference

LAYERS, TOLERANCE = 3, 1e-4
EXPERTS = ("mixtral", "qwen3-moe")
NORMED = ("qwen3", "qwen3-moe", "gemma3")
ONCE = ("embed", "final_norm", "logits")
CLEAN, CORRUPT = [5, 17, 9, 30, 12, 44], [5, 17, 11, 30, 12, 44]
ANSWER, WRONG = 3, 4


#: Every kind of block; tests/slow/test_families.py has every class.
KINDS = ("llama", "gpt2", "bert", "neox-parallel", "opt", "gemma3", "qwen3-moe")


@pytest.fixture(scope="module", params=KINDS)
def model(request, tiny):
    return made(request.param, tiny)


def made(family, tiny):
    folder = tiny(family)
    reference = Reference(folder, family)
    reference.model.set_attn_implementation("eager")
    lm = load(ModelSpec(str(folder), attention="eager"), Silent()).lm
    clean, corrupt = (Prompt(list(ids), {}, None) for ids in (CLEAN, CORRUPT))
    pair = Pair(clean, corrupt, ANSWER, WRONG)
    return SimpleNamespace(family=family, reference=reference, lm=lm, pair=pair)


def having(family, site):
    """The layers that have a site, by hand; layer 1 of qwen3-moe has no experts."""
    if site in ONCE:
        return [0]
    without = {
        "resid_mid": (*PARALLEL, *ENCODERS),
        "mlp_gate": ("gpt2", "neox", "neox-parallel", "opt", "phi", "bert", "mixtral"),
        "mlp_up": ("mixtral", "gpt-oss"),
        "mlp_hidden": ("mixtral", "gpt-oss"),
        "q_rotated": ("gpt2", "opt", "bert"),
        "q_normed": [f for f in (*FAMILIES, *ENCODERS) if f not in NORMED],
        "other_out": (*FAMILIES, *ENCODERS),
        "router_logits": [f for f in (*FAMILIES, *ENCODERS) if f not in EXPERTS],
    }
    alike: dict[str, str] = {
        "k_rotated": "q_rotated",
        "k_normed": "q_normed",
        "expert_weights": "router_logits",
    }
    kind = alike.get(site, site)
    if family in without.get(kind, ()):
        return []
    if family == "qwen3-moe" and kind.startswith("mlp_") and kind not in ("mlp_in", "mlp_out"):
        return [1]
    if family == "qwen3-moe" and kind == "router_logits":
        return [0, 2]
    return list(range(LAYERS))


def lacks(family, site):
    return not having(family, site)


def within(lm, function, *arguments, **given):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, *arguments, **given))
    return found


def captured(model, ids, site):
    """The activation of each layer that has the site by hooks, shapes of `read`."""
    row = torch.tensor([ids])
    if site == "resid_mid":
        return dict(enumerate(model.reference.middle_stream(row)))
    layers = having(model.family, site)
    return dict(zip(layers, model.reference.capture(row, site, layers), strict=True))


def replaced(model, site, layer, change):
    """The logit difference of the corrupt prompt with one activation changed."""
    hook = model.reference.hook(site, layer, change)
    try:
        return model.reference.score(torch.tensor([CORRUPT]), ANSWER, WRONG)
    finally:
        hook.remove()


def where_written(model, site, layer):
    """The site that hooks write instead, and what they add to what is put there.

    resid_mid is changed by what attention adds to it.
    """
    if site != "resid_mid":
        return site, 0.0
    return "attn_out", captured(model, CORRUPT, "resid_pre")[layer]


def test_a_recipe_may_ask_for_every_site_but_the_pattern_the_scores_and_the_logits():
    assert set(typing.get_args(Site)) == set(SITES) - {"attn_pattern", "attn_scores", "logits"}


@pytest.mark.parametrize("site", SITES)
def test_it_is_read_as_a_hook_reads_it(model, site):
    layers = having(model.family, site)
    if len(layers) < LAYERS and site not in ONCE:
        have = {0: "", 1: "; layer 1 has it", 2: "; layers 0, 2 have it"}[len(layers)]
        with pytest.raises(ValueError, match=f"{site} does not exist here.*{have}$"):
            within(model.lm, run, model.pair.clean, site, layers=list(range(LAYERS)))
    if not layers:
        with pytest.raises(ValueError, match=f"{site} does not exist here"):
            within(model.lm, run, model.pair.clean, site)
        return
    got = within(model.lm, run, model.pair.clean, site).values
    assert [layer for layer, value in enumerate(got) if not is_empty(value)] == layers
    for layer, expected in captured(model, CLEAN, site).items():
        torch.testing.assert_close(got[layer], expected, atol=1e-5, rtol=1e-4)
        assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("site", SITES)
def test_it_is_edited_as_a_hook_edits_it(model, site):
    """Each activation of one layer is halved and turned; what was one row is still one."""
    if lacks(model.family, site):
        return
    ids = torch.tensor([CORRUPT])
    layers = having(model.family, site)
    at = 1 if 1 in layers else 0

    def change(activation):
        return 0.5 * activation.roll(1, -1)

    def edited(lm):
        if site in ("final_norm", "logits"):  # it is what follows that is read
            with lm.trace(input_ids=ids, use_cache=False):
                edit(lm, 0, site, change)
                found = lm.output.logits[:, -1, [ANSWER, WRONG]]
            return found
        with lm.trace(input_ids=ids, use_cache=False):
            edit(lm, at, site, change)
            hidden = lm.ln_final.output[:, -1]
            skip_unembedding(lm)
        return logits(lm, hidden, [ANSWER, WRONG])

    got = within(model.lm, edited)[0]
    place, before = where_written(model, site, at)
    expected = replaced(model, place, at, lambda x: change(before + x) - before)
    assert float(got[0] - got[1]) == pytest.approx(expected, abs=TOLERANCE)
    plain = model.reference.score(ids, ANSWER, WRONG)
    assert abs(expected - plain) > 1e-3, "the edit must change something"


@pytest.mark.parametrize("by", ["position", "layer", "head"])
@pytest.mark.parametrize("site", SITES)
def test_every_cell_of_a_sweep_is_a_run_with_a_hook(model, site, by):
    if lacks(model.family, site):
        return
    parts = part_count(model.lm, site)
    if by == "head" and parts == 1:
        return
    of_answer = measure(model.lm, "logit_diff", model.pair)

    layers = having(model.family, site)

    def swept(lm):
        put = run(lm, model.pair.clean, site, layers=layers)
        return sweep(lm, model.pair.corrupt, site, put, of_answer, by=by, layers=layers)

    if site == "logits":
        with pytest.raises(ValueError, match="nothing is measured after them"):
            within(model.lm, swept)
        return
    effect = within(model.lm, swept).effect
    source = captured(model, CLEAN, site)
    plain = model.reference.score(torch.tensor([CORRUPT]), ANSWER, WRONG)
    pattern = site in ("attn_pattern", "attn_scores")
    cells = len(CLEAN) if by == "position" else parts if by == "head" else 1
    assert effect.shape == (len(layers), *((cells,) if by != "layer" else ()))
    for place_in_map, layer in enumerate(layers):
        place, before = where_written(model, site, layer)
        for cell in range(cells):

            def change(x, layer=layer, cell=cell, before=before):
                new, there = x.clone(), source[layer] - before
                size = x.shape[-1] // parts
                if by == "position":
                    index = (slice(None), slice(None), cell) if pattern else (slice(None), cell)
                elif by == "head":
                    part = slice(cell * size, (cell + 1) * size)
                    index = (slice(None), cell) if pattern else (..., part)
                else:
                    index = (...,)
                new[index] = there[index]
                return new

            expected = replaced(model, place, layer, change) - plain
            found = effect[place_in_map]
            got = found if by == "layer" else found[cell]
            assert float(got) == pytest.approx(expected, abs=TOLERANCE), (layer, cell)
    assert effect.abs().max() > 1e-3, "there must be something to find"


@pytest.mark.parametrize("site", SITES)
def test_its_gradient_is_that_of_a_hook_that_adds_to_it(model, site):
    if lacks(model.family, site):
        return
    of_answer = measure(model.lm, "logit_diff", model.pair)
    layers = having(model.family, site)

    def slopes(lm):
        return gradients(lm, model.pair.corrupt, site, of_answer, layers=layers)

    if site == "logits":
        with pytest.raises(ValueError, match="nothing is measured after them"):
            within(model.lm, slopes)
        return
    with torch.enable_grad(), model.lm.session():
        got = nnsight.save(slopes(model.lm))
    ids = torch.tensor([CORRUPT])
    for layer, values in captured(model, CORRUPT, site).items():
        torch.testing.assert_close(got.values[layer], values, atol=1e-5, rtol=1e-4)
        if site == "resid_mid":
            continue  # a hook cannot add to what both the norm and the stream read: see below
        added = torch.zeros_like(values, requires_grad=True)
        hook = model.reference.hook(site, layer, lambda x, added=added: x + added)
        out = model.reference.model(ids).logits[0, -1]
        hook.remove()
        (out[ANSWER] - out[WRONG]).backward()
        torch.testing.assert_close(got.gradients[layer], added.grad, atol=1e-4, rtol=1e-3)
        assert added.grad.abs().max() > 1e-6


def test_the_stream_between_has_the_gradient_of_what_attention_adds(model):
    """resid_mid is resid_pre plus attn_out, so a change of either is a change of it."""
    if lacks(model.family, "resid_mid"):
        return
    of_answer = measure(model.lm, "logit_diff", model.pair)
    found = []
    for site in ("resid_mid", "attn_out"):
        with torch.enable_grad(), model.lm.session():
            found.append(nnsight.save(gradients(model.lm, model.pair.corrupt, site, of_answer)))
    for one, other in zip(found[0].gradients, found[1].gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_an_unknown_site_is_refused(tiny_llama):
    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    for function in (read, lambda lm, layer, site: edit(lm, layer, site, torch.zeros_like)):
        with pytest.raises(
            ValueError, match="unknown site 'residual'; there are embed, resid_pre, "
        ):
            function(lm, 0, "residual")


def test_scores_are_refused_where_attention_does_not_give_them(tiny_llama):
    lm = load(ModelSpec(str(tiny_llama), attention="sdpa"), Silent()).lm
    with pytest.raises(ValueError, match=r"attn_scores does .* needs eager attention"):
        within(lm, run, Prompt(list(CLEAN), {}, None), "attn_scores")


def test_layers_are_named_and_a_site_of_the_model_has_one(tiny_llama):
    assert name_layers([0, 1, 2, 4, 6, 7]) == "layers 0 to 2, 4, 6, 7"
    assert name_layers([3]) == "layer 3"
    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    with pytest.raises(ValueError, match="embed exists once in a model: its only layer is 0"):
        within(lm, run, Prompt(list(CLEAN), {}, None), "embed", layers=[1])


def test_only_the_chosen_layers_are_kept(tiny_llama):
    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    prompt = Prompt(list(CLEAN), {}, None)
    for site in ("resid_pre", "mlp_out"):
        every = within(lm, run, prompt, site).values
        some = within(lm, run, prompt, site, layers=[1]).values
        assert is_empty(some[0]) and is_empty(some[2]) and len(some) == 3
        torch.testing.assert_close(some[1], every[1])


def test_a_model_says_what_it_is(model):
    found = info(model.lm)
    config = model.reference.model.config
    assert (found.layers, found.heads) == (LAYERS, config.num_attention_heads)
    assert (found.d_model, found.vocabulary) == (config.hidden_size, config.vocab_size)
    assert found.causal == (model.family not in ENCODERS)
    assert found.chosen([1, 2]) == [1, 2] and found.chosen(None) == [0, 1, 2]
    with pytest.raises(ValueError, match="there is no layer 3: the model has layers 0 to 2"):
        found.chosen([3])
