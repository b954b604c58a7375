"""How sure a statistic of latencies is when samples of one process are alike: the block bootstrap.

A block is a process of its own, and what differs between processes (where memory lies, what the host does) does not
average out within one. So blocks are resampled, whole. Drawing samples within the drawn blocks anew as well would count
their spread twice: of the two, resampling the highest level alone has the right variance (Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8; tests/reports/test_compare_method.py simulates it).

Few blocks need two corrections. Blocks drawn with replacement vary less than new ones would, by (G - 1) / G of G blocks
(Hesterberg, What Teachers Should Know about the Bootstrap, 2015: narrowness bias). And a variance from few blocks is
itself uncertain: intervals take Student's t, with the degrees of freedom of Welch (1947) for two runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reports.quantiles import rank

Floats = npt.NDArray[np.float64]
WHOLE = 7
"""Up to so many blocks every way to draw them is taken, with its probability; with more, DRAWS random ones are."""
DRAWS = 2000
SEED = 20260423


class Measured(NamedTuple):
    """A quantile in ms of n samples in so many blocks, and the variance of its logarithm; NaN with one block."""

    value: float
    n: int
    blocks: int
    variance: float


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write a number as a sum of so many counts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


@lru_cache(maxsize=64)
def resamples(blocks: int) -> tuple[Floats, Floats]:
    """How often each block is drawn [resample, block], and each resample's probability [resample]."""
    if blocks > WHOLE:
        draws = np.random.default_rng(SEED).multinomial(blocks, [1 / blocks] * blocks, DRAWS).astype(np.float64)
        return draws, np.full(DRAWS, 1 / DRAWS)
    counts = np.array(list(compositions(blocks, blocks)), dtype=np.float64)
    ways = [math.factorial(blocks) / math.prod(map(math.factorial, map(int, row))) for row in counts]
    return counts, np.array(ways) / blocks**blocks


def measured(latencies: Floats, blocks: Floats, p: float) -> Measured:
    """The quantile of all samples pooled, and the block bootstrap's variance of its logarithm.

    `latencies` in ms and the block of each are one long; every latency is positive.
    """
    order = np.argsort(latencies, kind="stable")
    ordered = latencies[order]
    names, place = np.unique(blocks[order], return_inverse=True)
    value = float(ordered[rank(len(ordered), p) - 1])
    if len(names) < 2:
        return Measured(value, len(ordered), len(names), math.nan)
    counts, weights = resamples(len(names))
    logs = np.log(ordered[[first_at(np.cumsum(row[place]), p) for row in counts]])
    return Measured(value, len(ordered), len(names), unbiased(logs, weights, len(names)))


def unbiased(logs: Floats, weights: Floats, blocks: int) -> float:
    """The variance of resampled logarithms [resample], freed of the narrowness of so many blocks' resamples."""
    mean = float(weights @ logs)
    return float(weights @ (logs - mean) ** 2) * blocks / (blocks - 1)


def log_variance(blocks: list[Floats], statistic: Callable[[Floats], float]) -> float:
    """The block bootstrap's variance of the logarithm of any positive statistic of all samples pooled; two blocks or
    more. Each kind of resample is computed once, however often it is drawn."""
    counts, weights = resamples(len(blocks))
    kinds, same = np.unique(counts.astype(int), axis=0, return_inverse=True)
    found = [
        statistic(np.concatenate([np.tile(part, n) for part, n in zip(blocks, kind, strict=True)])) for kind in kinds
    ]
    return unbiased(np.log(found)[same.ravel()], weights, len(blocks))


def first_at(reached: Floats, p: float) -> int:
    """Place of the quantile among sorted samples, from how many drawn ones lie up to and at each."""
    return int(np.searchsorted(reached, rank(int(reached[-1]), p)))
