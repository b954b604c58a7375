"""The medians of each block: whether a case says the same in every process that measured it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from reports.blockwise import ttft_samples
from reports.floors import HEAD, of_step, of_sweep
from reports.marks import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number

SPREAD = (
    "Standard deviation: of the blocks' log medians, at one length. Share of variance: what part of the variance of "
    "all log latencies lies between blocks; the rest is within them."
)


def blocks_frame(run: Run) -> pd.DataFrame:
    """Medians in ms by metric, case and block; TTFT is the mean over prompt lengths of a block's medians.

    A block that lacks a length has no TTFT: a mean over fewer lengths would be another quantity.
    """
    timed = ttft_samples(run)
    # The lower median, as in the other tables.
    lengths = timed.groupby(["case", "block", "prompt_length"])["latency_ms"].quantile(0.5, interpolation="lower")
    by_block = lengths.groupby(["case", "block"])
    ttft = by_block.mean()[by_block.size() == len(run.sweep["prompt_lengths"])]
    steps = run.samples[run.samples["metric"] == "decode"].groupby(["case", "block"])["latency_ms"]
    decode = steps.quantile(0.5, interpolation="lower")
    parts = [part.rename("median_ms").reset_index().assign(metric=name) for name, part in
             (("TTFT", ttft), ("Decode", decode))]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[["metric", "case", "block", "median_ms"]].merge(
        spread_frame(run), on=["metric", "case"], how="left"
    )


def spread_frame(run: Run) -> pd.DataFrame:
    """How far blocks of a case lie apart, by metric and case, from log latencies; NaN for one block.

    `block_sd`: the standard deviation of the blocks' log medians, averaged over lengths as a variance. `block_share`:
    s_b^2 / (s_b^2 + s_w^2), the part of all variance that lies between blocks, where s_w^2 is the variance within them
    and s_b^2 that of their means less s_w^2 / n, which requests alone would give them (one-way analysis of variance).
    """
    steps = run.samples[run.samples["metric"] == "decode"]
    parts = [("TTFT", ttft_samples(run)), ("Decode", steps.assign(prompt_length=0))]
    rows = [
        {"metric": metric, "case": case, **components(own)}
        for metric, samples in parts
        for case, own in samples.groupby("case")
    ]
    return pd.DataFrame(rows, columns=["metric", "case", "block_sd", "block_share"])


def components(own: pd.DataFrame) -> dict[str, float]:
    """`block_sd` and `block_share` of one case's samples."""
    if own["block"].nunique() < 2:
        return {"block_sd": math.nan, "block_share": math.nan}
    logs = own.assign(log=np.log(own["latency_ms"])).groupby(["prompt_length", "block"])["log"]
    within, size = logs.var().groupby("prompt_length").mean(), logs.size().groupby("prompt_length").mean()
    between = (logs.mean().groupby("prompt_length").var() - within / size).clip(lower=0).mean()
    medians = logs.quantile(0.5, interpolation="lower").groupby("prompt_length").var().mean()
    total = between + within.mean()
    return {"block_sd": math.sqrt(medians), "block_share": float(between / total) if total > 0 else math.nan}


def why_none(run: Run, case: str, block: float) -> str:
    """Why a case has no median in a block: it was planned with fewer, or something went wrong."""
    planned = run.blocks(case)
    if block < planned or block in set(run.status.loc[run.status["case"] == case, "block"]):
        return run.missing(case)
    return f"{planned} block{'s' if planned > 1 else ''} planned for this case."


def blocks_table(run: Run) -> Table:
    """One row a metric and case, one column a block, and how far apart the blocks are."""
    notes, frame, spreads = Notes(), blocks_frame(run), spread_frame(run)
    rows: list[list[Cell]] = []
    rules: list[int] = []
    blocks, floors = sorted(set(run.status["block"])), {"TTFT": of_sweep(run), "Decode": of_step(run)}
    values = frame.set_index(["metric", "case", "block"])["median_ms"]
    for metric in ("TTFT", "Decode"):
        if metric not in set(frame["metric"]):
            continue
        rules.append(len(rows))
        for case, title in run.cases.items():
            found = [float(values.get((metric, case, block), float("nan"))) for block in blocks]
            cells = [
                Cell(number(value)) if value == value else Cell(DASH, (notes.mark(why_none(run, case, block)),))
                for value, block in zip(found, blocks, strict=True)
            ]
            known = [value for value in found if value == value]
            apart = Cell(f"{max(known) / min(known) - 1:.1%}" if len(known) > 1 else DASH)
            own = spreads[(spreads["metric"] == metric) & (spreads["case"] == case)]
            shares = [percent(own["block_sd"], 2), percent(own["block_share"], 0)]
            floor = Cell(DASH if math.isnan(floors[metric]) else number(floors[metric]))
            rows.append([Cell(metric), Cell(title, case_marks(run, case, notes)), *cells, floor, apart, *shares])
    names = [f"Block {block:.0f} (ms)" for block in blocks]
    head = heads(
        "Metric",
        "Case",
        *names,
        HEAD,
        "Largest over smallest",
        "Standard deviation",
        "Share of variance",
        left=("Metric", "Case"),
    )
    words = "TTFT: mean over prompt lengths of medians, and of floors. Each block is a process of its own."
    facts = f"{words} {SPREAD} {run.facts()}"
    title = "Medians block by block"
    return Table("blocks", title, head, rows, notes, facts, run.smoke, frame, frozenset(rules[1:]))


def percent(values: pd.Series, digits: int) -> Cell:
    """A share in percent, a dash without one."""
    return Cell(f"{values.iloc[0]:.{digits}%}" if values.notna().any() else DASH)
