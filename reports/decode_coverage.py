"""How often the intervals of decode hold the true latency, simulated from the decode steps of published runs.

Steps of a sequence follow each other, so that sequences are drawn whole; the processes that they stand for are shifted
as reports/aa.py shifts those of requests. The intervals are those of decode.csv: `clustered` over blocks.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from reports.aa import EFFECTS, EVEN, evenly, shifts
from reports.quantiles import Array, at, rank
from reports.resample import resamples, unbiased
from reports.run import load
from reports.table import Cell, Notes, Table, heads, share

BLOCKS = 5
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
COLUMNS = ("mean", *QUANTILES)


class Sequences(NamedTuple):
    """A case of a run: log latencies of its decode steps over their block's median [sequence, step], and the standard
    deviation of the blocks' log medians."""

    name: str
    residuals: Array
    block_sd: float


class Spread(NamedTuple):
    """A statistic's logarithm, and the block bootstrap's variance of it."""

    value: float
    variance: float


def decode_sources(path: Path) -> list[Sequences]:
    """The cases of a run with two blocks or more of whole sequences. Raises ValueError when there is none or the run
    can't be read."""
    run = load(path)
    steps, found = run.samples[run.samples["metric"] == "decode"], []
    for case, title in run.cases.items():
        own = steps[steps["case"] == case].sort_values(["block", "iteration", "context_length"])
        sizes = own.groupby(["block", "iteration"]).size()
        blocks = own["block"].nunique()
        if blocks < 2 or sizes.nunique() != 1 or len(sizes) % blocks:
            continue
        logs = np.log(own["latency_ms"].to_numpy(dtype=float)).reshape(blocks, -1)
        medians = at(logs, 0.5)
        residuals = (logs - medians[:, None]).reshape(-1, int(sizes.iloc[0]))
        found.append(Sequences(f"{title}, {path.name}", residuals, float(medians.std(ddof=1))))
    if not found:
        raise ValueError(f"{path} has no case with two blocks of whole decode sequences")
    return found


def truths(source: Sequences, kind: str) -> dict[str, float]:
    """The logarithms of the true mean and quantiles, of all sequences in each of EVEN processes."""
    moves = source.block_sd * evenly(kind)
    every = (source.residuals.ravel()[:, None] + moves).ravel()
    mean = math.log(np.exp(source.residuals).mean() * np.exp(moves).mean())
    return {"mean": mean} | {name: float(at(every, p)) for name, p in QUANTILES.items()}


def block_mean(logs: Array) -> Spread:
    """The mean's logarithm of blocks alike in size [block, sample], as `resample.log_variance` has it."""
    counts, weights = resamples(len(logs))
    means = np.exp(logs).mean(axis=1)
    return Spread(math.log(means.mean()), unbiased(np.log(counts @ means / len(logs)), weights, len(logs)))


def block_quantiles(logs: Array, *shares: float) -> list[Spread]:
    """These quantiles of blocks alike in size [block, sample], as `resample.log_variance` and `measured` have them:
    what they draw block by block is counted at once here."""
    counts, weights = resamples(len(logs))
    order = np.argsort(logs, axis=None, kind="stable")
    ordered = logs.ravel()[order]
    reached = np.cumsum(counts.astype(np.int16)[:, order // logs.shape[1]], axis=1, dtype=np.int16)
    found = []
    for place in (rank(len(ordered), p) for p in shares):
        drawn = ordered[(reached < place).sum(axis=1)]
        found.append(Spread(float(ordered[place - 1]), unbiased(drawn, weights, len(logs))))
    return found


def drawn(source: Sequences, kind: str, draws: int, rng: np.random.Generator) -> Array:
    """Which sequence each process has, [draws, block], and how far it is shifted, [draws, block], stacked."""
    which = rng.integers(len(source.residuals), size=(draws, BLOCKS))
    return np.stack([which, source.block_sd * shifts(kind, (draws, BLOCKS), rng)])


def samples(source: Sequences, which: Array, moved: Array) -> Array:
    """The log latencies of one draw of processes, [block, step]."""
    return source.residuals[which.astype(int)] + moved[:, None]


def held(source: Sequences, kind: str, draws: int, seed: int) -> dict[str, float]:
    """The shares of intervals of 95 % that hold the true mean, P50, P90 and P99."""
    rng = np.random.default_rng([seed, 300 + EFFECTS.index(kind)])
    true, width = np.array(list(truths(source, kind).values())), float(stats.t.ppf(0.975, BLOCKS - 1))
    hits = np.zeros(len(true))
    for which, moved in zip(*drawn(source, kind, draws, rng), strict=True):
        logs = samples(source, which, moved)
        values, variances = np.array([block_mean(logs), *block_quantiles(logs, *QUANTILES.values())]).T
        hits += np.abs(values - true) <= width * np.sqrt(variances)
    return dict(zip(COLUMNS, map(float, hits / draws), strict=True))


def decode_frame(found: list[Sequences], draws: int, seed: int) -> pd.DataFrame:
    """One row a source and kind of process: shares of intervals that hold."""
    return pd.DataFrame([
        {"blocks": BLOCKS, "steps": source.residuals.shape[1], "source": source.name, "block_sd": source.block_sd,
         "effects": kind, "draws": draws}
        | held(source, kind, draws, seed)
        for source in found
        for kind in EFFECTS
    ])  # fmt: skip


def decode_table(frame: pd.DataFrame) -> Table:
    """How often intervals of decode hold, by source and kind of process."""
    rows = [
        [Cell(f"{r['blocks']} × {r['steps']}"), Cell(str(r["source"])), Cell(f"{r['block_sd']:.2%}"),
         Cell(str(r["effects"])), *(share(r[column]) for column in COLUMNS)]
        for r in frame.to_dict("records")
    ]  # fmt: skip
    head = heads(
        "Blocks", "Steps of", "Between processes", "Spread of processes", "Mean", "P50", "P90", "P99",
        left=("Blocks", "Steps of", "Spread of processes"),
    )  # fmt: skip
    facts = (
        f"{int(frame['draws'].iloc[0])} simulated runs each of blocks × steps, over all context lengths: sequences of "
        "the published ones, drawn whole, in processes shifted at random, as far as the published ones lie apart "
        "(standard deviation of log medians). Shares of intervals over blocks, of 95 % by name (whole blocks drawn "
        "anew, Student's t on logarithms), that hold the true value: that of all published sequences in processes at "
        f"every {EVEN}th of their distribution. A heavy tail's mean has no limit; this one leaves out rarer processes."
    )
    title = "How often an interval of decode holds the true latency"
    return Table("decode_intervals", title, head, rows, Notes(), facts, False, frame)
