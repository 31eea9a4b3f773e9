"""Steering, probes and Patchscopes on the embedded model: the patterns that must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

COEFFICIENTS = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]
LAYERS = [16, 20, 24]
WORDS = [
    ("wonderful", "terrible"),
    ("amazing", "awful"),
    ("great", "horrible"),
    ("excellent", "bad"),
    ("fantastic", "boring"),
    ("beautiful", "poor"),
    ("lovely", "dull"),
    ("perfect", "stupid"),
]
FOOD = "Review: The food was {}. Sentiment:"


def reviews():
    """Eight pairs, the clean prompt in turn the positive and the negative one."""
    pairs = []
    for index, words in enumerate(WORDS):
        (a, b) = words if index % 2 == 0 else words[::-1]
        answers = (" positive", " negative") if index % 2 == 0 else (" negative", " positive")
        pairs.append(
            {
                "clean": FOOD.format(a),
                "corrupt": FOOD.format(b),
                "answer": answers[0],
                "wrong": answers[1],
                "template": "food",
            }
        )
    return pairs


@pytest.fixture(scope="module")
def steered(embedded):
    def run(method):
        return embedded(
            "steering",
            pairs=reviews(),
            method=method,
            layers=LAYERS,
            coefficients=COEFFICIENTS,
            steps=8,
            metric="logit_diff",
        )

    return {method: run(method) for method in ("mean_difference", "activation_addition")}


@pytest.mark.parametrize("method, lowest", [("mean_difference", 0), ("activation_addition", 2)])
def test_steering_is_monotone_in_the_coefficient(steered, method, lowest):
    """The difference of one pair is a blunter tool: far below 0 it no longer tells the classes."""
    effect = steered[method]["effect"]
    assert effect.values.shape == (3, 6)
    assert effect.coords["layer"] == LAYERS and effect.coords["coefficient"] == COEFFICIENTS
    useful = effect.values[:, lowest:5]  # to 1, the difference itself
    assert (np.diff(useful, axis=1) > 0).all()
    assert (effect.values[:, 3:] > 0).all() and (effect.values[:, 2] < 0).all()


@pytest.mark.parametrize("method", ["mean_difference", "activation_addition"])
def test_steering_is_clearly_larger_than_a_random_direction_of_equal_length(steered, method):
    result = steered[method]
    effect = result["effect"].values
    control = np.mean([np.abs(one.values).mean(0) for one in result.each("random_effect")], 0)
    assert (control > 0).all()
    assert (effect[:, 3:] > 3 * control[:, 3:]).all()
    assert (result["effect"].low[:, 3:] > result["random_effect"].high[:, 3:]).all()


def test_the_difference_itself_closes_the_gap_late_in_the_model(steered):
    """Measured: 5.7 of a gap of 6.4 at layer 24, 1.4 at layer 16 and less before."""
    found = steered["mean_difference"]
    assert float(found["gap"]) == pytest.approx(6.4, abs=0.2)
    at_one = found["recovery"].values[:, 4]
    assert at_one[2] == pytest.approx(0.9, abs=0.1)
    assert (np.diff(at_one) > 0).all()


def test_a_cell_of_steering_equals_plain_hooks(embedded, model):
    """Leave-one-out: each pair with the mean difference of the others, layer 20, coefficient 1."""
    pairs = reviews()[:4]
    result = embedded(
        "steering",
        pairs=pairs,
        layers=[20],
        coefficients=[1.0],
        folds=4,
        control_draws=0,
        steps=1,
        metric="logit_diff",
    )
    hf, tokenizer = model.lm._module, model.tokenizer
    ids = [
        {k: tokenizer(p[k], return_tensors="pt").input_ids for k in p if k != "template"}
        for p in pairs
    ]
    positive = ids[0]["answer"][0, 0]

    def run(row, answer, wrong, added=None):
        seen = {}

        def hook(_module, args):
            seen["stream"] = args[0][0, -1].clone()
            if added is not None:
                stream = args[0].clone()
                stream[:, -1] += added
                return (stream, *args[1:])
            return None

        handle = hf.model.layers[20].register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = hf(row).logits[0, -1]
        handle.remove()
        return seen["stream"], float(logits[answer] - logits[wrong])

    def one(index, name, added=None):
        of = ids[index]
        return run(of[name], of["answer"][0, 0], of["wrong"][0, 0], added)

    signs = [1.0 if of["answer"][0, 0] == positive else -1.0 for of in ids]
    vectors = [s * (one(i, "clean")[0] - one(i, "corrupt")[0]) for i, s in enumerate(signs)]
    for index in range(4):
        others = sum(v for i, v in enumerate(vectors) if i != index) / 3
        plain = one(index, "corrupt")[1]
        expected = one(index, "corrupt", signs[index] * others)[1] - plain
        got = result.each("effect")[index].values[0, 0]
        assert got == pytest.approx(expected, abs=1e-3)
        assert expected > 1


@pytest.fixture(scope="module")
def probed(embedded):
    """Forty reviews of one form; every adjective is a group of its own."""
    return embedded(
        "linear_probe",
        phenomenon="sentiment:food",
        n=40,
        places=["adjective", "end"],
    )


def test_probes_are_above_chance_where_the_label_can_be_read(probed):
    accuracy = probed["accuracy"]
    assert accuracy.coords["place"] == ["adjective", "end"]
    assert (accuracy.values[10:, 0] > 0.9).all(), "at the adjective"
    assert (accuracy.values[15:, 1] > 0.9).all(), "at the end, once attention has carried it there"
    assert (accuracy.low[15:] > probed["shuffled_accuracy"].high[15:]).all()
    assert (probed.arrays["accuracy:p"][15:] <= 0.05).all()
    assert float(probed["majority"]) == pytest.approx(0.5, abs=0.05)


def test_probes_of_what_holds_no_label_are_at_chance(probed):
    """The stream before layer 0 at the end is the same colon in every prompt."""
    assert probed["accuracy"].values[0, 1] == pytest.approx(0.5, abs=0.05)
    assert probed.arrays["accuracy:p"][0, 1] > 0.05
    assert probed["selectivity"].values[0, 1] == pytest.approx(0.0, abs=0.05)


def test_probes_of_shuffled_labels_are_at_chance(probed):
    shuffled = probed["shuffled_accuracy"].values
    assert abs(shuffled.mean() - 0.5) < 0.06
    assert (np.abs(shuffled - 0.5) < 0.2).all()
    assert probed["selectivity"].values[15:].min() > 0.3


@pytest.fixture(scope="module")
def inspected(embedded):
    return embedded("patchscopes", prompt="The Eiffel Tower is in the city of", target=" Paris")


def test_patchscopes_reads_the_answer_from_late_states_of_the_end(inspected):
    """Measured: the answer appears at layer 24 (p = .66), where logit lens and patching have it."""
    target = inspected["target_prob"].values
    assert (target[24:, -1] > 0.5).all()
    assert (target[:20, -1] < 0.05).all()
    assert (target[:, 0] < 0.01).all(), "the first token knows nothing"
    assert [inspected.text(t) for t in inspected["top_token"].values[24:, -1, 0]] == [" Paris"] * 6
    assert inspected["text"].values[28, 0] == inspected["top_token"].values[28, -1, 0]


def test_neither_the_inspection_prompt_nor_random_states_say_the_answer(inspected):
    assert inspected["unpatched_prob"].values.max() < 1e-3
    assert inspected["random_prob"].values.max() < 0.01
