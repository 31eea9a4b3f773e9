"""Intervals keep their level, and tests by exchange do not claim what is not there.

Few repetitions with fixed seeds: a rule that lost its level would miss by far more than the margins.
`tests/benchmarks/coverage.py` has the figures of docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from remote_mi.common.statistics.intervals import (
    difference_interval,
    mean_interval,
    ratio_interval,
    share_interval,
    two_way_interval,
)
from remote_mi.common.statistics.randomisation import (
    LEVEL,
    assignments,
    draws_needed,
    exchange_roles,
    units_needed,
)

REPEATED = 3000


def covered(found, truth) -> float:
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 24, 90])
def test_means_are_covered(n):
    rng = np.random.default_rng(n)
    assert 0.93 < covered(mean_interval(rng.normal(1, 2, (n, REPEATED))), 1) < 0.98
    skewed = mean_interval(rng.lognormal(0, 1, (n, REPEATED)))
    assert covered(skewed, np.exp(0.5)) > (0.85 if n >= 5 else 0.83)


def test_one_odd_sample_of_a_few_does_not_hide_a_clear_mean():
    found = mean_interval(np.array([6.1, 4.9, 5.0, 2.0, 4.3, 5.8]))
    assert 2.0 < float(found.low) < 3.2 < 5.5 < float(found.high) < 6.5


def test_symmetric_samples_have_students_interval():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    assert (float(found.low), float(found.high)) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize("n", [3, 5, 8, 24, 90])
@pytest.mark.parametrize("size", [4.0, 1.5], ids=["strong", "weak"])
def test_ratios_are_covered_where_they_are_given(n, size):
    rng = np.random.default_rng(n)
    hits, given = 0, 0
    for _ in range(400):
        gap = rng.normal(size, 1, n)
        effect = 0.5 * gap[:, None] + rng.normal(0, 0.5, (n, 20))
        if mean_interval(gap).excludes_zero:
            found = ratio_interval(effect, gap)
            hits += covered(found, 0.5)
            given += 1
    assert given > 20 and hits / given > 0.90


def test_a_ratio_has_the_sign_of_its_effect():
    effect, gap = np.array([2.0, 2.2, 1.9]), np.array([-4.0, -4.2, -3.9])
    turned, plain = ratio_interval(effect, gap), ratio_interval(effect, -gap)
    assert float(turned.value) == float(plain.value) == pytest.approx(6.1 / 12.1)
    assert turned.low == plain.low and turned.high == plain.high


def test_a_constant_gap_only_scales():
    values = np.random.default_rng(0).normal(1, 1, (7, 5))
    mean, ratio = mean_interval(values), ratio_interval(values, np.full(7, 2.0))
    assert ratio.low == pytest.approx(mean.low / 2) and ratio.high == pytest.approx(mean.high / 2)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 24, 90])
def test_shares_are_covered(n):
    rng = np.random.default_rng(n)
    truth = rng.uniform(0.02, 0.98, REPEATED)
    found = share_interval((rng.random((n, REPEATED)) < truth).astype(float))
    assert 0.93 < covered(found, truth) < 0.98


def test_all_right_of_24_is_no_certainty():
    found = share_interval(np.ones(24))
    assert float(found.value) == float(found.high) == 1.0
    assert float(found.low) == pytest.approx(0.86, abs=0.005)


def test_copies_are_no_samples():
    values = np.random.default_rng(0).normal(1, 1, (4, 3))
    copied, clusters = np.repeat(values, 3, 0), np.repeat(range(4), 3).tolist()
    once, thrice = mean_interval(values), mean_interval(copied, clusters)
    assert thrice.clusters == 4
    assert thrice.low == pytest.approx(once.low) and thrice.high == pytest.approx(once.high)
    assert np.isnan(mean_interval(np.ones(12), [0] * 12).low), "twelve copies are one sample"
    right = np.repeat([1.0, 0.0, 1.0], 3)
    of_copies = share_interval(right, np.repeat(range(3), 3).tolist())
    assert float(of_copies.low) == pytest.approx(float(share_interval(right[::3]).low))


@pytest.mark.parametrize("n", [5, 24])
def test_clusters_are_covered(n):
    rng, of = np.random.default_rng(n), np.repeat(range(n), 3)
    values = rng.normal(0, 1, (n, REPEATED))[of] + rng.normal(0, 1, (3 * n, REPEATED))
    assert 0.93 < covered(mean_interval(values, of.tolist()), 0) < 0.98
    assert covered(mean_interval(values), 0) < 0.93, "without clusters it would be too narrow"


@pytest.mark.parametrize("rows", [3, 5, 8])
def test_two_ways_are_covered(rows):
    rng, size = np.random.default_rng(rows), (rows, 24, 2000)
    values = rng.normal(0, 1, size) + rng.normal(0, 1, (rows, 1, 2000))
    values = values + rng.normal(0, 1, (1, 24, 2000))
    assert 0.92 < covered(two_way_interval(values), 0) < 0.985


def test_differences_of_two_samples_are_covered():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (5, REPEATED)), rng.normal(1, 3, (9, REPEATED))
    assert 0.93 < covered(difference_interval(one, other), 1) < 0.98


def test_nan_is_nan_and_nothing_else():
    values = np.random.default_rng(0).normal(0, 1, (5, 3))
    values[2, 1] = np.nan
    found = mean_interval(values)
    assert np.isnan(found.value[1]) and np.isnan(found.low[1])
    assert np.isfinite(found.low[[0, 2]]).all()


LAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.lognormal(size=size) - np.exp(0.5),
    "heavy": lambda rng, size: rng.standard_t(2, size=size),
    "correlated": lambda rng, size: rng.normal(size=(*size[:-1], 1)) + 0.3 * rng.normal(size=size),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("units", "draws"), [(2, 4), (5, 1), (8, 1), (24, 2)])
def test_few_maps_of_one_law_have_a_claim(law, units, draws):
    rng, alarms = np.random.default_rng(units), 0
    for _ in range(200):
        values = LAWS[law](rng, (units, draws + 1, 40))
        alarms += bool((exchange_roles(values[:, 0], values[:, 1:]).p <= LEVEL).any())
    assert stats.binomtest(alarms, 200, LEVEL, "greater").pvalue > 0.001


def test_what_is_there_is_found_beside_what_is_larger():
    rng = np.random.default_rng(0)
    effect, control = rng.normal(0, 0.1, (8, 100)), rng.normal(0, 0.1, (8, 1, 100))
    effect[:, 3] += 10
    effect[:, 7] += 1
    told = exchange_roles(effect, control).p <= LEVEL
    assert told[3] and told[7] and told.sum() == 2


def test_with_few_exchanges_nothing_is_claimed():
    effect = np.full((4, 2), 100.0)
    found = exchange_roles(effect, np.zeros((4, 1, 2)))
    assert not found.can_claim and (found.p > LEVEL).all()
    assert exchange_roles(np.full((5, 2), 100.0), np.zeros((5, 1, 2))).can_claim
    for draws in (1, 2, 4, 19):
        units = units_needed(draws)
        assert assignments(units, draws) * LEVEL >= 1 > assignments(units - 1, draws) * LEVEL
    for units in (1, 2, 4, 8):
        draws = draws_needed(units)
        assert assignments(units, draws) * LEVEL >= 1 > assignments(units, draws - 1) * LEVEL


def test_cells_left_out_count_for_nothing():
    effect, control = np.ones((6, 3)), np.zeros((6, 1, 3))
    effect[:, 0], control[:, :, 0] = 0, 50
    left_out = np.array([True, False, False])
    found = exchange_roles(effect, control, left_out)
    assert np.isnan(found.p[0]) and (found.p[1:] <= LEVEL).all()
    assert (exchange_roles(effect, control).p[1:] > LEVEL).all()


def test_roles_of_opposite_values_are_exchanged_as_in_a_paired_test():
    values = np.random.default_rng(0).normal(0.8, 1, 8)
    exact = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert float(exchange_roles(values[:, None], -values[:, None, None]).p[0]) == pytest.approx(
        float(exact.pvalue), abs=1e-9
    )
