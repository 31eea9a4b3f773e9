"""Sets of heads and neurons replaced at once, and means of other prompts, against plain hooks."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.backends.base import Work
from remote_mi.backends.dry_run import expected_outputs
from remote_mi.backends.ndif.source_checks import check_source
from remote_mi.common.errors import NotFound, UsageError
from remote_mi.interventions import Pair, Prompt
from remote_mi.interventions.part_sets import PartSet, random_sets
from remote_mi.recipes import catalog, loading

from ...conftest import MARY
from ..backends.test_preflight import SERVER, weightless
from .test_ablation import HEADS, LAYERS, captured, made, measured, ran

FAMILIES = ("llama", "gpt2", "neox", "gemma2", "qwen3", "bert")
NEAR = {"atol": 1e-5, "rtol": 1e-4}
SITES = {"heads": "head_z", "neurons": "mlp_hidden"}
SETS = {
    "heads": {"heads": ["0.1", "0.3", "2.2"]},
    "neurons": {"neurons": ["1.5", "1.0", "2.7"]},
    "both": {"heads": ["1.0"], "neurons": ["1.5", "2.7"]},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny):
    return made(request.param, tiny)


@pytest.fixture(scope="module")
def llama(tiny):
    return made("llama", tiny)


def members(text: str, only: str) -> list[tuple[str, int, int]]:
    """(site, layer, number) of each part of a set as it is written."""
    found = []
    for part in text.split(", "):
        what, _, place = part.rpartition(" ")
        layer, number = place.split(".")
        found.append((SITES[f"{what}s" if what else only], int(layer), int(number)))
    return found


def values_of(model: SimpleNamespace, pair: Pair, site: str, kind: str, prompts: Any) -> Any:
    """What is put in at each layer, [1, position, width], or something that broadcasts to it."""
    if kind == "zero":
        return [torch.zeros(()) for _ in range(LAYERS)]
    if kind in ("resample", "denoise"):
        return captured(model, pair.corrupt if kind == "resample" else pair.clean, site)
    runs = [captured(model, prompt, site) for prompt in prompts]
    return [torch.cat([run[i][0] for run in runs]).mean(0) for i in range(LAYERS)]


def hooks_of(model: SimpleNamespace, parts: Any, values: Any) -> list[Any]:
    """Hooks that replace all parts at once."""
    hooks = []
    for (site, layer), some in itertools.groupby(sorted(parts), lambda part: part[:2]):
        numbers = [number for *_, number in some]

        def change(x, site=site, layer=layer, numbers=numbers):
            size = x.shape[-1] // HEADS if site == "head_z" else 1
            value, x = values[site][layer].expand_as(x), x.clone()
            for n in numbers:
                x[..., n * size : (n + 1) * size] = value[..., n * size : (n + 1) * size]
            return x

        hooks.append(model.reference.hook(site, layer, change))
    return hooks


@pytest.mark.parametrize("kind", ["mean", "zero", "resample", "denoise"])
@pytest.mark.parametrize("what", SETS)
def test_a_set_is_replaced_in_one_run_and_so_is_each_random_set(model, what, kind):
    given = {**SETS[what], "kind": kind, "control_sets": 4}
    got = ran(model.lm, "set_ablation", model.pairs, **given)
    clean = [pair.clean for pair in model.pairs]
    for index, pair in enumerate(model.pairs):
        base = pair.corrupt if kind == "denoise" else pair.clean
        run = Pair(base, base, pair.answer, pair.wrong)
        sites = SITES.values()
        values = {site: values_of(model, pair, site, kind, clean) for site in sites}
        named = [f"{what[:-1]} {part}" for what in given if what in SITES for part in given[what]]
        sets = [", ".join(named), *got["sets"][index][1:]]
        plain = measured(model, run, [])[0]
        expected = [
            measured(model, run, hooks_of(model, members(text, what), values))[0] - plain
            for text in sets
        ]
        assert got["sets"][index][0] == "the set" and len(set(sets)) == 5
        np.testing.assert_allclose(got["effect_by_set"][index], expected, **NEAR)
        np.testing.assert_allclose(got["effect"][index], expected[0], **NEAR)
        np.testing.assert_allclose(got["random_effect"][index], expected[1:], **NEAR)
        assert np.abs(expected).max() > 1e-3, "there must be something to find"
        for name, prompt in (("clean", pair.clean), ("corrupt", pair.corrupt)):
            score = measured(model, Pair(prompt, prompt, pair.answer, pair.wrong), [])[0]
            assert float(got[name][index]) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("kind", ["mean", "resample"])
def test_the_rest_of_a_set_are_all_other_heads_of_all_layers(llama, kind):
    given = {"heads": ["0.1", "2.2"], "replaced": "rest", "kind": kind, "control_sets": 2}
    got = ran(llama.lm, "set_ablation", llama.pairs[:1], **given)
    pair = llama.pairs[0]
    values = {"head_z": values_of(llama, pair, "head_z", kind, [pair.clean])}
    every = itertools.product(["head_z"], range(LAYERS), range(HEADS))
    rest = [part for part in every if part[1:] not in ((0, 1), (2, 2))]
    found = measured(llama, pair, hooks_of(llama, rest, values))[0] - measured(llama, pair, [])[0]
    np.testing.assert_allclose(got["effect"][0], found, **NEAR)


def test_memory_for_few_rows_changes_no_number(llama, monkeypatch):
    from remote_mi.interventions import together

    given = {**SETS["both"], "control_sets": 9}
    whole = ran(llama.lm, "set_ablation", llama.pairs, **given)
    monkeypatch.setattr(together, "rows_of_a_pass", lambda *_: 3)
    parts = ran(llama.lm, "set_ablation", llama.pairs, **given)
    for one, other in zip(whole["effect_by_set"], parts["effect_by_set"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_random_sets_are_of_the_same_layers_and_no_other_set_is_left_out_or_doubled():
    own, counts = PartSet({("head_z", 0): [1], ("head_z", 2): [0, 3]}), {"head_z": 4}
    found = random_sets(own, counts, 1000, 0)
    assert len({str(one) for one in found} | {str(own)}) == 4 * 6 and len(found) == 23
    some = random_sets(own, counts, 8, 1)
    assert len({str(one) for one in some}) == 8 and str(own) not in map(str, some)
    assert [str(one) for one in random_sets(own, counts, 8, 1)] == [str(one) for one in some]
    shape = {key: len(numbers) for key, numbers in own.parts.items()}
    assert all({k: len(n) for k, n in one.parts.items()} == shape for one in some)
    drawn = [str(random_sets(own, counts, 1, seed)[0]) for seed in range(460)]
    counted = [drawn.count(one) for one in {str(one) for one in found}]
    assert min(counted) > 5 and max(counted) < 45, "each other set is as likely: 20 are expected"


def test_the_place_and_the_p_value_are_those_of_the_means_over_the_pairs(project, tiny_llama):
    given = {"heads": "0.1,0.3,2.2", "control_sets": 24}
    found = mi.run(
        "set_ablation", model=str(tiny_llama), phenomenon="ioi:store", n=3, parameters=given
    )
    sizes = np.abs(np.mean([found.arrays[f"effect_by_set@{i}"] for i in range(3)], 0))
    place = 1 + int((sizes[1:] >= sizes[0]).sum())
    assert float(found["place"].values) == place
    assert float(found["p"].values) == pytest.approx(place / len(sizes))
    assert float(found["smallest_p"].values) == pytest.approx(1 / len(sizes))
    assert float(found.arrays["effect:p"]) == pytest.approx(place / len(sizes))
    assert found["effect_by_set"].coords["set"][0] == "the set"


@pytest.mark.parametrize("average", ["after_first", "each"])
@pytest.mark.parametrize("recipe", ["ablation", "head_ablation", "set_ablation"])
def test_a_mean_of_reference_prompts_equals_that_by_hand(model, recipe, average):
    pair = model.pairs[0]
    ids = pair.clean.ids
    reference = [Prompt(list(reversed(ids)), {}, None), Prompt(ids[3:] + ids[:3], {}, None)]
    site = "attn_out" if recipe == "ablation" else "head_z"
    more = {"heads": ["1.2"], "control_sets": 1} if recipe == "set_ablation" else {}
    given = {"reference": reference, "average": average, **more}
    got = ran(model.lm, recipe, [pair], kind="mean", **given)
    runs = [captured(model, prompt, site) for prompt in reference]
    for layer in range(LAYERS) if recipe != "set_ablation" else [1]:
        each = torch.stack([run[layer][0] for run in runs])
        value = each.mean(0) if average == "each" else each[:, 1:].flatten(0, 1).mean(0)
        size = value.shape[-1] if recipe == "ablation" else value.shape[-1] // HEADS

        def change(x, value=value, size=size):
            x, start = x.clone(), 0 if recipe == "ablation" else 2 * size
            x[..., start : start + size] = value.expand_as(x)[..., start : start + size]
            return x

        hooks = [model.reference.hook(site, layer, change)]
        expected = measured(model, pair, hooks)[0] - measured(model, pair, [])[0]
        of = {"ablation": "layer_effect", "head_ablation": "effect", "set_ablation": "effect"}
        found = got[of[recipe]][0].numpy()
        found = found if not found.ndim else found[layer, 2] if found.ndim == 2 else found[layer]
        np.testing.assert_allclose(found, expected, **NEAR)


def test_a_mean_at_each_position_takes_only_prompts_with_the_labels_in_the_same_places(llama):
    pair = llama.pairs[0]
    ids = pair.clean.ids
    own = Pair(Prompt(ids, {"s": 3}, None), pair.corrupt, pair.answer, pair.wrong)
    alike, elsewhere = (Prompt(ids[::-1], {"s": place}, None) for place in (3, 4))
    given: dict[str, Any] = {"average": "each", "control_draws": 0}
    one, two = (
        ran(llama.lm, "head_ablation", [own], reference=some, **given)["effect"][0]
        for some in ([alike], [alike, elsewhere])
    )
    torch.testing.assert_close(one, two, atol=0, rtol=0)
    with pytest.raises(
        ValueError, match="none of the 1 reference prompts but itself has its label"
    ):
        ran(llama.lm, "head_ablation", [own], reference=[elsewhere], **given)
    with pytest.raises(ValueError, match=f"has its {len(ids)} tokens"):
        ran(llama.lm, "head_ablation", [own], reference=[Prompt(ids[1:], {}, None)], **given)
    with pytest.raises(ValueError, match="but itself"):
        ran(llama.lm, "head_ablation", [own], **given)


@pytest.mark.parametrize("recipe", ["heads_by_position", "head_ablation"])
def test_the_shapes_are_known_before_it_is_sent(tiny, llama, recipe):
    card = catalog.find(recipe, Path())
    given = card.resolve({"kind": "mean"})
    function = loading.load_function(card, Path())
    assert check_source(card, function, Path(), SERVER) == []
    work = Work(card, function, llama.pairs[:1], given, "key", together=llama.pairs)
    found = expected_outputs(weightless(tiny("llama")), work)
    assert found.outputs is not None, found.reason
    outputs = ran(llama.lm, recipe, llama.pairs, **given)
    for name, values in outputs.items():
        assert found.outputs[0][name][0] == tuple(values[0].shape), name


def test_sets_can_be_sent(tiny):
    card = catalog.find("set_ablation", Path())
    assert check_source(card, loading.load_function(card, Path()), Path(), SERVER) == []


CORRUPT = "ioi_abc:store,n=3,side=corrupt"


def test_reference_prompts_are_in_the_key_as_texts_and_by_name_in_what_is_shown(
    project, tiny_llama, cli
):
    given = {"model": str(tiny_llama), "phenomenon": "ioi_abc:store", "n": 2}
    named = mi.run("head_ablation", **given, reference=CORRUPT, average="each")
    assert named.made.parameters["reference"] == CORRUPT
    texts = [e.corrupt for e in mi.job("baseline", **{**given, "n": 3}).prompts.examples]
    lists = [{"prompt": text} for text in texts]
    job, other = (
        mi.job("head_ablation", **given, reference=of, average="all") for of in (CORRUPT, texts)
    )
    assert [p["clean"] for p in job.parameters["reference"]["prompts"]] == texts
    same = mi.job("head_ablation", **given, reference=lists, average="all")
    assert same.key == other.key and mi.job("head_ablation", **given, average="all").key != same.key
    code, _, err = cli("reproduce", named.id8)
    assert code == 0, err
    code, _, err = cli("report", named.id8, "-o", "r.md")
    assert code == 0, err
    assert CORRUPT in (project / "r.md").read_text(), err


MISTAKES = [
    ({"heads": "9-6"}, "'9-6' is not a head", "heads=9.6"),
    ({"heads": "1.1,1.1"}, "head 1.1 is given twice", ""),
    ({"heads": "7.0"}, "no head 7.0: the model has layers 0 to 2", ""),
    ({"heads": "1.4"}, "no head 1.4: each layer has heads 0 to 3", ""),
    ({"heads": "1.0,1.1,1.2,1.3"}, "no random set of the same layers", ""),
    ({}, "needs a set: heads or neurons", "heads=9.6"),
    ({"heads": [1.1]}, r"\[1.1\] is not texts", "in quotes"),
    ({"heads": "1.1", "reference": "ioi_abx"}, "'reference': no phenomenon named", "ioi_abc"),
    ({"heads": "1.1", "reference": "ioi,size=3"}, "'size=3' is not a setting", "n=…"),
    ({"heads": "1.1", "reference": "ioi,n=x"}, "n=x is not a whole number", "n=50"),
    ({"heads": "1.1", "reference": "ioi,side=left"}, "side=left is neither", "side=corrupt"),
    ({"heads": "1.1", "reference": "ioi,class=x"}, "ioi has no prompts of class 'x'", "it has"),
    ({"heads": "1.1", "reference": "no.jsonl"}, "'reference': cannot read no.jsonl", ""),
    ({"heads": "1.1", "reference": []}, "'reference': .* is not a phenomenon", ""),
    ({"heads": "1.1", "reference": ["a b", 3]}, "'reference': 3 is neither a text nor", ""),
    ({"heads": "1.1", "reference": ["a"], "average": "most"}, "'average': 'most' is not", ""),
]


@pytest.mark.parametrize("given, said, hint", MISTAKES, ids=range(len(MISTAKES)))
def test_a_set_or_a_reference_that_cannot_be_is_refused_in_one_line(
    project, tiny_llama, given, said, hint
):
    with pytest.raises((UsageError, NotFound), match=said) as refused:
        mi.run("set_ablation", model=str(tiny_llama), **MARY, **given)
    assert hint in (refused.value.hint or "") and "\n" not in refused.value.message
