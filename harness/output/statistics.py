"""Order statistics of latency samples: quantiles by rank and their exact, distribution-free intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

Values = Sequence[float] | npt.NDArray[np.float64]


class Quantile(NamedTuple):
    """A quantile and its two-sided interval, in the unit of the samples; NaN for an end that n can't support."""

    value: float
    low: float
    high: float

    @property
    def supported(self) -> bool:
        """Whether both ends of the interval exist."""
        return not (math.isnan(self.low) or math.isnan(self.high))


def quantile_rank(n: int, p: float) -> int:
    """Rank, from 1, of the empirical quantile: the smallest k with k/n >= p (the inverse of the empirical CDF).

    Raises:
        ValueError: no samples, or p outside (0, 1).
    """
    if n < 1:
        raise ValueError("a quantile needs at least one sample")
    if not 0.0 < p < 1.0:
        raise ValueError(f"a quantile's probability lies between 0 and 1, not {p}")
    # n * p of an exact rank may come out a hair above it (0.07 * 100 = 7.000000000000001).
    return max(1, math.ceil(n * p - 1e-9))


@lru_cache(maxsize=1024)
def interval_ranks(n: int, p: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Ranks l < u, from 1, with P(X(l) <= Q < X(u)) >= confidence, each tail at most half of the rest.

    The number of samples at or below the true quantile Q is Binomial(n, p), so that
    P(X(l) <= Q < X(u)) = sum_{k=l}^{u-1} C(n,k) p^k (1-p)^(n-k)   (David and Nagaraja, Order Statistics, section 7.1).
    l is the largest and u the smallest rank that the tails allow; None where no rank of n samples does.
    """
    tail = (1.0 - confidence) / 2.0
    ranks = np.arange(1, n + 1)
    below = ranks[binom.cdf(ranks - 1, n, p) <= tail]
    above = ranks[binom.sf(ranks - 1, n, p) <= tail]
    return (int(below[-1]) if below.size else None, int(above[0]) if above.size else None)


def coverage(n: int, p: float, low: int, high: int) -> float:
    """P(X(low) <= Q < X(high)) of n samples of any continuous distribution."""
    return float(binom.cdf(high - 1, n, p) - binom.cdf(low - 1, n, p))


def quantile(samples: Values, p: float, confidence: float = 0.95) -> Quantile:
    """The empirical quantile by rank, and its exact interval. Raises ValueError without samples."""
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    value = ordered[quantile_rank(n, p) - 1]
    low, high = interval_ranks(n, p, confidence)
    return Quantile(
        float(value),
        math.nan if low is None else float(ordered[low - 1]),
        math.nan if high is None else float(ordered[high - 1]),
    )


def median(samples: Values) -> float:
    """The empirical median by rank (the lower one of an even number); NaN without samples or with a NaN among them."""
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0 or bool(np.isnan(values).any()):
        return math.nan
    return float(np.sort(values)[quantile_rank(len(values), 0.5) - 1])


def mean_std(samples: Values) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1 in the denominator); NaN where n is too small for either."""
    values = np.asarray(samples, dtype=np.float64)
    mean = float(values.mean()) if values.size else math.nan
    return mean, float(values.std(ddof=1)) if values.size > 1 else math.nan
