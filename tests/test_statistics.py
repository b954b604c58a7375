import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.output import statistics
from harness.output.statistics import coverage, interval_ranks, quantile, quantile_rank


@pytest.mark.parametrize(
    ("n", "p", "rank"),
    [(1, 0.5, 1), (2, 0.5, 1), (3, 0.5, 2), (10, 0.9, 9), (100, 0.99, 99), (101, 0.99, 100), (100, 0.07, 7)],
)
def test_rank_of_a_quantile(n, p, rank):
    assert quantile_rank(n, p) == rank


def test_p99_has_an_upper_end_from_368_samples_on():
    assert interval_ranks(367, 0.99)[1] is None
    assert interval_ranks(368, 0.99)[1] == 368


@pytest.mark.parametrize(
    ("n", "ranks"),
    [(5, (None, None)), (6, (1, 6)), (10, (2, 9)), (25, (8, 18)), (50, (18, 33)), (100, (40, 61))],
)
def test_known_ranks_of_the_median(n, ranks):
    """The table of the sign test's interval, as textbooks print it."""
    assert interval_ranks(n, 0.5) == ranks


def test_known_coverage():
    assert coverage(10, 0.5, 2, 9) == pytest.approx(0.978515625)
    assert coverage(6, 0.5, 1, 6) == pytest.approx(0.96875)


@given(n=st.integers(1, 3000), p=st.sampled_from([0.01, 0.1, 0.5, 0.9, 0.99, 0.999]))
def test_interval_covers_and_is_the_narrowest_with_such_tails(n, p):
    low, high = interval_ranks(n, p)
    if low is not None:
        assert coverage(n, p, 0, low) <= 0.025 < coverage(n, p, 0, low + 1)
    if high is not None:
        assert 1 - coverage(n, p, 0, high) <= 0.025 + 1e-12
        assert 1 - coverage(n, p, 0, high - 1) > 0.025
    if low is not None and high is not None:
        assert coverage(n, p, low, high) >= 0.95
        assert low <= quantile_rank(n, p) <= high


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantile_is_the_inverse_of_the_empirical_cdf(samples, p):
    found = quantile(samples, p)
    assert found.value == np.quantile(samples, p, method="inverted_cdf")
    assert found.supported == (not math.isnan(found.low) and not math.isnan(found.high))
    if found.supported:
        assert found.low <= found.value <= found.high


def test_quantile_of_known_samples():
    found = quantile(list(range(1, 11)), 0.5)
    assert found == (5.0, 2.0, 9.0)
    assert found.supported


def test_p99_of_a_few_samples_is_not_supported():
    found = quantile(list(range(100)), 0.99)
    assert math.isnan(found.high)
    assert not found.supported


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="at least one sample"):
        quantile([], 0.5)


def test_mean_and_deviation_are_nan_where_n_is_too_small():
    assert statistics.mean_std([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, math.sqrt(5 / 3)))
    assert statistics.mean_std([7.0])[0] == 7.0
    assert math.isnan(statistics.mean_std([7.0])[1])
    assert all(math.isnan(value) for value in statistics.mean_std([]))


def test_median_says_nan_rather_than_skipping():
    assert statistics.median([3.0, 1.0, 2.0, 4.0]) == 2.0
    assert math.isnan(statistics.median([]))
    assert math.isnan(statistics.median([1.0, math.nan]))
