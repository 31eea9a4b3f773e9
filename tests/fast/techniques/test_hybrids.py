"""Techniques on a model of which only some layers have attention, against plain hooks.

Jamba's layer 1 attends; layers 0 and 2 are state spaces. What they lack is empty, with a note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.models.spec import ModelSpec

from ...families import checks
from ...families.by_hand import hand_of
from ...families.plain import Plain

PAIR: dict[str, Any] = {
    "clean": [5, 17, 9, 30], "corrupt": [5, 17, 11, 30], "answer": 12, "wrong": 44,
}  # fmt: skip
CLEAN, CORRUPT = PAIR["clean"], PAIR["corrupt"]
LAYERS, HEADS, ATTENDS = 3, 4, 1
EMPTY = "layers 0, 2 have no {}, and stay empty: this layer mixes the positions without attention"


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> tuple[ModelSpec, Plain]:
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("hybrid")
    checks.save("jamba", folder)
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, attn_implementation="eager").eval()
    spec = ModelSpec(str(folder), tokenizer="ids", attention="eager")
    return spec, Plain(model.requires_grad_(False), hand_of("jamba"))


def gap(plain: Plain, ids: list[int]) -> float:
    """The logit difference at the end."""
    logits = plain.logits(plain.final(ids))[0, -1].double()
    return float(logits[PAIR["answer"]] - logits[PAIR["wrong"]])


def with_change(
    plain: Plain, ids: list[int], site: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    with plain.changed(site, ATTENDS, change):
        return gap(plain, ids)


def empty_but_one(found: np.ndarray) -> np.ndarray:
    """The values of the layer that attends; the others must be NaN."""
    assert len(found) == LAYERS and np.isnan(np.delete(found, ATTENDS, 0)).all()
    return found[ATTENDS]


def of_head(head: int, new: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    size = slice(8 * head, 8 * head + 8)

    def change(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[..., size] = new[..., size]
        return z

    return change


@pytest.mark.parametrize(("site", "window"), [("v", 1), ("attn_out", 1), ("head_z", 3)])
def test_patching_is_that_of_the_layers_that_have_the_site(site, window, hybrid, project):
    model, plain = hybrid
    found = mi.run("activation_patching", model=model, pairs=[PAIR], site=site, window=window)
    effect = empty_but_one(found["effect"].values)
    donor, base = plain.captured(CLEAN, site, ATTENDS), gap(plain, CORRUPT)
    for place in range(len(CLEAN)):

        def put(x: torch.Tensor, place: int = place) -> torch.Tensor:
            x = x.clone()
            x[:, place] = donor[:, place]
            return x

        expected = with_change(plain, CORRUPT, site, put) - base
        assert effect[place] == pytest.approx(expected, abs=1e-4)
    assert abs(effect).max() > 1e-3
    notes = found.document["notes"]
    assert any(EMPTY.format(site) in note for note in notes)
    assert not any("NaN" in note for note in notes)


def test_heads_are_patched_ablated_and_attributed_where_there_are_any(hybrid, project):
    model, plain = hybrid
    base, donor = gap(plain, CORRUPT), plain.captured(CLEAN, "head_z", ATTENDS)
    own = plain.captured(CORRUPT, "head_z", ATTENDS)
    patched = empty_but_one(mi.run("head_patching", model=model, pairs=[PAIR])["effect"].values)
    given = {"model": model, "pairs": [PAIR]}
    ablated = mi.run("head_ablation", kind="zero", **given)["effect"].values
    linear = mi.run("head_attribution", compare="exact", **given)
    clean = gap(plain, CLEAN)
    ids, leaf = torch.tensor([CORRUPT]), []

    def keep(z: torch.Tensor) -> torch.Tensor:
        leaf.append(z.detach().requires_grad_(True))
        return leaf[0]

    with plain.changed("head_z", ATTENDS, keep), torch.enable_grad():
        end = plain.model(input_ids=ids, use_cache=False).logits[0, -1]
        slope = torch.autograd.grad(end[PAIR["answer"]] - end[PAIR["wrong"]], leaf)[0]
    product = ((donor - own) * slope).unflatten(-1, (HEADS, -1)).sum((0, 1, 3))
    for head in range(HEADS):
        expected = with_change(plain, CORRUPT, "head_z", of_head(head, donor)) - base
        assert patched[head] == pytest.approx(expected, abs=1e-4)
        zeroed = of_head(head, torch.zeros_like(donor))
        expected = with_change(plain, CLEAN, "head_z", zeroed) - clean
        assert empty_but_one(ablated)[head] == pytest.approx(expected, abs=1e-4)
        of_linear = empty_but_one(linear["effect"].values)[head]
        assert of_linear == pytest.approx(float(product[head]), abs=1e-4)
    assert np.isfinite(linear["correlation"].values).all()


def test_patterns_are_those_of_the_layer_that_attends(hybrid, project):
    model, plain = hybrid
    found = mi.run("attention_patterns", model=model, prompt=CLEAN)
    pattern = empty_but_one(found["pattern"].values)
    expected = plain.captured(CLEAN, "attn_pattern", ATTENDS)[0]
    assert np.allclose(pattern, expected, atol=1e-5)
    detectors = mi.run("head_detectors", model=model, sequences=2, length=4)
    assert np.isfinite(empty_but_one(detectors["induction"].values)).all()
    assert any(EMPTY.format("attn_pattern") in note for note in detectors.document["notes"])


def test_a_probe_reads_the_layers_that_have_the_site(hybrid, project):
    model, plain = hybrid
    prompts = [{"prompt": [5 + i, 17, 20 + 3 * (i % 2)], "label": "ab"[i % 2]} for i in range(20)]
    given: dict[str, Any] = {"model": model, "pairs": prompts, "site": "head_z"}
    found = mi.run("linear_probe", **given, control_draws=19)
    activation = empty_but_one(found.arrays["activation@0"])
    expected = plain.captured(prompts[0]["prompt"], "head_z", ATTENDS)[0, -1]
    assert np.allclose(activation[0], expected, atol=1e-5)
    assert np.isfinite(empty_but_one(found["accuracy"].values)).all()


def test_direct_attribution_sums_up_to_the_logits(hybrid, project):
    model, plain = hybrid
    found = mi.run("direct_logit_attribution", model=model, pairs=[PAIR])
    empty_but_one(found["head"].values)
    assert float(found["sum"].values) == pytest.approx(gap(plain, CLEAN), abs=1e-4)
    other = found["other"].values
    assert other[ATTENDS] == 0 and abs(other).max() > 1e-3


@pytest.mark.parametrize("name", ["granitemoeshared", "falcon_h1", "gemma4_text"])
def test_direct_attribution_knows_further_parts_and_numbers_of_the_stream(name, tmp_path, project):
    """Each of these adds or multiplies something that heads and MLPs do not account for."""
    from transformers import AutoModelForCausalLM

    checks.save(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = model(torch.tensor([CLEAN])).logits[0, -1]
    spec = ModelSpec(str(tmp_path), tokenizer="ids")
    found = mi.run("direct_logit_attribution", model=spec, pairs=[PAIR])
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.atanh(logits / cap)  # the sum is before it
    expected = float(logits[PAIR["answer"]] - logits[PAIR["wrong"]])
    assert float(found["sum"].values) == pytest.approx(expected, abs=2e-4)


def test_a_site_that_no_layer_has_is_refused_before_anything_runs(tmp_path, project, cli):
    checks.save("mamba", tmp_path)
    spec = ModelSpec(str(tmp_path), tokenizer="ids")
    asked: list[tuple[str, dict[str, Any]]] = [
        ("head_patching", {}),
        ("activation_patching", {"site": "mlp_out"}),
        ("direct_logit_attribution", {}),
    ]
    for recipe, given in asked:
        with pytest.raises(UsageError, match=r"cannot run on .* does not exist here") as refused:
            mi.run(recipe, model=spec, pairs=[PAIR], **given)
        assert "models sites" in str(refused.value)


def test_a_layer_that_is_asked_for_must_have_what_is_measured(hybrid, project):
    model, _ = hybrid
    with pytest.raises(UsageError, match=r"attn_pattern does not exist here in layer 2: .*layer 1"):
        mi.run("attention_patterns", model=model, prompt=CLEAN, layers=[1, 2])
    found = mi.run("attention_patterns", model=model, prompt=CLEAN, layers=[ATTENDS])
    assert found["pattern"].values.shape[0] == 1 and np.isfinite(found["pattern"].values).all()
