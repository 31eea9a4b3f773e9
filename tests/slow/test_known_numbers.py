"""The embedded model against numbers measured with independent code (plain hooks, TransformerLens).

Small prompt sets: the patterns are tested, not the third digit.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from remote_mi.models.spec import ModelSpec

from ..conftest import MARY

NAMES = [
    "Mary",
    "John",
    "Tom",
    "James",
    "Sarah",
    "Anna",
    "Paul",
    "David",
    "Alice",
    "Mark",
    "Kate",
    "Peter",
]


@pytest.fixture(scope="module")
def residual(embedded):
    return embedded("activation_patching", **MARY)


def test_the_logit_differences_of_the_ioi_pair(residual):
    assert float(residual["clean"]) == pytest.approx(6.12, abs=0.02)
    assert float(residual["corrupt"]) == pytest.approx(-5.49, abs=0.02)
    assert residual.provenance["prompts"]["bos_prepended"] is False


@pytest.mark.parametrize(
    "layer, recovery", [(10, 1.00), (18, 1.01), (20, 0.91), (21, 0.61), (24, -0.03)]
)
def test_recovery_at_the_second_subject(residual, layer, recovery):
    assert residual["recovery"].values[layer, 9] == pytest.approx(recovery, abs=0.01)


@pytest.mark.parametrize("layer, recovery", [(20, 0.12), (21, 0.33), (24, 0.92), (27, 0.97)])
def test_recovery_at_the_last_position(residual, layer, recovery):
    assert residual["recovery"].values[layer, 13] == pytest.approx(recovery, abs=0.01)


def test_positions_of_the_identical_prefix_are_exactly_zero(residual):
    assert (residual["recovery"].values[:, :9] == 0).all()


def test_the_last_layer_is_zero_where_causality_says_so_and_only_there(embedded, residual):
    """At the last layer other positions reach the end through keys and values only."""
    assert residual["recovery"].values[29, 10] == pytest.approx(0.04, abs=0.01)
    for site in ("resid_mid", "attn_out", "mlp_out"):
        last = embedded("activation_patching", site=site, control_draws=0, **MARY)[
            "recovery"
        ].values[29]
        assert np.abs(last[:13]).max() < 1e-5


def test_the_logit_lens_ends_in_the_models_own_distribution(embedded, model):
    result = embedded("logit_lens", prompt="The Eiffel Tower is in the city of", top=50)
    ids = model.tokenizer("The Eiffel Tower is in the city of", return_tensors="pt").input_ids
    with torch.no_grad():
        own = model.lm._module(ids).logits[0].softmax(-1)
    probs, tokens = own.topk(50)
    np.testing.assert_allclose(result["top_prob"].values[-1], probs.numpy(), atol=1e-5)
    assert (result["top_token"].values[-1] == tokens.numpy()).mean() > 0.99
    assert np.abs(result["kl"].values[-1]).max() < 1e-5
    assert (result["target_rank"].values[-1] == 0).all()
    assert result.text(result["top_token"].values[-1, -1, 0]) == " Paris"
    assert result["top_prob"].values[-1, -1, 0] == pytest.approx(0.66, abs=0.01)


def test_a_layer_of_the_logit_lens_equals_norm_and_unembedding_by_hand(embedded, model):
    prompt = "The Eiffel Tower is in the city of"
    result = embedded("logit_lens", prompt=prompt, target=" Paris")
    hf = model.lm._module
    with torch.no_grad():
        states = hf(
            model.tokenizer(prompt, return_tensors="pt").input_ids, output_hidden_states=True
        )
        for layer in (0, 14, 28):  # hidden_states[-1] has the final norm in it already
            by_hand = hf.lm_head(hf.model.norm(states.hidden_states[layer + 1][0])).log_softmax(-1)
            final = states.logits[0].log_softmax(-1)
            entropy = -(by_hand.exp() * by_hand).sum(-1)
            kl = (final.exp() * (final - by_hand)).sum(-1)
            np.testing.assert_allclose(result["entropy"].values[layer], entropy, atol=1e-4)
            np.testing.assert_allclose(result["kl"].values[layer], kl, rtol=1e-4, atol=1e-4)
            paris = model.tokenizer(" Paris").input_ids[0]
            np.testing.assert_allclose(
                result["target_prob"].values[layer], by_hand.exp()[:, paris], atol=1e-5
            )


def abc_pairs() -> list[dict[str, str]]:
    """Twelve IOI prompts whose corrupt subject is a third name, as the reference drew them."""
    generator = random.Random()
    generator.seed(0)
    pairs = []
    for index in range(12):
        io, s, x = generator.sample(NAMES, 3)
        a, b = (io, s) if index % 2 else (s, io)
        text = f"When {a} and {b} went to the store, {{}} gave a drink to"
        pairs.append(
            {
                "clean": text.format(s),
                "corrupt": text.format(x),
                "answer": f" {io}",
                "wrong": f" {s}",
                "template": "store",
            }
        )
    return pairs


def test_noising_heads_on_ioi_finds_the_known_heads(embedded):
    recovery = embedded("head_patching", pairs=abc_pairs(), direction="noise", control_draws=0)[
        "recovery"
    ].values
    known = {(23, 3): -0.56, (29, 1): -0.27, (29, 0): 0.23, (20, 0): -0.23, (17, 4): -0.22}
    for (layer, head), effect in known.items():
        assert recovery[layer, head] == pytest.approx(effect, abs=0.02)
    strongest = np.unravel_index(np.argsort(-np.abs(recovery), axis=None)[:5], recovery.shape)
    assert set(zip(*(a.tolist() for a in strongest), strict=True)) == set(known)


def baseline(model, prompts) -> dict[str, float]:
    """Accuracy, logit difference and top-1 of a phenomenon, one plain forward pass a prompt."""
    from remote_mi.prompts.tokens import tokenize

    pairs = tokenize(model.tokenizer, prompts, ModelSpec(), "pair", 8192).prompts
    rows = []
    with torch.no_grad():
        for pair in pairs:
            logits = model.lm._module(torch.tensor([pair.clean.ids])).logits[0, -1]
            difference = float(logits[pair.answer] - logits[pair.wrong])
            rows.append((difference > 0, difference, int(logits.argmax()) == pair.answer))
    accuracy, difference, top1 = np.mean(np.array(rows, float), 0)
    return {"accuracy": accuracy, "logit_diff": difference, "top1": top1}


def test_the_baseline_of_ioi(model, tmp_path):
    from remote_mi.prompts import phenomena

    ioi = phenomena.find("ioi", tmp_path)
    found = baseline(model, ioi.prompts(90))
    assert found["accuracy"] >= 0.96
    assert found["logit_diff"] == pytest.approx(ioi.baseline["logit_diff"], abs=0.5)


def test_the_baseline_of_country_capital(model, tmp_path):
    from remote_mi.prompts import phenomena

    capitals = phenomena.find("country_capital", tmp_path)
    found = baseline(model, capitals.prompts())
    assert found["top1"] == pytest.approx(capitals.baseline["top1"], abs=0.01)
    assert found["logit_diff"] == pytest.approx(capitals.baseline["logit_diff"], abs=0.1)


def test_several_pairs_equal_the_same_pairs_one_by_one(embedded):
    pairs = abc_pairs()[:3]
    together = embedded("head_patching", pairs=pairs, control_draws=0)
    for index, pair in enumerate(pairs):
        alone = embedded(
            "head_patching", control_draws=0, **{k: v for k, v in pair.items() if k != "template"}
        )
        np.testing.assert_allclose(
            together.each("effect")[index].values, alone["effect"].values, atol=1e-4
        )


def test_the_demo_runs_and_ends_with_the_next_command(embedded_cache, tmp_path, process):
    done = process("demo", REMOTE_MI_PROJECT=str(tmp_path), timeout=600)
    assert done.returncode == 0, done.stderr
    assert "largest: layer" in done.stdout and "position 9 [s2]" in done.stdout
    said = " ".join(done.stdout.split())
    assert "changes with interventions at [s2], layers 0–" in said, "the computed reading"
    assert "→ It passes from [s2] to position 13 ␠to [end] between layers " in said
    assert "next: remote-mi run head_patching" in done.stderr
    assert (
        json.loads((next((tmp_path / "runs").iterdir()) / "run.json").read_text())["status"]
        == "done"
    )
