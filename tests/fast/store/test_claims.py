"""Claims about a result, paired differences, and agreement of maps: against numbers computed here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.statistics.intervals import two_way_interval
from remote_mi.recipes.outputs import Output, Ratio, output_json
from remote_mi.store.claims.bounds import parse_bound
from remote_mi.store.claims.cells import check_selector, matching
from remote_mi.store.claims.estimates import Estimate
from remote_mi.store.claims.evaluation import judge_estimates
from remote_mi.store.claims.expectation import parse_expectation
from remote_mi.store.contrasts.agreement import agreement
from remote_mi.store.contrasts.pooled import mean_over_models
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

from ..report.shown import result as shown_result


def result_of(
    effect: np.ndarray, gap: np.ndarray | None = None, prompts: list[str] | None = None
) -> Result:
    """A result with effects [pair, layer, position] and their ratio to the gaps [pair]."""
    from remote_mi.jobs.aggregation import Part, assemble
    from remote_mi.recipes.card import Card

    gap = np.ones(len(effect)) if gap is None else gap
    tokens = [f"t{i}" for i in range(effect.shape[2])]
    card = Card(
        "known",
        "pair",
        {"effect": Output(("layer", "position")), "gap": Output(())},
        {"recovery": Ratio("effect", gap="gap")},
    )
    names = prompts or [f"prompt {i}" for i in range(len(effect))]
    parts = [
        Part(
            {"effect": e, "gap": g},
            tokens,
            {"end": len(tokens) - 1, "s1": 1},
            "one",
            {"clean": name, "corrupt": f"not {name}"},
            cluster=name,
        )
        for e, g, name in zip(effect, gap, names, strict=True)
    ]
    made = assemble(card, parts)
    recipe = {
        **card.to_json(),
        "returns": {name: output_json(output) for name, output in card.returns.items()},
    }
    texts = [{"tokens": p.tokens, "labels": dict(p.labels), **p.text} for p in parts]
    return Result(recipe, {"parts": texts, "notes": [], **made.document}, made.arrays)


def numbers(*shape: int, mean: float = 0.0, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, shape).astype(np.float32)


# -- comparisons as text -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("> 0.8", [0.81], [0.8, 0.79]),
        (">=24", [24, 25], [23]),
        ("< -1e-3", [-0.002], [-0.001, 0]),
        ("<= 3", [3, -9], [3.1]),
        ("between 0.2 and 0.4", [0.2, 0.3, 0.4], [0.19, 0.41]),
        ("≥ .5", [0.5], [0.4]),
    ],
)
def test_a_comparison_contains_what_it_says(text, inside, outside):
    bound = parse_bound(text)
    assert all(map(bound.contains, inside)) and not any(map(bound.contains, outside))
    assert not bound.contains(float("nan"))
    assert parse_bound(bound.text) == bound, "its normal form means the same"


@pytest.mark.parametrize(
    "text",
    ["0.8", "> x", ">", "=> 1", "between 1", "between 3 and 2", "between 1 and 1", 0.8, "> 1e999"],
)
def test_what_is_no_comparison_is_refused_with_what_to_write(text):
    with pytest.raises(UsageError) as refused:
        parse_bound(text)
    assert "> 0.8" in str(refused.value) or "between 2 and 3" in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(2, [2]), ("2", [2]), ([0, 3], [0, 3]), (">= 2", [2, 3]), ("between 1 and 2", [1, 2])],
)
def test_coordinates_are_selected_by_value_list_and_comparison(wanted, found):
    assert matching([0, 1, 2, 3], wanted, "layer") == found


def test_a_coordinate_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(NotFound, match="no layer is > 30"):
        matching(list(range(30)), "> 30", "layer")
    with pytest.raises(NotFound) as refused:
        matching(list(range(30)), 30, "layer")
    assert "0 to 29" in str(refused.value)
    for wrong in (True, [], "", ["> 3"], {"a": 1}, None):
        with pytest.raises(UsageError):
            check_selector(wrong)


# -- claims about a result -----------------------------------------------------------------------


def test_a_claim_of_every_cell_holds_fails_or_is_undecided_by_the_intervals():
    effect = numbers(12, 3, 4, spread=0.1)
    effect[:, 2, 3] += 1.0
    result = result_of(effect)
    place = {"layer": 2, "position": "end"}
    low, high = (float(e[2, 3]) for e in (result["effect"].low, result["effect"].high))
    found = result.holds("effect", place, value="> 0.8")
    assert found and found.verdict == "holds"
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high))
    assert result.holds("effect", place, every="> 1.3").verdict == "fails"
    undecided = result.holds("effect", place, value=f"> {(low + high) / 2:.6f}")
    assert undecided.verdict == "undecided" and not undecided
    assert result.holds("effect", {"position": "end"}, every="> 0.8").verdict == "fails"
    assert result.holds("effect", {"position": "end"}, any="> 0.8").verdict == "holds"
    assert result.holds("effect", {"layer": "< 2"}, any="> 0.8").verdict == "fails"
    assert result.holds("recovery", place, value="between 0.8 and 1.2").verdict == "holds"
    assert result.holds("effect", {"position": 3, "layer": [2]}, mean="> 0.8").verdict == "holds"
    assert result.holds("effect", {"position": "t3", "layer": 2}, value="> 0.8")
    assert result.holds("effect", {"position": "[end]", "layer": 2}, value="> 0.8")


def test_the_mean_of_cells_has_the_interval_of_the_mean_within_each_pair():
    effect, gap = numbers(10, 3, 4, mean=1.0), numbers(10, mean=2.0, spread=0.2, seed=1)
    result = result_of(effect, gap)
    found = result.holds("effect", {"layer": ">= 1"}, mean="> 0").estimate
    each = effect[:, 1:].mean((1, 2)).astype(float)
    half = stats.t.ppf(0.975, 9) * each.std(ddof=1) / np.sqrt(10)
    assert found.value == pytest.approx(each.mean(), abs=1e-5) and found.cells == 8
    assert found.low < each.mean() - half / 2 and found.high > each.mean() + half / 2
    assert found.high - found.low == pytest.approx(2 * half, rel=0.25), "corrected for skewness"
    ratio = result.holds("recovery", {"layer": ">= 1"}, mean="> 0").estimate
    assert ratio.value == pytest.approx(each.mean() / gap.mean(), rel=1e-4)
    assert ratio.low < ratio.value < ratio.high


def test_one_pair_and_copies_of_one_pair_leave_everything_undecided():
    one = result_of(numbers(1, 2, 3, mean=5.0))
    copies = result_of(np.repeat(numbers(1, 2, 3, mean=5.0), 12, 0), prompts=["same"] * 12)
    for result in (one, copies):
        found = result.holds("effect", every="> 0.1")
        assert found.verdict == "undecided" and "one prompt" in found.reason
        assert found.needed is None


def test_a_ratio_that_is_not_given_leaves_a_claim_undecided_with_the_reason():
    gap = numbers(8, mean=0.0)
    result = result_of(numbers(8, 2, 3), gap - gap.mean())
    found = result.holds("recovery", every="> 0.5")
    assert found.verdict == "undecided" and "would be divided by" in found.reason


def test_the_prompts_that_would_decide_a_claim_do_decide_it_at_the_same_spread():
    estimate = Estimate(0.5, 0.1, 0.9, n=9)
    bound = parse_bound("> 0.3")
    needed = estimate.prompts_needed(bound)
    spread = 0.4 / stats.t.ppf(0.975, 8) * 3

    def half(n: int) -> float:
        return stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)

    assert half(needed) < 0.2 <= half(needed - 1)
    assert Estimate(0.3, 0.1, 0.5, n=9).prompts_needed(bound) is None, "on the bound: never"
    assert Estimate(0.5, n=1).prompts_needed(bound) is None


def test_any_of_many_cells_is_seldom_said_to_hold_where_none_does():
    """And so is that every cell fails somewhere: both are corrected for the number of cells."""
    rng, expected = np.random.default_rng(0), parse_expectation({"output": "x", "any": "> 0"})
    every = parse_expectation({"output": "x", "every": "> 0"})
    wrong = {"any": 0, "every": 0, "uncorrected": 0}
    for _ in range(400):
        samples = rng.normal(size=(8, 40))
        half = stats.t.ppf(0.975, 7) * samples.std(0, ddof=1) / np.sqrt(8)
        cells = [
            Estimate(float(m), float(m - h), float(m + h), 8)
            for m, h in zip(samples.mean(0), half, strict=True)
        ]
        wrong["any"] += judge_estimates(cells, expected).verdict == "holds"
        wrong["every"] += judge_estimates(cells, every).verdict == "fails"
        wrong["uncorrected"] += any(cell.low > 0 for cell in cells)
    assert wrong["uncorrected"] > 200
    assert wrong["any"] <= 24 and wrong["every"] <= 24  # 2.5% of 400 is 10


def test_what_only_plain_intervals_say_of_many_cells_is_explained():
    inside, outside = Estimate(2.0, 1.0, 3.0, 8), Estimate(0.5, 0.05, 0.95, 8)
    every = parse_expectation({"output": "x", "every": "> 1"})
    assert judge_estimates([outside], every).verdict == "fails"
    found = judge_estimates([*[inside] * 39, outside], every)
    assert found.verdict == "undecided" and found.estimate == outside
    assert found.reason == (
        "the 95% interval of 1 of 40 lies outside the bound, which may be chance among 40"
    )
    some = parse_expectation({"output": "x", "any": "> 0"})
    found = judge_estimates([outside, *[Estimate(-1.0, -2.0, 0.5, 8)] * 39], some)
    assert found.verdict == "undecided" and "1 of 40 lies within" in found.reason
    assert judge_estimates([outside], some).verdict == "holds"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"output": "recovry", "every": "> 1"}, "did you mean 'recovery'"),
        ({"output": "effect"}, "give one of every, any, mean, value"),
        ({"output": "effect", "every": "> 1", "any": "> 1"}, "both every and any"),
        ({"output": "effect", "every": "0.8"}, "is not a comparison"),
        ({"output": "effect", "at": {"layr": 2}, "every": "> 1"}, "did you mean 'layer'"),
        ({"output": "effect", "at": {"layer": 9}, "every": "> 1"}, "there is no layer 9"),
        ({"output": "effect", "at": {"position": "s3"}, "every": "> 1"}, "no position 's3'"),
        ({"output": "effect", "at": {"layer": 1}, "value": "> 1"}, "'value' is of one cell"),
        (
            {"output": "effect", "at": {"layer": "> 0", "position": 1}, "value": "> 1"},
            "may be several",
        ),
        ({"output": "gap", "at": {"layer": 1}, "value": "> 1"}, "it is a single number"),
    ],
)
def test_mistakes_in_an_expectation_are_refused_with_what_to_write(arguments, says):
    with pytest.raises((UsageError, NotFound)) as refused:
        result_of(numbers(4, 3, 4)).holds(**arguments)
    assert says in str(refused.value)


# -- two results ---------------------------------------------------------------------------------


def test_paired_differences_are_those_of_each_prompt_with_p_of_their_signs():
    shared = numbers(8, 2, 3, spread=5.0)
    a, b = result_of(shared), result_of(shared + 0.5 + numbers(8, 2, 3, spread=0.1, seed=1))
    found = a.compare(b).difference("effect")
    each = (of_each_prompt(b) - of_each_prompt(a)).mean(0)
    assert np.allclose(found.difference.values, each, atol=1e-5) and found.n == 8
    assert (found.difference.low > 0).all(), "what prompts have in common cancels"
    assert np.allclose(found.p, 2 / 2**8), "no other assignment of signs is as far from 0"
    assert np.allclose(a.compare(a).difference("effect").p, 1)


def of_each_prompt(result: Result) -> np.ndarray:
    return np.stack([each.values for each in result.each("effect")]).astype(float)


def test_differences_of_ratios_agree_with_the_ratios_whatever_their_gaps():
    effect, gap = numbers(30, 2, 3, mean=1.0), numbers(30, mean=2.0, spread=0.3, seed=1)
    a = result_of(effect, gap)
    for other in (gap, numbers(30, mean=3.0, spread=0.3, seed=2)):
        b = result_of(effect + 1.0, other)
        found = a.compare(b).difference("recovery").difference
        assert np.allclose(found.values, b["recovery"].values - a["recovery"].values, atol=1e-5)
        assert (found.low < found.values).all() and (found.values < found.high).all()


def test_the_interval_of_a_difference_of_ratios_covers_the_true_one():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        common = rng.normal(size=(20, 1, 1))
        gaps = 2 + 0.3 * rng.normal(size=(2, 20))
        one = 0.4 * gaps[0][:, None, None] + common * 0.2
        other = 0.7 * gaps[1][:, None, None] + common * 0.2 + 0.1 * rng.normal(size=(20, 1, 1))
        found = result_of(one, gaps[0]).compare(result_of(other, gaps[1])).difference("recovery")
        covered += bool(found.difference.low <= 0.3 <= found.difference.high)
    assert covered >= 178, covered  # 95% of 200 is 190; three standard errors below


def test_results_on_other_prompts_have_no_paired_difference_but_may_agree():
    one = result_of(numbers(4, 3, 4))
    other = result_of(numbers(4, 3, 4), prompts=["a", "b", "c", "d"])
    with pytest.raises(UsageError, match="first prompt 1"):
        one.compare(other).difference("effect")
    with pytest.raises(UsageError, match="4 and 5 prompts"):
        one.compare(result_of(numbers(5, 3, 4))).difference("effect")
    assert one.compare(other).agreement("effect").correlation == pytest.approx(1)
    rows = {row["output"]: row for row in one.compare(other).rows()}
    assert "prompts differ" in rows["effect"]["why_not"]
    assert "difference" not in rows["effect"]


def array(values: Any, **coords: list[Any]) -> NamedArray:
    return NamedArray(np.asarray(values, float), tuple(coords), coords, name="map")


def test_agreement_is_spearmans_over_the_shared_cells_and_the_overlap_of_the_largest():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 8))
    axes = {"layer": list(range(6)), "head": list(range(8))}
    found = agreement(array(a, **axes), array(b, **axes), 5)
    assert found.correlation == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    largest = [set(np.argsort(-np.abs(x.ravel()))[:5]) for x in (a, b)]
    assert found.overlap == len(largest[0] & largest[1]) / 5
    assert found.chance == pytest.approx(5 / 48) and found.cells == 48
    # Another order of dimensions, fewer layers, ties.
    less = array(np.round(b[:4].T), head=axes["head"], layer=axes["layer"][:4])
    found = agreement(array(a, **axes), less, 5)
    rho = stats.spearmanr(a[:4].ravel(), np.round(b[:4]).ravel()).statistic
    assert found.cells == 32 and found.correlation == pytest.approx(rho)


def test_cells_without_size_in_both_maps_do_not_make_them_agree():
    a, b = np.zeros((2, 40))
    a[:4], b[:4] = [1, 2, 3, 4], [4, 3, 2, 1]
    axes = {"position": list(range(40))}
    found = agreement(array(a, **axes), array(b, **axes), 2)
    assert found.cells == 4 and found.correlation == pytest.approx(-1)
    assert found.overlap == 0 and found.chance == 0.5
    with pytest.raises(UsageError, match="no cells in common"):
        agreement(array(a, **axes), array(b, layer=axes["position"]))


def test_a_contrast_shows_itself():
    shared = numbers(8, 2, 3)
    text = repr(result_of(shared).compare(result_of(shared + 1)))
    assert "recovery" in text and "0.0078" in text and "n = 8" in text
    few = repr(result_of(shared[:4]).compare(result_of(shared[:4] + 1)))
    assert "never below 0.12" in few


def test_a_mean_over_models_counts_models_and_prompts_as_samples():
    rng = np.random.default_rng(0)
    texts = [{"clean": f"prompt {i}", "corrupt": "c"} for i in range(6)]
    results = []
    for name in ("one", "two", "three"):
        found = shown_result(n=6)
        for i in range(6):
            found.arrays[f"score@{i}"] = np.float32(rng.normal(3, 1))
            found.prompts[i].update(texts[i])
        found.provenance = {**found.provenance, "model": {"name": name, "revision": None}}
        results.append(found)
    values = np.array([[float(one) for one in found.each("score")] for found in results])
    expected = two_way_interval(values)
    pooled = mean_over_models(results, "score", [[]] * 3)
    assert pooled is not None and pooled.n == 3
    assert (pooled.value, pooled.low, pooled.high) == pytest.approx(
        (float(expected.value), float(expected.low), float(expected.high))
    )
    cell = mean_over_models(results, "effect", [[[1], [0, 2]]] * 3)
    by_hand = np.mean([[one.values[1, [0, 2]] for one in r.each("effect")] for r in results])
    assert cell is not None and cell.value == pytest.approx(by_hand, rel=1e-5)
    assert mean_over_models(results[:1], "score", [[]]) is None
    assert mean_over_models([results[0], results[0]], "score", [[]] * 2) is None, "one model twice"
    results[1].prompts[0]["clean"] = "another"
    assert mean_over_models(results, "score", [[]] * 3) is None, "other prompts"
