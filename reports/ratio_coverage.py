"""How often the interval of `compare` holds the true ratio of two runs, simulated: one case against itself, so that it
is 1. Requests come from published runs as in reports/aa.py, decode steps as in reports/decode_coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from reports.aa import DESIGNS, EFFECTS, Source, requests, shifts
from reports.compare.verdict import ratio_of
from reports.decode_coverage import Sequences, Spread, block_quantiles, drawn, samples
from reports.quantiles import Array
from reports.resample import Measured
from reports.table import Cell, Notes, Table, heads, share

DESIGN = DESIGNS[-1]
COLUMNS = ("ttft", "p99", "decode")


def holds(one: Spread, other: Spread) -> bool:
    """Whether the interval of B/A holds 1."""
    a, b = (Measured(math.exp(found.value), 0, DESIGN.blocks, found.variance) for found in (one, other))
    ratio = ratio_of(a, b)
    return ratio.low <= 1 <= ratio.high


def share_of(runs: list[tuple[list[Spread], list[Spread]]]) -> Array:
    """The shares of pairs of runs [statistic] whose intervals hold."""
    return np.array([[holds(*pair) for pair in zip(*run, strict=True)] for run in runs]).mean(axis=0)


def requests_held(source: Source, kind: str, draws: int, seed: int) -> dict[str, float]:
    """The shares of TTFT's P50 and P99, at the first length."""
    rng = np.random.default_rng([seed, 400 + EFFECTS.index(kind)])
    logs = requests(source, DESIGN, draws, rng)[:, :2, :, 0]
    logs = logs + source.block_sd * shifts(kind, (draws, 2, DESIGN.blocks, 1), rng)
    found = share_of([(block_quantiles(a, 0.5, 0.99), block_quantiles(b, 0.5, 0.99)) for a, b in logs])
    return dict(zip(COLUMNS, map(float, found), strict=False))


def steps_held(source: Sequences, kind: str, draws: int, seed: int) -> dict[str, float]:
    """The share of decode's P50, over all context lengths."""
    rng = np.random.default_rng([seed, 500 + EFFECTS.index(kind)])
    a, b = (np.moveaxis(drawn(source, kind, draws, rng), 0, 1) for _ in range(2))
    pairs = zip(a, b, strict=True)
    found = share_of([
        (block_quantiles(samples(source, *one), 0.5), block_quantiles(samples(source, *other), 0.5))
        for one, other in pairs
    ])  # fmt: skip
    return {"decode": float(found[0])}


def ratio_frame(timed: list[Source], stepped: list[Sequences], draws: int, seed: int) -> pd.DataFrame:
    """One row a source and kind of process: shares of intervals of B/A that hold 1."""
    steps = {source.name: source for source in stepped}
    return pd.DataFrame([
        {"blocks": DESIGN.blocks, "requests": DESIGN.requests, "source": source.name, "block_sd": source.block_sd,
         "decode_block_sd": steps[source.name].block_sd, "effects": kind, "draws": draws}
        | requests_held(source, kind, draws, seed)
        | steps_held(steps[source.name], kind, draws, seed)
        for source in timed
        if source.name in steps
        for kind in EFFECTS
    ])  # fmt: skip


def ratio_table(frame: pd.DataFrame) -> Table:
    """How often intervals of `compare` hold, by source and kind of process."""
    rows = [
        [Cell(f"{r['blocks']} × {r['requests']}"), Cell(str(r["source"])), Cell(f"{r['block_sd']:.2%}"),
         Cell(f"{r['decode_block_sd']:.2%}"), Cell(str(r["effects"])), *(share(r[column]) for column in COLUMNS)]
        for r in frame.to_dict("records")
    ]  # fmt: skip
    head = heads(
        "Blocks", "Requests of", "Between processes, TTFT", "Decode", "Spread of processes", "TTFT's P50", "TTFT's P99",
        "Decode's P50", left=("Blocks", "Requests of", "Spread of processes"),
    )  # fmt: skip
    facts = (
        f"One case against itself in two runs, {int(frame['draws'].iloc[0])} times: blocks × requests at one length, "
        "and as many decode sequences as blocks. Shares of intervals of B/A, of 95 % by name, that hold 1; the rest "
        "differ from 1 at 5 % before Holm's correction. Processes are shifted at random, as far as those of the "
        "published runs lie apart (standard deviation of log medians)."
    )
    title = "How often the interval of compare holds the ratio of two runs alike"
    return Table("compare_intervals", title, head, rows, Notes(), facts, False, frame)
