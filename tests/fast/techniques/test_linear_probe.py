"""Probes: the activations against plain hooks, the fits against scikit-learn and known data."""

from __future__ import annotations

import inspect
import warnings

import nnsight
import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt
from remote_mi.jobs.analysis import average_over_draws, average_over_examples
from remote_mi.jobs.control_tests import ControlSamples, against_control
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading
from remote_mi.recipes.outputs import Output
from remote_mi.store.verdict import SET

from ..reference import Reference

FAMILIES = ("llama", "gpt2", "neox", "gemma2")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    return loading.load_function(catalog.find("linear_probe", folder), folder)


@pytest.fixture(scope="module")
def fit(probe):
    def run(x, labels, groups, folds=5, draws=3, seed=0):
        """x: [example, layer, place, d_model]."""
        examples = [
            {"arrays": {"activation": a}, "label": label, "group": group}
            for a, label, group in zip(x, labels, groups, strict=True)
        ]
        found = probe.__globals__["fit_probes"](
            examples, folds=folds, control_draws=draws, seed=seed
        )
        names = [group or index for index, group in enumerate(groups)]
        clusters = [names.index(name) for name in names]
        accuracy, draws = found["accuracy"], found["shuffled_accuracy"]
        found |= average_over_examples(
            "accuracy", Output(("layer", "place")), found["accuracy"], clusters
        )
        found |= average_over_draws("shuffled_accuracy", draws) | {"draws": draws}
        samples = ControlSamples(accuracy.mean(-1)[None], draws[None], None, SET)
        found["p"] = against_control(samples, "shuffled_accuracy")[0]
        return found

    return run


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "resid_mid"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_activations_are_those_that_a_hook_sees(tiny, probe, family, site):
    folder = tiny(family)
    reference = Reference(folder, family)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    ids = [5, 17, 9, 30, 12]
    prompt = Prompt(ids, {"second": 1, "end": 4}, None)
    with torch.no_grad(), lm.session():
        found = nnsight.save(probe(lm, prompt, site=site, places=["end", "second"]))
    row = torch.tensor([ids])
    seen = reference.middle_stream(row) if site == "resid_mid" else reference.capture(row, site)
    torch.testing.assert_close(
        found["activation"], torch.cat(seen)[:, [4, 1]], atol=1e-5, rtol=1e-5
    )


def test_a_place_that_a_prompt_does_not_have_is_refused(tiny, probe):
    lm = load(ModelSpec(str(tiny("llama"))), Silent()).lm
    with pytest.raises(ValueError, match="no position 'verb'; it has end"):
        with torch.no_grad(), lm.session():
            probe(lm, Prompt([5, 6, 7], {}, None), places=["verb"])


def separable(n=60, width=40, seed=0):
    """Two classes along one direction in layer 1, place 0, and nothing anywhere else."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(size=(n, 2, 2, width))
    x[:, 1, 0, 3] += 6 * (2 * y - 1)
    return x, [("no", "yes")[c] for c in y], [f"g{i // 4}" for i in range(n)]


def test_separable_classes_are_found_where_they_are_and_nowhere_else(fit):
    found = fit(*separable(), draws=19)
    assert found["accuracy"][1, 0] >= 0.95
    assert found["p"][1, 0] <= 0.05
    for cell in ((0, 0), (0, 1), (1, 1)):
        assert abs(found["accuracy"][cell] - 0.5) < 0.2
        assert abs(found["selectivity"][cell]) < 0.2
        assert found["p"][cell] > 0.05
    assert found["selectivity"][1, 0] > 0.3
    assert found["shuffled_accuracy:high"][1, 0] < 0.8
    assert float(found["majority"]) == pytest.approx(0.5)
    assert (found["accuracy:low"] <= found["accuracy"]).all()
    assert (found["accuracy:high"] >= found["accuracy"]).all()
    np.testing.assert_allclose(
        found["selectivity"], found["accuracy"] - found["shuffled_accuracy"], atol=1e-12
    )


def test_with_eighteen_draws_nothing_is_claimed_and_the_default_has_enough(probe, fit):
    assert fit(*separable(), draws=18)["p"].min() > 0.05
    assert inspect.signature(probe).parameters["control_draws"].default >= 19


@pytest.mark.slow
def test_shuffled_labels_are_at_chance(fit):
    x, labels, _ = separable(n=120, width=60)
    pure = [f"{label}{i // 4}" for i, label in enumerate(labels)]
    for groups in (pure, [f"g{i // 2}" for i in range(120)], [""] * 120):
        found = fit(x[:, 1:, :1], labels, groups, draws=10)
        assert found["accuracy"][0, 0] >= 0.95
        assert abs(found["shuffled_accuracy"][0, 0] - 0.5) < 0.1, groups[:3]


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("apart", [0.0, 0.5, 20.0], ids=["random", "overlapping", "separable"])
def test_fits_are_those_of_scikit_learn(probe, classes, apart):
    from sklearn.linear_model import LogisticRegression

    made = probe.__globals__
    strengths = np.array([made["STRENGTHS"]])
    rng = np.random.default_rng(classes)
    for n, width in ((8, 576), (17, 3), (60, 1), (60, 40)):
        y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
        centres = apart * rng.normal(size=(classes, width))
        x, new = rng.normal(size=(n, width)) + centres[y], rng.normal(size=(30, width))
        mean, scale = (part[0] for part in made["scales"](x[None]))
        z, held_out = (x - mean) * scale, (new - mean) * scale
        alpha, bias = (part[0] for part in made["logistic_fits"]((z @ z.T)[None], y, strengths))
        basis = np.linalg.svd(z, full_matrices=False)[2]  # scikit-learn's own is slow if wide
        for c, a, b in zip(strengths[0], alpha, bias, strict=True):
            theirs = LogisticRegression(C=c, solver="newton-cholesky", max_iter=500, tol=1e-10)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                theirs.fit(z @ basis.T, y)
            np.testing.assert_allclose(z.T @ a, basis.T @ theirs.coef_.T, atol=1e-6)
            off = theirs.intercept_.mean() - b.mean() if classes > 2 else 0.0
            np.testing.assert_allclose(b + off, theirs.intercept_, atol=1e-6)
            found = made["predicted"](
                np.concatenate([x, new])[None],
                y,
                (np.arange(n), n + np.arange(30)),
                np.array([[c]]),
            )
            np.testing.assert_array_equal(found[0, 0], theirs.predict(held_out @ basis.T))


def test_every_newton_step_is_an_improvement_wherever_it_starts(probe):
    """Whole steps from where every probability is near 0 or 1 go so far that they never end."""
    step, objective = (probe.__globals__[name] for name in ("newton_step", "objective"))
    rng = np.random.default_rng(0)
    for trial in range(100):
        classes = 1 + trial % 2 * 2
        z = rng.normal(size=(9, 12)) * 10 ** rng.uniform(-2, 1)
        kernel = (z @ z.T)[None]
        y = np.arange(9) % max(2, classes)
        target = np.eye(classes)[y] if classes > 1 else y[:, None].astype(float)
        alpha, bias = rng.normal(size=(1, 9, classes)), 8 * rng.normal(size=(1, classes))
        alpha -= alpha.mean(1)
        alpha *= 8 / np.abs(kernel @ alpha).max()
        last, far = np.inf, np.array([np.inf])
        for _ in range(60):
            value = objective(kernel @ alpha + bias[:, None], alpha, bias, target)[0]
            assert value <= last + 1e-9 * abs(last if np.isfinite(last) else 1), trial
            last = value
            alpha, bias, far = step(kernel, target, alpha, bias)
        assert far[0] < 1e-4, trial


@pytest.mark.parametrize("classes", [2, 3])
def test_folds_are_those_of_scikit_learn(probe, classes):
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(classes)
    for seed in range(12):
        group = (np.arange(48), np.repeat(np.arange(16), 3), rng.integers(0, 15, 48))[seed % 3]
        y = rng.permutation(np.arange(48) % classes)
        kind = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
        found = probe.__globals__["splits"](y, group, 4, seed)
        assert len(found) == 4
        for parts, theirs in zip(found, kind.split(y, y, group), strict=True):
            for part, their in zip(parts, theirs, strict=True):
                np.testing.assert_array_equal(part, their)


@pytest.mark.parametrize("classes", [2, 3])
def test_accuracies_are_those_of_scikit_learns_own_search(fit, probe, classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(5)
    y = np.arange(90) % classes
    x = rng.normal(size=(90, 30)) * rng.uniform(0.1, 10, 30)
    x += 0.3 * rng.normal(size=(classes, 30))[y] * x.std(0)
    groups = np.arange(90) // classes
    found = fit(x[:, None, None], [f"c{c}" for c in y], [f"g{g}" for g in groups], seed=3)
    right = 0
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=3).split(x, y, groups):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=10000, tol=1e-8)),
            {"logisticregression__C": list(probe.__globals__["STRENGTHS"])},
            cv=StratifiedGroupKFold(3, shuffle=True, random_state=3),
        )
        search.fit(x[train], y[train], groups=groups[train])
        right += int((search.predict(x[test]) == y[test]).sum())
    assert 1 / classes + 0.1 < right / 90 < 0.98
    assert found["accuracy"][0, 0] == pytest.approx(right / 90, abs=1.01 / 90)


def test_what_a_group_shares_does_not_leak(fit):
    """Examples of a group are nearly the same; labels of groups are random."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(40), 4)
    y = (np.arange(40) % 2)[group]
    x = (rng.normal(size=(40, 50))[group] + 0.05 * rng.normal(size=(160, 50)))[:, None, None]
    labels = [f"c{c}" for c in y]
    apart = fit(x, labels, [f"g{g}" for g in group])
    assert abs(apart["accuracy"][0, 0] - 0.5) < 0.2
    assert apart["accuracy"][0, 0] <= apart["shuffled_accuracy:high"][0, 0] + 0.1
    assert fit(x, labels, [""] * 160)["accuracy"][0, 0] > 0.95, "it would, without groups"


def test_shuffles_keep_groups_of_one_class_whole(probe):
    shuffled = probe.__globals__["shuffled_classes"]
    group = np.repeat(np.arange(12), 3)
    pure = (np.arange(12) % 2)[group]
    mixed = np.arange(36) % 3
    rng = np.random.default_rng(0)
    for _ in range(5):
        new = shuffled(pure, group, rng)
        assert all(len(set(new[group == g])) == 1 for g in range(12))
        assert (new == 0).sum() == 18
        new = shuffled(mixed, group, rng)
        assert all(sorted(new[group == g]) == [0, 1, 2] for g in range(12))
    assert any((shuffled(pure, group, rng) != pure).any() for _ in range(3))


def test_only_groups_of_one_size_exchange_their_classes(probe):
    """A class whose groups are larger has as many prompts in every shuffle."""
    group = np.repeat(np.arange(12), [1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3])
    y = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])[group]
    rng = np.random.default_rng(0)
    drawn = [probe.__globals__["shuffled_classes"](y, group, rng) for _ in range(10)]
    assert all(new.sum() == y.sum() for new in drawn)
    assert all((new[:3] == 0).all() and (new[-9:] == 1).all() for new in drawn)
    assert any((new != y).any() for new in drawn)


@pytest.mark.slow
def test_the_seed_decides(fit):
    x, labels, groups = separable()
    one, same, other = (fit(x, labels, groups, seed=s) for s in (0, 0, 1))
    for name, values in one.items():
        np.testing.assert_array_equal(values, same[name])
    assert (other["shuffled_accuracy"] != one["shuffled_accuracy"]).any()


def test_constant_activations_give_the_majority(fit):
    x, labels, groups = separable()
    labels = ["yes" if i % 5 else "no" for i in range(60)]
    found = fit(np.ones_like(x), labels, groups, folds=3)
    assert float(found["majority"]) == pytest.approx(0.8)
    np.testing.assert_allclose(found["accuracy"], 0.8)


def share_with_a_claim(fit, y, group, rng, maps=40, cells=3):
    """The share of maps of random activations, shared within groups, from which y is told."""
    shared = rng.normal(size=(group.max() + 1, maps, 1, 4))[group]
    x = shared + 0.5 * rng.normal(size=(len(y), maps, cells, 4))
    groups = [f"g{g}" for g in group]
    found = fit(x, [f"c{c}" for c in y], groups, folds=2, draws=19, seed=int(rng.integers(1000)))
    draws = found["draws"]
    told = [
        against_control(
            ControlSamples(found["accuracy"][None, m], draws[None, :, m], None, SET), ""
        )[0]
        for m in range(maps)
    ]
    return (np.stack(told) <= 0.05).any(1).mean()


@pytest.mark.slow
@pytest.mark.parametrize("larger", [False, True], ids=["alone", "larger groups of one class"])
def test_maps_of_random_activations_have_a_claim_at_most_one_time_in_twenty(fit, larger):
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(10):
        classes = rng.permutation(np.arange(12) % 2)
        sizes = 1 + 4 * classes * (rng.random(12) < 0.7) if larger else np.ones(12, int)
        group = np.repeat(np.arange(12), sizes)
        shares.append(share_with_a_claim(fit, classes[group], group, rng))
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) < 0.12


def test_differences_that_are_rounding_are_none(fit):
    x, labels, groups = separable()
    x[:] = 3.0 + 1e-7 * (np.array(labels) == "yes")[:, None, None, None]
    np.testing.assert_allclose(fit(x, labels, groups)["accuracy"], 0.5, atol=0.1)
    x += 1e-3 * (np.array(labels) == "yes")[:, None, None, None]
    np.testing.assert_allclose(fit(x, labels, groups)["accuracy"], 1.0)


def test_cells_that_are_not_finite_have_no_accuracy_and_leave_the_others_theirs(fit):
    x, labels, groups = separable()
    whole = fit(x, labels, groups)
    x[7, 0, 1, 5] = np.inf
    found = fit(x, labels, groups)
    for name in ("accuracy", "shuffled_accuracy", "selectivity"):
        assert np.isnan(found[name][0, 1]), name
        found[name][0, 1] = whole[name][0, 1]
        np.testing.assert_array_equal(found[name], whole[name])


@pytest.mark.parametrize(
    "labels, groups, said",
    [
        (["a"] * 20, list("abcdefghijklmnopqrst"), "all labels are 'a': .* at least two classes"),
        (["a", "b"] * 10, ["x"] * 10 + ["y"] * 10, "class 'a' occurs in 2 groups, and 5 folds"),
        (["a", ""] * 10, list("abcdefghijklmnopqrst"), "prompt 2 has no label"),
        (["a"] * 18 + ["b"] * 2, [""] * 20, "class 'b' occurs in 2 groups"),
    ],
)
def test_what_no_probe_can_be_fitted_to_is_refused(fit, labels, groups, said):
    with pytest.raises(ValueError, match=said):
        fit(np.zeros((20, 1, 1, 4)), labels, groups)


def prompts(count, label=True):
    names = ["Mary", "John", "Tom", "James", "Sarah", "Anna", "Paul", "David", "Alice", "Mark"]
    names += ["Peter", "Laura", "Simon", "Karen", "Brian", "Susan"]
    made = []
    for index in range(count):
        kind = ("store", "park")[index % 2]
        text = f"When {names[index // 2]} went to the {kind}, he went to the store"
        made.append({"prompt": text, "label": kind, "group": names[index // 2]})
        if not label:
            del made[-1]["label"]
    return made


def test_a_run_gives_accuracies_by_layer_and_place(project, tiny_llama):
    result = mi.run("linear_probe", model=str(tiny_llama), pairs=prompts(32))
    assert result["accuracy"].values.shape == (3, 1)
    assert list(result["accuracy"].coords["place"]) == ["end"]
    # The stream before layer 0 at the last word is the same in all prompts.
    assert result["accuracy"].values[0, 0] == pytest.approx(0.5, abs=0.01)
    # The other layers see the word that gives the class its name.
    assert result["accuracy"].values[1, 0] > 0.6 and result["accuracy"].low[1, 0] > 0.5
    assert result.arrays["accuracy:p"][0, 0] > 0.05
    assert (result.arrays["accuracy:p"][1:, 0] <= 0.05).any()
    # The names of the men and women are groups: of these, each class has sixteen.
    assert float(result["majority"]) == pytest.approx(0.5)
    assert result["selectivity"].low is None and result["shuffled_accuracy"].high is not None


def copied(grouped):
    """Twenty texts with random labels, each three times; groups, if any, tear copies apart."""
    labels = np.random.default_rng(0).permutation(np.arange(20) % 2)
    made = []
    for index in range(60):
        text, copy = index % 20, index // 20
        made.append({"prompt": prompts(20)[text]["prompt"], "label": f"c{labels[text]}"})
        if grouped:
            made[-1]["group"] = f"{text} {copy}"
    return made


@pytest.mark.parametrize("grouped", [False, True])
def test_copies_of_a_prompt_do_not_leak(project, tiny_llama, grouped):
    result = mi.run("linear_probe", model=str(tiny_llama), pairs=copied(grouped), control_draws=19)
    assert (result["accuracy"].values < 0.75).all(), "1.0 if a copy were in the training part"
    assert abs(result["shuffled_accuracy"].values.mean() - 0.5) < 0.1
    assert (result.arrays["accuracy:p"] > 0.05).all()


def test_prompts_without_labels_are_refused_by_a_run(project, tiny_llama):
    with pytest.raises(RemoteMIError, match="label"):
        mi.run("linear_probe", model=str(tiny_llama), pairs=prompts(20, label=False))
