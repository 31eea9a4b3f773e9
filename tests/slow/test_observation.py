"""Baseline, direct logit attribution and attention of the embedded model against known numbers.

Measured with independent code by plain hooks, on small sets: the patterns are tested.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.models.load import load

from ..conftest import MARY
from .test_known_numbers import abc_pairs

EAGER = mi.ModelSpec(attention="eager")


def strongest(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The cells of largest absolute value, largest first."""
    order = np.argsort(-np.abs(values), axis=None)[:count]
    width = values.shape[1]
    return [(int(cell) // width, int(cell) % width) for cell in order]


def test_the_baseline_of_ioi(embedded):
    found = embedded("baseline", phenomenon="ioi", n=90)
    assert float(found["accuracy"]) == pytest.approx(0.99, abs=0.02)
    assert float(found["logit_diff"]) == pytest.approx(5.1, abs=0.5)
    # The corrupt prompts have the other answer.
    assert float(found["corrupt_accuracy"]) < 0.05
    assert float(found["corrupt_logit_diff"]) < -4
    assert float(found["corrupt_prob"]) < 0.05 < 0.5 < float(found["prob"])
    assert abs(float(found["prior_logit_diff"])) < 1


def test_the_baseline_of_country_capital(embedded):
    found = embedded("baseline", phenomenon="country_capital", n=16)
    assert float(found["top1"]) == pytest.approx(0.81, abs=0.01)
    assert float(found["logit_diff"]) == pytest.approx(10.2, abs=0.1)
    assert float(found["corrupt_top1"]) < 0.1
    wrong = [i for i in range(16) if float(found.each("top1")[i]) == 0]
    assert len(wrong) == 3
    for index in wrong:
        assert float(found.each("rank")[index]) > 0


@pytest.fixture(scope="module")
def attribution(embedded):
    return embedded("direct_logit_attribution", pairs=abc_pairs())


def test_the_known_heads_write_the_logit_difference_of_ioi(attribution):
    known = {(23, 3): 2.59, (29, 1): 1.39, (29, 0): -1.12, (24, 4): -1.06}
    head = attribution["head"].values
    for cell, contribution in known.items():
        assert head[cell] == pytest.approx(contribution, abs=0.02)
    assert strongest(head, 4) == list(known)


def test_the_contributions_of_every_pair_sum_to_its_logit_difference(attribution):
    for index in range(len(abc_pairs())):
        one = {
            name: attribution.each(name)[index].values
            for name in (
                "head",
                "mlp",
                "embedding",
                "attention_bias",
                "final_norm_bias",
                "sum",
                "unembedding_bias",
                "logit_diff",
            )
        }
        whole = float(one.pop("logit_diff"))
        assert float(one.pop("sum")) == pytest.approx(whole, rel=1e-3)
        assert sum(float(part.sum()) for part in one.values()) == pytest.approx(whole, rel=1e-3)


def test_random_tokens_get_little_from_the_known_heads(attribution):
    """A head that writes names moves random tokens, too, but much less."""
    head = attribution["head"].values
    control = np.abs(np.stack([one.values for one in attribution.each("random_head")])).mean((0, 1))
    assert control.shape == head.shape
    for cell in ((23, 3), (29, 1), (29, 0), (24, 4)):
        assert abs(head[cell]) > 2 * control[cell]
    early = np.abs(head[:16])
    assert (early < control[:16]).mean() > 0.5


def test_patterns_are_those_of_the_plain_model_and_rest_on_the_first_position(embedded):
    found = embedded("attention_patterns", model=EAGER, prompt=MARY["clean"])
    loaded = load(EAGER, Silent())
    ids = loaded.tokenizer(MARY["clean"], return_tensors="pt").input_ids
    with torch.no_grad():
        plain = loaded.lm._module(ids, output_attentions=True).attentions
    np.testing.assert_allclose(found["pattern"].values, torch.cat(plain).numpy(), atol=1e-5)
    first = found["first"].values
    assert (first > found["uniform_first"].values[:, None]).mean() > 0.7
    assert np.allclose(found["pattern"].values.sum(-1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def detected(embedded):
    return embedded("head_detectors", model=EAGER, sequences=10)


@pytest.mark.parametrize(
    "score, known",
    [
        ("induction", {(18, 6): 0.87, (17, 4): 0.74, (17, 3): 0.72, (17, 5): 0.71}),
        ("previous_token", {(16, 0): 0.88, (11, 1): 0.85}),
        ("duplicate_token", {(14, 3): 0.62, (8, 0): 0.55}),
    ],
)
def test_the_detectors_find_the_known_heads(detected, score, known):
    values = detected[score].values
    values = values.reshape(*values.shape[:2], -1).mean(-1)
    for cell, value in known.items():
        assert values[cell] == pytest.approx(value, abs=0.06)
    assert strongest(values, len(known)) == list(known)
    control = detected[f"control_{score}"].values
    if control.ndim:
        control = control.reshape(*values.shape, -1).mean(-1)
    assert control.max() < 0.1


def test_repeated_random_tokens_are_predicted_and_others_are_not(detected):
    assert float(detected["loss_first"].values.mean()) == pytest.approx(14.4, abs=0.4)
    assert float(detected["loss_second"].values.mean()) == pytest.approx(3.8, abs=0.7)
    assert float(detected["control_loss_second"].values.mean()) > 12
