"""The statistics of a comparison, against the harness's own and by simulation with a known truth."""

import math

import numpy as np
import pytest

from harness.output import statistics
from reports.blockwise import holm
from reports.compare.verdict import Ratio, ratio_of, verdict
from reports.quantiles import rank
from reports.resample import DRAWS, Measured, measured, resamples


@pytest.mark.parametrize("p", [0.07, 0.5, 0.9, 0.99])
def test_the_rank_is_that_of_the_summaries(p):
    assert [rank(n, p) for n in range(1, 900)] == [statistics.quantile_rank(n, p) for n in range(1, 900)]


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_the_pooled_quantile_is_that_of_the_summaries(p):
    rng = np.random.default_rng(3)
    latencies, blocks = rng.lognormal(size=401), rng.integers(0, 3, 401).astype(float)
    found = measured(latencies, blocks, p)
    assert found.value == statistics.quantile(latencies, p).value
    assert (found.n, found.blocks) == (401, 3)


@pytest.mark.parametrize("blocks", [2, 3, 5, 7])
def test_every_way_to_draw_blocks_is_taken_with_its_probability(blocks):
    counts, weights = resamples(blocks)
    assert len(counts) == math.comb(2 * blocks - 1, blocks)
    assert (counts.sum(axis=1) == blocks).all()
    assert weights.sum() == pytest.approx(1)
    assert weights @ counts == pytest.approx(np.ones(blocks))


def test_many_blocks_are_drawn_at_random_by_a_fixed_seed():
    counts, weights = resamples(9)
    assert counts.shape == (DRAWS, 9)
    assert weights @ counts == pytest.approx(np.ones(9), abs=0.08)
    resamples.cache_clear()
    assert (resamples(9)[0] == counts).all()


def test_two_blocks_by_hand():
    """Of blocks 1 and 4, each of one sample, the draws are (1, 1), (1, 4) twice and (4, 4); the median is the lower."""
    found = measured(np.array([4.0, 1.0]), np.array([1.0, 0.0]), 0.5)
    logs = [0.0, 0.0, 0.0, math.log(4)]
    assert found.variance == pytest.approx(2 * np.var(logs))
    assert found.value == 1.0


def test_one_block_says_nothing_of_others():
    one = measured(np.array([1.0, 2.0, 3.0]), np.zeros(3), 0.5)
    assert (one.value, one.blocks) == (2.0, 1)
    found = ratio_of(one, measured(np.array([4.0, 4.0]), np.array([0.0, 1.0]), 0.5))
    assert found.value == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert verdict(found, found.p) == "unclear"


def invented(rng, blocks, between, samples=130):
    """Latencies of one run: the spread of blocks is given, that of samples within one is 2 %."""
    own = rng.normal(0, between, (blocks, 1)) + rng.normal(0, 0.02, (blocks, samples))
    return measured(np.exp(own).ravel(), np.repeat(np.arange(blocks, dtype=float), samples), 0.5)


@pytest.mark.parametrize(("blocks", "between"), [(2, 0.0), (2, 0.05), (3, 0.0), (3, 0.05), (5, 0.002), (5, 0.05)])
def test_intervals_cover_the_truth(blocks, between):
    """In 600 pairs of equal runs, 95 % of the intervals hold 1, give or take chance; with blocks unlike, a few more."""
    rng = np.random.default_rng(blocks)
    found = [ratio_of(invented(rng, blocks, between), invented(rng, blocks, between)) for _ in range(600)]
    assert 0.93 <= np.mean([one.low <= 1 <= one.high for one in found]) <= 0.995


def test_a_page_of_equal_runs_accuses_nobody():
    """Of 60 pages with 20 cells of noisy blocks each, at most 5 % have one slower: without the correction many do."""
    rng = np.random.default_rng(8)
    pages = [[ratio_of(invented(rng, 4, 0.06, 30), invented(rng, 4, 0.06, 30)) for _ in range(20)] for _ in range(60)]
    corrected = [
        [verdict(one, p) for one, p in zip(page, holm([one.p for one in page]), strict=True)] for page in pages
    ]
    alone = [[verdict(one, one.p) for one in page] for page in pages]
    assert np.mean(["slower" in page for page in corrected]) <= 0.05
    assert np.mean(["slower" in page for page in alone]) > 0.1


def test_holm_by_hand():
    """0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04, which may not come before the one above it."""
    assert holm([0.01, 0.04, math.nan, 0.03, 0.005])[0] == pytest.approx(0.03)
    found = holm([0.01, 0.04, math.nan, 0.03, 0.005]).tolist()
    assert [found[place] for place in (1, 3, 4)] == pytest.approx([0.06, 0.06, 0.02])
    assert math.isnan(found[2])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ratio", "p", "said"),
    [
        (Ratio(1.10, 1.05, 1.15, 0.001), 0.01, "slower"),
        (Ratio(0.90, 0.86, 0.95, 0.001), 0.01, "faster"),
        (Ratio(1.10, 1.05, 1.15, 0.001), 0.06, "unclear"),  # the correction
        (Ratio(1.02, 1.01, 1.028, 0.001), 0.01, "same"),  # certain, and within the margin
        (Ratio(1.02, 1.01, 1.04, 0.001), 0.01, "unclear"),
        (Ratio(1.00, 0.96, 1.04, 0.9), 1.0, "unclear"),
        (Ratio(0.98, 0.96, 0.99, 0.001), 0.01, "unclear"),  # the interval leaves the margin below alone
        (Ratio(0.975, 0.972, 0.98, 0.001), 0.01, "same"),
        (Ratio(0.965, 0.96, 0.972, 0.001), 0.01, "faster"),
    ],
)
def test_the_rule(ratio, p, said):
    assert verdict(ratio, p, 0.03) == said


def test_a_wide_interval_is_a_number_all_the_same():
    found = ratio_of(Measured(1.0, 2, 2, 400.0), Measured(2.0, 2, 2, 1e-9))
    assert 0.0 <= found.low < 1e-100
    assert math.isfinite(found.high)


def test_blocks_that_agree_to_the_last_digit_leave_no_doubt():
    same = Measured(2.0, 4, 2, 0.0)
    assert ratio_of(same, same) == Ratio(1.0, 1.0, 1.0, 1.0)
    assert ratio_of(same, same._replace(value=3.0)).p == 0.0
