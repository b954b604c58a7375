"""What blocks say: a statistic of each block, what is made of all of them, and intervals with blocks as the units.

A process differs from the next by more than its requests differ among themselves, so that requests are no independent
witnesses of a case: its blocks are. Intervals here rest on them, and there are none of fewer than MIN_BLOCKS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student

from reports.quantiles import NOTHING, Estimate, at, quantile
from reports.resample import log_variance
from reports.run import Run

MIN_BLOCKS = 3
AVERAGE = "Average"
COLUMNS = ("row", "case", "block", "value")
Array = npt.NDArray[np.float64]


class Contrast(NamedTuple):
    """A ratio with its 95 % interval and two-sided p-value; NaN for what too few blocks can't say."""

    ratio: float
    low: float
    high: float
    p: float
    blocks: int


def ttft_samples(run: Run) -> pd.DataFrame:
    """The timed requests that TTFT is taken over."""
    return run.samples[(run.samples["metric"] == "ttft") & (run.samples["iteration"] < run.sweep["ttft_iterations"])]


def p99_samples(run: Run) -> pd.DataFrame:
    """The timed requests that P99 is taken over: with warm-up apart the first N, else those behind the TTFT ones.

    `auto` takes as many as there are.
    """
    timed = run.samples[run.samples["metric"] == "ttft"]
    planned = run.sweep.get("p99_iterations", run.sweep["ttft_iterations"])
    count = math.inf if planned == "auto" else int(planned)
    bare = {case for case in run.cases if run.procedure(case).get("warmup") == "none"}
    first = timed["case"].isin(bare) * int(run.sweep["ttft_iterations"])
    return timed[(timed["iteration"] >= first) & (timed["iteration"] < first + count)]


def with_average(frame: pd.DataFrame, over: list[str] | None = None) -> pd.DataFrame:
    """`frame` and beneath it the row AVERAGE: of each column the mean, `over` these rows; NaN where one lacks it."""
    means = (frame if over is None else frame.reindex(over)).mean(skipna=False)
    row = pd.DataFrame([means.to_numpy(float)], index=pd.Index([AVERAGE]), columns=frame.columns)
    whole = pd.concat([frame, row])
    whole.index.name = frame.index.name
    return whole


def range_label(run: Run, first: float, last: float) -> str:
    """How tables call a range of context lengths."""
    return f"{first:.0f}–{last:.0f}" + (" (whole)" if (first, last) == run.whole else "")


def decode_rows(run: Run) -> list[tuple[str, pd.DataFrame]]:
    """The decode steps of each range of decode.csv, the whole range last, under its label."""
    steps = run.samples[run.samples["metric"] == "decode"]
    pairs = sorted(set(zip(run.decode["context_from"], run.decode["context_to"], strict=True)))
    pairs.sort(key=lambda pair: pair == run.whole)
    return [(range_label(run, *pair), steps[steps["context_length"].between(*pair)]) for pair in pairs]


def by_block(run: Run, metric: str) -> pd.DataFrame:
    """A metric's statistic in ms by row of its table, case and block: the median, or for `P99` that quantile by rank.

    The row AVERAGE holds geometric means over prompt lengths, of the blocks that have them all. Blocks that did not
    end well have no part: columns as in COLUMNS.
    """
    return run.once(("by_block", metric), lambda: _by_block(run, metric))


def _by_block(run: Run, metric: str) -> pd.DataFrame:
    if metric == "Decode":
        groups = decode_rows(run)
    else:
        timed = p99_samples(run) if metric == "P99" else ttft_samples(run)
        groups = [(f"{length:.0f}", part) for length, part in timed.groupby("prompt_length")]
    p = 0.99 if metric == "P99" else 0.5
    rows = [
        (row, case, block, float(at(part["latency_ms"].to_numpy(dtype=float), p)))
        for row, samples in groups
        for (case, block), part in samples.groupby(["case", "block"])
    ]
    found = whole_blocks(run, pd.DataFrame(rows, columns=list(COLUMNS)))
    return found if metric == "Decode" else pd.concat([found, averages(run, found)], ignore_index=True)


def whole_blocks(run: Run, found: pd.DataFrame) -> pd.DataFrame:
    """Without the blocks that did not end well."""
    good = run.status[run.status["state"] == "ok"]
    kept = set(zip(good["case"], good["block"], strict=True))
    there = [pair in kept for pair in zip(found["case"], found["block"], strict=True)]
    return found[pd.Series(there, found.index, dtype=bool)]


def averages(run: Run, found: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over prompt lengths, by case and block."""
    if found.empty:
        return found
    groups = found.assign(value=np.log(found["value"])).groupby(["case", "block"])["value"]
    means = np.exp(groups.mean()[groups.size() == len(run.sweep["prompt_lengths"])])
    return means.reset_index().assign(row=AVERAGE)[list(COLUMNS)]


def t_test(logs: Array, pooled: Array) -> tuple[Array, Array]:
    """p-values [...] and half-widths [...] of 95 % intervals, from log ratios (or differences) of paired blocks
    [..., B] and those of pooled values [...].

    Student's t with B - 1 degrees of freedom on pooled / SE, SE^2 = s^2 / B + (pooled - mean)^2. The first part is
    the paired t-test's. The second is 0 where the pooled ratio is the mean over blocks; where it is not, it adds what
    the pooled ratio scatters more than that mean (their difference is uncorrelated with the mean, which is efficient).
    """
    blocks = logs.shape[-1]
    error = np.sqrt(np.var(logs, axis=-1, ddof=1) / blocks + (pooled - np.mean(logs, axis=-1)) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(pooled == 0, 1.0, 2 * student.sf(np.abs(pooled) / error, blocks - 1))
    return p, error * student.ppf(0.975, blocks - 1)


def contrast(logs: Array, pooled: float) -> Contrast:
    """The ratio exp(pooled) with what `t_test` says of it, logs being [blocks]; NaN for fewer than MIN_BLOCKS."""
    if len(logs) < MIN_BLOCKS or math.isnan(pooled):
        return Contrast(math.exp(pooled), math.nan, math.nan, math.nan, len(logs))
    p, reach = (float(found) for found in t_test(logs, np.array(pooled)))
    return Contrast(math.exp(pooled), math.exp(pooled - reach), math.exp(pooled + reach), p, len(logs))


def holm(values: npt.ArrayLike) -> Array:
    """Holm's step-down correction of p-values over all of them; NaN (not tested) neither counts nor changes."""
    found: Array = np.array(values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(found))
    order = tested[np.argsort(found[tested], kind="stable")]
    steps = found[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return found


def clustered(blocks: list[Array], statistic: Callable[[Array], float]) -> Estimate:
    """A statistic of all samples and its interval by the block bootstrap: whole blocks are drawn.

    The percentiles of so few blocks' resamples lie too close together. Hence the standard error of the resampled
    logarithm times Student's t for B - 1 degrees of freedom.
    """
    value, count = statistic(np.concatenate(blocks)), len(blocks)
    if count < MIN_BLOCKS:
        return Estimate(value, math.nan, math.nan)
    reach = math.sqrt(log_variance(blocks, statistic)) * float(student.ppf(0.975, count - 1))
    return Estimate(value, value * math.exp(-reach), value * math.exp(reach))


def added(ours: pd.DataFrame, theirs: pd.DataFrame, p: float) -> Estimate:
    """The quantile p of our latencies minus that of theirs, in their unit, with the interval that the differences of
    paired blocks give it (`t_test`); NaN unless the pooled samples support both."""
    pooled = [quantile(samples["latency_ms"], p).value for samples in (ours, theirs)]
    if any(map(math.isnan, pooled)):
        return NOTHING
    one, other = (
        {block: float(at(part.to_numpy(dtype=float), p)) for block, part in samples.groupby("block")["latency_ms"]}
        for samples in (ours, theirs)
    )
    value, blocks = pooled[0] - pooled[1], np.array([one[block] - other[block] for block in one if block in other])
    if len(blocks) < MIN_BLOCKS:
        return Estimate(value, math.nan, math.nan)
    reach = float(t_test(blocks, np.array(value))[1])
    return Estimate(value, value - reach, value + reach)


def mean_over_blocks(samples: pd.DataFrame, statistic: Callable[[Array], float]) -> Estimate:
    """`clustered` over the blocks of these samples' latencies; NOTHING without samples."""
    parts = [part["latency_ms"].to_numpy(dtype=float) for _, part in samples.groupby("block")]
    return clustered(parts, statistic) if parts else NOTHING


def average_interval(found: pd.DataFrame, case: str, value: float) -> Estimate:
    """A pooled average of a case with the interval that its blocks give it; `found` as `by_block` has it.

    Of each block the mean over rows is taken, of the blocks that have them all.
    """
    own = found[(found["case"] == case) & (found["row"] != AVERAGE)]
    groups = own.groupby("block")["value"]
    means = groups.mean()[groups.size() == own["row"].nunique()]
    if len(means) < MIN_BLOCKS or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    over_blocks = contrast(np.log(means.to_numpy(dtype=float)), math.log(value))
    return Estimate(value, over_blocks.low, over_blocks.high)
