"""One case under several names, simulated from a published run: what its tests find although nothing differs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from reports.blockwise import clustered, t_test, ttft_samples
from reports.quantiles import Array, at
from reports.run import load

NAMES = 4
PAIRS = tuple(itertools.combinations(range(NAMES), 2))
LEVEL = 0.05
BATCH = 250
NAIVE_DRAWS = 500
INTERVAL_DRAWS = 1000
TRUTH_BLOCKS = 200
EVEN = 2000
"""Processes that a true mean is taken over, one at each 2000th of their distribution. The mean of exp(t), t Student's,
is infinite: over processes drawn at random it is whatever the rarest of them is."""

EFFECTS = ("normal", "two speeds", "heavy tail")


class Design(NamedTuple):
    """Processes a case, and requests a length in each."""

    blocks: int
    requests: int


COUNTED = ("ttft_cell", "p99_cell", "average", "row", "table", "winner")
DESIGNS = (Design(3, 127), Design(5, 77))
"""As runs were made before, and as they are by default."""


@dataclass(frozen=True)
class Source:
    """A case of a run: log latencies over their block's median, [block, length, request], and how blocks differ."""

    name: str
    residuals: Array
    block_sd: float


def sources(path: Path) -> list[Source]:
    """The cases of a run with two or more whole blocks, large enough for a design. Raises ValueError when there is none
    or the run can't be read."""
    run, least = load(path), min(design.requests for design in DESIGNS)
    timed, found = ttft_samples(run), []
    for case, title in run.cases.items():
        own = timed[timed["case"] == case].sort_values(["block", "prompt_length", "iteration"])
        sizes = own.groupby(["block", "prompt_length"]).size()
        if own["block"].nunique() < 2 or sizes.nunique() != 1 or sizes.iloc[0] < least:
            continue
        shape = (own["block"].nunique(), own["prompt_length"].nunique(), int(sizes.iloc[0]))
        logs = np.log(own["latency_ms"].to_numpy(dtype=float)).reshape(shape)
        medians = at(logs, 0.5)
        spread = float(medians.mean(axis=1).std(ddof=1))
        found.append(Source(f"{title}, {path.name}", logs - medians[..., None], spread))
    if not found:
        raise ValueError(f"{path} has no case with two whole blocks of {least} requests a length, which is the least")
    return found


def shifts(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """What processes differ by, of unit variance: normal, one of two speeds at even odds, or Student's t of 3."""
    if kind == "normal":
        return rng.normal(size=shape)
    if kind == "two speeds":
        return rng.choice([-1.0, 1.0], size=shape)
    return rng.standard_t(3, size=shape) / math.sqrt(3)


def evenly(kind: str, count: int = EVEN) -> Array:
    """So many shifts of a kind as `shifts` draws them, one in the middle of each even share of their distribution."""
    places = (np.arange(count) + 0.5) / count
    if kind == "normal":
        return np.asarray(stats.norm.ppf(places))
    return np.where(places < 0.5, -1.0, 1.0) if kind == "two speeds" else stats.t.ppf(places, 3) / math.sqrt(3)


def requests(source: Source, design: Design, draws: int, rng: np.random.Generator) -> Array:
    """Residuals [draws, name, block, length, request]: neighbouring requests of a published block, drawn at random.

    All lengths of a block come from the same rounds: what slows neighbours slows them together.
    """
    blocks, _, size = source.residuals.shape
    which = rng.integers(blocks, size=(draws, NAMES, design.blocks))
    starts = rng.integers(size, size=(draws, NAMES, design.blocks))
    times = (starts[..., None] + np.arange(design.requests)) % size
    return np.moveaxis(source.residuals[which[..., None], :, times], -1, -2)


def quantiles(samples: Array, p: float) -> tuple[Array, Array]:
    """A quantile of each block [draws, name, block, length] and of all blocks pooled [draws, name, length]."""
    draws, names, blocks, lengths, size = samples.shape
    together = np.moveaxis(samples, 2, 3).reshape(draws, names, lengths, blocks * size)
    return at(samples, p), at(together, p)


def p_values(by_block: Array, pooled: Array) -> Array:
    """p-values [draws, pair, row] of log values by block [draws, name, block, row] and pooled [draws, name, row]."""
    found = [
        t_test(np.moveaxis(by_block[:, one] - by_block[:, other], 1, -1), pooled[:, one] - pooled[:, other])[0]
        for one, other in PAIRS
    ]
    return np.stack(found, axis=1)


def naive(samples: Array) -> float:
    """The share of rank-sum tests between two names at one length, over all their requests, with p <= 5 %."""
    one, other = (samples[:, name, :, 0].reshape(len(samples), -1) for name in (0, 1))
    return float((stats.mannwhitneyu(one, other, axis=1).pvalue <= LEVEL).mean())


def interval_holds(samples: Array, truth: float) -> float:
    """The share of block-cluster bootstrap intervals of a mean, at one length, that hold the true mean."""
    held = [clustered(list(draw), lambda values: float(values.mean())) for draw in np.exp(samples[:, 0, :, 0])]
    return float(np.mean([found.low <= truth <= found.high for found in held]))


def averages(found: Array) -> Array:
    """Log of the mean over lengths, which stand in the last axis, of quantiles' logarithms."""
    return np.log(np.exp(found).mean(axis=-1))


def average_holds(samples: Array, many: Array, p: float) -> float:
    """The share of intervals of an average over lengths that hold the true one, that of `many` processes.

    As tables have it: the mean of pooled quantiles, with the interval that the means of blocks give it. `samples` are
    [draws, name, block, length, request], `many` the same of one draw and name.
    """
    by_block, pooled = (averages(found[:, 0]) for found in quantiles(samples, p))
    _, reach = t_test(by_block, pooled)
    truth = float(averages(quantiles(many, p)[1])[0, 0])
    return float((np.abs(pooled - truth) <= reach).mean())


def rates(source: Source, design: Design, kind: str, draws: int, seed: int) -> dict[str, float]:
    """False positives of one source under one kind of difference between processes."""
    rng = np.random.default_rng([seed, EFFECTS.index(kind)])
    counts: dict[str, list[float]] = {name: [] for name in COUNTED}
    left = draws
    while left:
        batch, left = min(BATCH, left), max(0, left - BATCH)
        samples = requests(source, design, batch, rng)
        samples = samples + source.block_sd * shifts(kind, (batch, NAMES, design.blocks, 1, 1), rng)
        for name, values in found_in(samples).items():
            counts[name] += values.tolist()
    return {name: float(np.mean(values)) for name, values in counts.items()}


def found_in(samples: Array) -> dict[str, Array]:
    """What is found in each of these simulated tables [draws], by COUNTED: shares of its comparisons or rows, or
    whether it has any."""
    by_block, pooled = quantiles(samples, 0.5)
    cells, tails = p_values(by_block, pooled), p_values(*quantiles(samples, 0.99))
    average = p_values(by_block.mean(axis=-1, keepdims=True), pooled.mean(axis=-1, keepdims=True))
    # Holm rejects something in a row exactly when the row's smallest p-value passes Bonferroni's bound. Where all pairs
    # of a row but one differ for certain, that one is not corrected: so it is with two alike below all others.
    rows = cells.min(axis=1) * len(PAIRS) <= LEVEL
    return {
        "ttft_cell": (cells <= LEVEL).mean(axis=(1, 2)),
        "p99_cell": (tails <= LEVEL).mean(axis=(1, 2)),
        "average": (average <= LEVEL).mean(axis=(1, 2)),
        "row": rows.mean(axis=1),
        "table": rows.any(axis=1),
        "winner": (cells <= LEVEL).any(axis=-1).mean(axis=1),
    }


def checks(source: Source, design: Design, kind: str, draws: int, seed: int) -> dict[str, float]:
    """The naive test, and how often intervals of a mean and of averages hold, on fewer draws."""
    rng = np.random.default_rng([seed, 100 + EFFECTS.index(kind)])
    count = min(draws, INTERVAL_DRAWS)
    samples = requests(source, design, count, rng)[:, :2]
    samples = samples + source.block_sd * shifts(kind, (count, 2, design.blocks, 1, 1), rng)
    factor = np.exp(source.block_sd * evenly(kind)).mean()  # the true mean is that of the residuals times this
    mean, many = float(np.exp(source.residuals[:, 0]).mean() * factor), processes(source, design, kind, seed)
    return {
        "naive": naive(samples[:NAIVE_DRAWS]),
        "interval": interval_holds(samples, mean),
        "p50_interval": average_holds(samples, many, 0.5),
        "p99_interval": average_holds(samples, many, 0.99),
    }


def processes(source: Source, design: Design, kind: str, seed: int) -> Array:
    """Residuals [1, 1, block, length, request] of so many processes that their quantiles are all but the true ones."""
    rng = np.random.default_rng([seed, 200 + EFFECTS.index(kind)])
    drawn = requests(source, Design(TRUTH_BLOCKS, design.requests), 1, rng).reshape(
        1, 1, NAMES * TRUTH_BLOCKS, -1, design.requests
    )
    return drawn + source.block_sd * shifts(kind, (1, 1, NAMES * TRUTH_BLOCKS, 1, 1), rng)


def null_rates(found: list[Source], draws: int, seed: int) -> pd.DataFrame:
    """One row a design, source and kind of process: shares of differences found where there are none.

    A source whose blocks have fewer requests than a design asks for has no row of it: it would repeat them.
    """
    records = [
        {"blocks": design.blocks, "requests": design.requests, "source": source.name, "block_sd": source.block_sd,
         "effects": kind, "draws": draws}
        | rates(source, design, kind, draws, seed)
        | checks(source, design, kind, draws, seed)
        for design in DESIGNS
        for source in found
        if source.residuals.shape[-1] >= design.requests
        for kind in EFFECTS
    ]  # fmt: skip
    return pd.DataFrame(records)
