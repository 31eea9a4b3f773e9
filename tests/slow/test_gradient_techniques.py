"""Gradient techniques on the embedded model: what they must show, and what their controls must.

Small prompt sets: the patterns are tested, not the third digit.
"""

from __future__ import annotations

import numpy as np
import pytest

from ..conftest import MARY

EIFFEL = "The Eiffel Tower is in the city of"
FIRST = 9  # the second subject, the only token that differs


@pytest.fixture(scope="module")
def estimate(embedded):
    return embedded("attribution_patching", **MARY)


def correlation(one, other) -> float:
    return float(np.corrcoef(one.values.ravel(), other.values.ravel())[0, 1])


def test_it_correlates_with_the_exact_map_of_the_residual_stream(embedded, estimate):
    exact = embedded("activation_patching", **MARY)
    assert correlation(estimate["effect"], exact["effect"]) == pytest.approx(0.86, abs=0.02)
    assert float(estimate["clean"]) == pytest.approx(6.12, abs=0.02)
    assert float(estimate["corrupt"]) == pytest.approx(-5.49, abs=0.02)
    assert (estimate["effect"].values[:, :FIRST] == 0).all()
    assert np.isnan(estimate["correlation"].values)


def test_it_takes_two_forward_passes(estimate):
    assert estimate.provenance["record"]["forward_passes"] == 2


def test_it_is_better_for_heads(embedded):
    stream = embedded("attribution_patching", compare="exact", **MARY)
    heads = embedded("head_attribution", compare="exact", **MARY)
    exact = embedded("head_patching", **MARY)
    assert float(heads["correlation"]) > 0.95 > float(stream["correlation"]) > 0.8
    assert float(heads["correlation"]) == pytest.approx(
        correlation(heads["effect"], exact["effect"]), abs=1e-5
    )


def test_the_strongest_heads_are_those_of_exact_patching(embedded):
    estimated = embedded("head_attribution", **MARY)["effect"].values
    exact = embedded("head_patching", **MARY)["effect"].values
    five = [set(np.argsort(-np.abs(a), axis=None)[:5].tolist()) for a in (estimated, exact)]
    assert len(five[0] & five[1]) >= 4
    assert np.argmax(exact) == np.argmax(estimated)


def test_the_control_explains_small_cells_and_not_the_large_ones(estimate):
    """A random direction of equal length finds nothing where the story is."""
    recovery, gap = estimate["recovery"].values, float(estimate["gap"])
    control = np.abs(estimate.each("control")[0].values).mean(0) / gap
    assert control.shape == recovery.shape
    assert (np.abs(recovery[25:, 13]) > 5 * control[25:, 13]).all(), "the end, late"
    assert (np.abs(recovery[:20, FIRST]) > control[:20, FIRST]).all(), "the subject, early"
    assert (np.abs(recovery[:20, 11:13]) < 2 * control[:20, 11:13]).mean() > 0.8, "between"


def test_integrated_gradients_are_complete(embedded):
    """All of the difference is the one token's that differs."""
    result = embedded("integrated_gradients", **MARY)
    gap = float(result["clean"]) - float(result["at_baseline"])
    assert gap == pytest.approx(11.6, abs=0.05)
    assert abs(float(result["completeness_error"])) < 1e-3 * gap
    attribution = result["attribution"].values
    assert attribution[FIRST] == pytest.approx(gap, rel=1e-3)
    assert (np.delete(attribution, FIRST) == 0).all()
    control = np.abs(result.each("control")[0].values).mean(0)
    assert control[FIRST] < gap / 3, "random tokens say less about the change"


def test_integrated_gradients_divide_a_larger_difference(embedded):
    """Two tokens differ, the place and the subject: the answer is about the subject."""
    pair = {**MARY, "corrupt": MARY["corrupt"].replace("store", "park")}
    result = embedded("integrated_gradients", **pair)
    gap = float(result["clean"]) - float(result["at_baseline"])
    assert abs(float(result["completeness_error"])) < 0.02 * abs(gap)
    attribution = result["attribution"].values
    assert np.flatnonzero(attribution).tolist() == [7, FIRST]
    assert attribution[FIRST] > 0.8 * gap > 5 * abs(attribution[7])


def test_the_error_says_that_zeros_are_too_far_away(embedded):
    """Norms of vectors near zero turn abruptly; the completeness error must show it."""
    result = embedded("integrated_gradients", baseline="zero", control_draws=0, **MARY)
    assert float(result["at_baseline"]) == pytest.approx(0, abs=1e-5)
    gap = float(result["clean"]) - float(result["at_baseline"])
    error = result["attribution"].values.sum() - gap
    assert float(result["completeness_error"]) == pytest.approx(error, abs=1e-3)
    assert abs(error) > 0.05 * gap


def test_saliency_points_at_the_subject_and_not_at_the_function_words(embedded):
    result = embedded("saliency", prompt=EIFFEL, target=" Paris")
    assert result.text(result["token"].values) == " Paris"
    norm, control = result["gradient_norm"].values, result["gradient_norm_control"].values
    tokens = [" E", "iffel", " Tower", " city", " is", " in"]
    place = dict(zip(tokens, (1, 2, 3, 7, 4, 5), strict=True))
    assert norm.argmax() == place["iffel"]
    assert norm[place[" Tower"]] > 2 * norm[place[" in"]]
    assert norm[place["iffel"]] > 1.5 * control[place["iffel"]]
    assert result.provenance["record"]["forward_passes"] == 1


def test_several_pairs_equal_the_same_pairs_one_by_one(embedded):
    swapped = {
        "clean": MARY["corrupt"],
        "corrupt": MARY["clean"],
        "answer": MARY["wrong"],
        "wrong": MARY["answer"],
    }
    pairs = [{**pair, "template": "store"} for pair in (MARY, swapped)]
    for recipe, output in (
        ("attribution_patching", "effect"),
        ("head_attribution", "effect"),
        ("integrated_gradients", "attribution"),
    ):
        given = {"steps": 8} if recipe == "integrated_gradients" else {}
        together = embedded(recipe, pairs=pairs, **given)
        for index, pair in enumerate((MARY, swapped)):
            alone = embedded(recipe, **pair, **given)
            np.testing.assert_allclose(
                together.each(output)[index].values, alone[output].values, atol=1e-4
            )
