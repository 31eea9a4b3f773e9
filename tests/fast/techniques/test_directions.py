"""Directions: means of classes and pairs, removed and added, against plain hooks and sums."""

from __future__ import annotations

import nnsight
import numpy as np
import pytest
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ..reference import Reference

TOLERANCE = 1e-4
FAMILIES = ("llama", "gpt2", "neox", "gemma2", "qwen3")
CLEAN, CORRUPT = [5, 17, 9, 30, 12, 44, 8], [5, 17, 9, 31, 12, 44, 9]


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny):
    folder = tiny(request.param)
    return Reference(folder, request.param), load(ModelSpec(str(folder)), Silent()).lm


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    return lambda name: loading.load_function(catalog.find(name, folder), folder)


def within(lm, function, *arguments, **parameters):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, *arguments, **parameters))
    return found


def pair():
    return Pair(Prompt(list(CLEAN), {}, None), Prompt(list(CORRUPT), {}, None), 3, 4)


def by_hooks(reference, ids, site, changes):
    """The logit difference with `changes`, layer → change, all at once."""
    hooks = [reference.hook(site, layer, change) for layer, change in changes.items()]
    try:
        return reference.score(torch.tensor([ids]), 3, 4)
    finally:
        for hook in hooks:
            hook.remove()


def removing(vector, share):
    unit = vector / vector.norm()
    return lambda x: x - share * (x @ unit)[..., None] * unit


def adding(vector, times):
    return lambda x: x + times * vector


@pytest.mark.parametrize(
    "name, change, ids",
    [
        ("direction_ablation", removing, CLEAN),
        ("direction_addition", adding, CORRUPT),
    ],
)
@pytest.mark.parametrize("site", ["resid_pre", "attn_out"])
def test_a_direction_is_changed_as_by_hooks_in_one_layer_and_in_all(
    both, recipes, name, change, ids, site
):
    reference, lm = both
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 2
    doses = [0.5, 1.0]
    got = within(
        lm, recipes(name), pair(), direction=vectors, site=site, coefficients=doses, control_draws=2
    )
    plain = reference.score(torch.tensor([ids]), 3, 4)
    expected = [
        [
            by_hooks(reference, ids, site, {layer: change(vectors[layer], dose)}) - plain
            for dose in doses
        ]
        for layer in range(3)
    ]
    everywhere = [
        by_hooks(reference, ids, site, {i: change(vectors[i], dose) for i in range(3)}) - plain
        for dose in doses
    ]
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(got["effect"].numpy(), expected, atol=TOLERANCE)
    np.testing.assert_allclose(got["effect_everywhere"].numpy(), everywhere, atol=TOLERANCE)
    assert got["random_effect"].shape == (2, 3, 2) and got["random_everywhere"].shape == (2, 2)
    assert not torch.allclose(got["random_effect"][0], got["random_effect"][1])
    # One vector for every layer is the same as three alike.
    one = {"coefficients": [1.0], "control_draws": 0, "site": site}
    alike = [
        within(lm, recipes(name), pair(), direction=v, **one)
        for v in (vectors[:1], vectors[:1].expand(3, -1).clone())
    ]
    torch.testing.assert_close(alike[0]["effect"], alike[1]["effect"])


def test_what_was_removed_is_gone_and_the_length_does_not_matter(both, recipes):
    _, lm = both
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    asked = {"coefficients": [1.0], "control_draws": 0}
    one, other = (
        within(lm, recipes("direction_ablation"), pair(), direction=v, **asked)
        for v in (vectors, 7 * vectors)
    )
    torch.testing.assert_close(one["effect"], other["effect"], atol=1e-5, rtol=1e-4)
    nothing = within(lm, recipes("direction_ablation"), pair(), direction=vectors * 0, **asked)
    assert nothing["effect"].abs().max() == 0


def test_steering_adds_a_given_direction_at_the_end(both, recipes):
    reference, lm = both
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(3)) * 2
    got = within(
        lm,
        recipes("steering"),
        [pair()],
        direction=vectors,
        coefficients=[-1.0, 2.0],
        control_draws=1,
        steps=1,
    )

    def at_end(vector, times):
        def change(x):
            x = x.clone()
            x[:, -1] += times * vector
            return x

        return change

    plain = reference.score(torch.tensor([CORRUPT]), 3, 4)
    expected = [
        [
            by_hooks(reference, CORRUPT, "resid_pre", {i: at_end(vectors[i], c)}) - plain
            for c in (-1.0, 2.0)
        ]
        for i in range(3)
    ]
    np.testing.assert_allclose(got["effect"][0].numpy(), expected, atol=TOLERANCE)


def test_a_pairs_difference_is_that_of_its_two_runs(both, recipes):
    reference, lm = both
    got = within(lm, recipes("pair_difference"), pair(), places=["end"])
    clean, corrupt = (
        torch.cat(reference.capture(torch.tensor([ids]), "resid_pre"))[:, -1:]
        for ids in (CLEAN, CORRUPT)
    )
    np.testing.assert_allclose(got["difference"].numpy(), clean - corrupt, atol=TOLERANCE)


def examples(x, labels, groups=None, name="activation"):
    groups = groups or [""] * len(labels)
    return [
        {"arrays": {name: one}, "label": label, "group": group}
        for one, label, group in zip(x, labels, groups, strict=True)
    ]


@pytest.fixture
def analysis(recipes):
    return lambda recipe, name: recipes(recipe).__globals__[name]


ASKED = {"towards": None, "control_draws": 19, "seed": 0}


def test_the_direction_of_classes_is_the_difference_of_their_means(analysis):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 2, 1, 6))
    labels = ["b" if i % 3 else "a" for i in range(12)]
    x[[label == "b" for label in labels]] += 4
    of_b = np.array([label == "b" for label in labels])
    got = analysis("mean_difference", "class_difference")(examples(x, labels), **ASKED)
    expected = x[of_b].mean(0) - x[~of_b].mean(0)
    np.testing.assert_allclose(got["direction"], expected)
    np.testing.assert_allclose(got["length"], np.sqrt((expected**2).sum(-1)))
    assert got["shuffled_length"].shape == (19, 2, 1)
    assert (got["shuffled_length"].max(0) < got["length"]).all(), "the classes are apart"
    side = (x * got["direction"]).sum(-1) > got["threshold"]
    assert (side == of_b[:, None, None]).all()
    a, b = expected[0, 0], expected[1, 0]
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert got["cosine"][0, 1, 0] == pytest.approx(cosine)
    np.testing.assert_allclose(got["cosine"][[0, 1], [0, 1]], 1)
    turned = analysis("mean_difference", "class_difference")(
        examples(x, labels), **{**ASKED, "towards": "a"}
    )
    np.testing.assert_allclose(turned["direction"], -expected)


def test_groups_of_one_class_are_shuffled_as_wholes(analysis):
    members = np.array([True, True, False, False, True, False])
    group = np.array([0, 0, 1, 1, 2, 2])
    shuffled = analysis("mean_difference", "shuffled_classes")
    for seed in range(10):
        new = shuffled(members, group, np.random.default_rng(seed))
        assert new[0] == new[1] and new[2] == new[3] and new[0] != new[2]
        assert sorted(new[4:]) == [False, True]


@pytest.mark.parametrize(
    "labels, towards, said",
    [
        (["a", "", "b"], None, "prompt 2 has no label"),
        (["a", "a", "a"], None, "needs two classes"),
        (["a", "b", "c"], None, "towards is needed with 3 classes: a, b, c"),
        (["a", "b", "b"], "z", "no prompt has the label 'z'"),
    ],
)
def test_what_is_no_two_classes_is_refused(analysis, labels, towards, said):
    x = np.zeros((3, 1, 1, 2))
    with pytest.raises(ValueError, match=said):
        analysis("mean_difference", "class_difference")(
            examples(x, labels), **{**ASKED, "towards": towards}
        )


def test_pairs_that_agree_are_longer_together_than_flipped(analysis):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((2, 1, 6))
    each = shared + 0.1 * rng.standard_normal((8, 2, 1, 6))
    given = examples(each, [""] * 8, name="difference")
    got = analysis("pair_difference", "pairs_difference")(given, control_draws=19, seed=0)
    np.testing.assert_allclose(got["length"], np.linalg.norm(each.mean(0), axis=-1))
    assert (got["flipped_length"].max(0) <= got["length"] + 1e-12).all()
    assert got["agreement"].min() > 0.9


def test_a_probes_direction_and_threshold_are_those_of_scikit_learn(analysis):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.standard_normal((1, 40, 5)) * [1, 2, 3, 4, 0.5] + y[None, :, None] * 0.7
    made = analysis("linear_probe", "directions")(x, y, np.arange(40), 0)
    direction, threshold = made[0, :-1], made[0, -1]
    z = (x[0] - x[0].mean(0)) / x[0].std(0)
    close = []
    for strength in (0.001, 0.01, 0.1, 1.0):
        fit = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(z, y)
        normal = fit.coef_[0] / x[0].std(0)
        cosine = normal @ direction / np.linalg.norm(normal) / np.linalg.norm(direction)
        close.append((cosine, (x[0] @ direction > threshold) == fit.predict(z)))
    best = max(close, key=lambda one: one[0])
    assert best[0] == pytest.approx(1, abs=1e-6) and best[1].all()
    unit = direction / np.linalg.norm(direction)
    apart = (x[0][y == 1].mean(0) - x[0][y == 0].mean(0)) @ unit
    assert np.linalg.norm(direction) == pytest.approx(apart)
