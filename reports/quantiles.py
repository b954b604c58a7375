"""Quantiles by rank with exact intervals, and bootstrap intervals of what is made of two samples."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binom, bootstrap

Array = npt.NDArray[np.float64]
RESAMPLES = 2000
TAIL = 0.025
BATCH = 50
"""Resamples at a time: those of a long stream would fill the memory otherwise."""


class Estimate(NamedTuple):
    """A figure with its 95 % interval; NaN where there are too few samples for it."""

    value: float
    low: float
    high: float


NOTHING = Estimate(math.nan, math.nan, math.nan)


def rank(n: int, p: float) -> int:
    """Rank, from 1, of the quantile of n values: the smallest k with k/n >= p, as in the harness's summaries."""
    return max(1, math.ceil(n * p - 1e-9))  # n * p of an exact rank may come out a hair above it


def at(values: Array, p: float) -> Array:
    """The smallest value with a share of at least p at or below it, along the last axis."""
    place = rank(values.shape[-1], p) - 1
    return np.partition(values, place, axis=-1)[..., place]


@lru_cache(maxsize=4096)
def interval_ranks(n: int, p: float) -> tuple[int, int] | None:
    """Ranks l < u, from 1, of the exact two-sided 95 % interval of a quantile; None where n can't support both.

    P(X(l) <= Q < X(u)) = sum_{k=l}^{u-1} C(n,k) p^k (1-p)^(n-k)   (David and Nagaraja, Order Statistics, section 7.1):
    l is the largest and u the smallest rank that leaves at most 2.5 % in its tail. P99 needs n of at least 368.
    """
    # l - 1 is the last k with P(B <= k) <= tail, u the first with P(B >= u) <= tail, B being Binomial(n, p).
    ranks = np.arange(1, n + 1)
    below, above = ranks[binom.cdf(ranks - 1, n, p) <= TAIL], ranks[binom.sf(ranks - 1, n, p) <= TAIL]
    return (int(below[-1]), int(above[0])) if len(below) and len(above) else None


def quantile(samples: pd.Series, p: float) -> Estimate:
    """The quantile by rank and its exact two-sided interval; NaN where n can't support both of its ends."""
    ordered = np.sort(samples.to_numpy(dtype=float))
    ranks = interval_ranks(len(ordered), p)
    if ranks is None:
        return NOTHING
    low, high = ranks
    return Estimate(float(at(ordered, p)), float(ordered[low - 1]), float(ordered[high - 1]))


def ratio(one: Estimate, other: Estimate, ours: pd.Series, theirs: pd.Series, p: float, seed: int) -> Estimate:
    """`one` over `other`, both the quantile p of independent samples, with the percentile interval of the bootstrap;
    NaN unless both are supported."""
    if math.isnan(one.value) or math.isnan(other.value):
        return NOTHING

    def statistic(a: Array, b: Array, axis: int) -> Array:
        return np.divide(at(np.moveaxis(a, axis, -1), p), at(np.moveaxis(b, axis, -1), p))

    found = bootstrap(
        (ours.to_numpy(dtype=float), theirs.to_numpy(dtype=float)), statistic, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, batch=BATCH, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(one.value / other.value, float(found.low), float(found.high))
