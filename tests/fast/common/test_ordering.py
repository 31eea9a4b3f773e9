"""Which of several means is larger: the levels hold, and the series is Student's t."""

from __future__ import annotations

import numpy as np
import pytest

from remote_mi.common.statistics.ordering import (
    LEVEL,
    chance_not_above_zero,
    may_be_largest,
    student_above,
    told_from_the_start,
)

TRIES = 1500


def noise(rng: np.random.Generator, law: str, shape: tuple[int, ...]) -> np.ndarray:
    """Samples of mean 0; neighbours along the last axis are correlated."""
    base = rng.normal(size=shape) + rng.normal(size=(*shape[:-1], 1))
    if law == "normal":
        return base
    return np.exp(base / 2) - np.exp(0.25)  # log-normal: exp(N(0, 2)/2) has the mean exp(1/4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 8, 89])
def test_the_series_is_students_t(freedom):
    from scipy.special import stdtr

    t = np.array([-50.0, -2.0, 0.0, 0.3, 1.0, 2.5, 12.0, 1e4])
    np.testing.assert_allclose(student_above(t, freedom), stdtr(freedom, -t), atol=1e-14)


def test_nothing_is_told_of_one_sample_of_nan_or_without_spread():
    assert (chance_not_above_zero(np.ones((1, 3))) == 1).all()
    samples = np.array([[1.0, 1.0, np.nan, -1.0, 1.0]] * 4)
    samples[:, 4] += [0.0, 0.1, -0.1, 0.05]
    p = chance_not_above_zero(samples)
    assert (p[:4] == 1).all() and p[4] < 0.01


@pytest.mark.parametrize("count", [2, 3, 8, 24])
@pytest.mark.parametrize("law", ["normal", "log-normal"])
def test_a_sequence_is_told_falsely_no_more_often_than_it_says(law, count):
    """The first five means are clearly above 0, the next is 0: told to be above is false."""
    rng = np.random.default_rng(count)
    truth = np.array([3.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0, -0.5, -1.0])
    one, other = (noise(rng, law, (TRIES, count, len(truth))) for _ in range(2))
    false = sum(told_from_the_start(each) > 5 for each in truth + one - other)
    assert false / TRIES < LEVEL / 2 + 3 * np.sqrt(LEVEL / 2 / TRIES)


@pytest.mark.parametrize("count", [2, 3, 8, 24])
@pytest.mark.parametrize("law", ["normal", "log-normal"])
def test_the_largest_is_rarely_left_out(law, count):
    """Also where all are alike, so that the observed largest is one by chance."""
    rng = np.random.default_rng(count)
    for truth in (np.zeros(12), np.linspace(-2, 0, 12)):
        samples = truth + noise(rng, law, (TRIES, count, 12))
        left_out = sum(not may_be_largest(each)[-1] for each in samples)
        assert left_out / TRIES < LEVEL + 3 * np.sqrt(LEVEL / TRIES)


def test_what_is_clearly_larger_is_told():
    rng = np.random.default_rng(0)
    samples = np.array([0.0, 0.9, 1.0, 0.2]) + 0.02 * rng.normal(size=(8, 4))
    assert may_be_largest(samples).tolist() == [False, False, True, False]
    assert told_from_the_start(samples - 0.5) == 0
    assert told_from_the_start(samples[:, ::-1] + np.array([1, 0, 0, 0]) - 0.5) == 3
    assert told_from_the_start(samples + 1) == 4
