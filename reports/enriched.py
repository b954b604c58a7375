"""The columns that a report adds to a run's summaries: intervals, use of the memory's bandwidth, launch gap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from reports import nominal
from reports.blockwise import (
    average_interval,
    by_block,
    decode_rows,
    mean_over_blocks,
    p99_samples,
    range_label,
    ttft_samples,
)
from reports.quantiles import Array, Estimate, at, quantile
from reports.run import Run

EXACT = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
Record = dict[str, Any]


def spread(name: str, found: Estimate) -> Record:
    """A figure in ms and the ends of its interval, as columns."""
    return dict(zip((f"{name}_ms", f"{name}_low_ms", f"{name}_high_ms"), found, strict=True))


def ends(name: str, found: Estimate) -> Record:
    """The ends of an interval, as columns."""
    return {f"{name}_low_ms": found.low, f"{name}_high_ms": found.high}


def mean(values: Array) -> float:
    """The arithmetic mean."""
    return float(values.mean())


def rank(p: float) -> Callable[[Array], float]:
    """The quantile p by rank."""
    return lambda values: float(at(values, p))


def utilisation(run: Run, median_ms: pd.Series) -> pd.Series:
    """The share of the measured read bandwidth at which the weights, read once, pass in the median time."""
    weights, bandwidth = (run.manifest.get(key) for key in ("weight_bytes", "read_bandwidth_tb_s"))
    if weights is None or bandwidth is None:
        return pd.Series(math.nan, median_ms.index)
    return float(weights) / (median_ms * 1e-3) / (float(bandwidth) * 1e12)


def launch_gap(samples: pd.DataFrame) -> float:
    """Median over requests of the client's time less the GPU's, in ms; NaN where the engine gives no GPU time."""
    gaps = (samples["host_ms"] - samples["gpu_ms"]).dropna().to_numpy(dtype=float)
    return float(at(gaps, 0.5)) if len(gaps) else math.nan


def joined(frame: pd.DataFrame, keys: list[str], records: Iterator[Record]) -> pd.DataFrame:
    """A summary with the columns of the records behind its own; what it has already, it keeps."""
    added = pd.DataFrame(list(records))
    if added.empty:
        return frame
    fresh = [column for column in added if column in keys or column not in frame]
    return frame.merge(added[fresh], on=keys, how="left")


def ttft(run: Run) -> pd.DataFrame:
    """ttft.csv with P90, the mean's interval over blocks, the ratio's, the bandwidth's use and the launch gap."""
    return run.once("enriched ttft", lambda: _ttft(run))


def _ttft(run: Run) -> pd.DataFrame:
    groups = ttft_samples(run).groupby(["case", "prompt_length"])
    found = joined(run.ttft, ["case", "prompt_length"], (
        {"case": case, "prompt_length": length, "launch_gap_ms": launch_gap(part)}
        | spread("p90", quantile(part["latency_ms"], 0.9))
        | ends("mean", mean_over_blocks(part, mean))
        for (case, length), part in groups
    ))  # fmt: skip
    found = found.assign(bandwidth_utilisation=utilisation(run, found["p50_ms"]))
    ratio_ends = {f"ratio_{end}": found[f"p50_{end}_ms"] / found["floor_ms"] for end in ("low", "high")}
    return found.assign(**ratio_ends)


def p99(run: Run) -> pd.DataFrame:
    """p99.csv with the exact intervals of P50 and P90, and the floor of ttft.csv."""
    return run.once("enriched p99", lambda: _p99(run))


def _p99(run: Run) -> pd.DataFrame:
    groups = p99_samples(run).groupby(["case", "prompt_length"])
    found = joined(run.p99, ["case", "prompt_length"], (
        {"case": case, "prompt_length": length}
        | ends("p50", quantile(part["latency_ms"], 0.5))
        | ends("p90", quantile(part["latency_ms"], 0.9))
        for (case, length), part in groups
    ))  # fmt: skip
    floors = run.ttft.drop_duplicates("prompt_length").set_index("prompt_length")["floor_ms"]
    width = (found["p99_high_ms"] - found["p99_low_ms"]) / found["p99_ms"]
    return found.assign(floor_ms=found["prompt_length"].map(floors), p99_relative_width=width)


def width_reached(run: Run, frame: pd.DataFrame) -> str:
    """Of a run that measured until P99 was known: in how many cells it is known as well as asked; else nothing.

    A block stops by what it expects of those to come, the last one by all that there is, each at the latest when its
    budget is used up: so the pooled interval may be wider than asked.
    """
    asked = run.sweep.get("p99_width")
    if run.sweep.get("p99_iterations") != "auto" or asked is None:
        return ""
    widths = frame["p99_relative_width"]
    widest = "" if widths.isna().all() else f", the widest has {widths.max():.1%}"
    return (
        f" Requests went on until the interval of P99 was within {100 * asked:g}% of it, or the budget of a block was "
        f"used up: it is in {(widths <= asked).sum()} of {len(widths)} cells{widest}.{nominal.after_stopping()}"
    )


def beaten(frame: pd.DataFrame) -> str:
    """What must stand under a floor that a case lies below, which the calibration then did not reach; else nothing."""
    if "ratio_to_floor" not in frame or not (frame["ratio_to_floor"] < 1).any():
        return ""
    return " A case lies below the floor: the calibration did not reach this machine's rates, so it is no floor here."


def decode(run: Run) -> pd.DataFrame:
    """decode.csv with intervals of mean, P50, P90 and P99 over blocks, the bandwidth's use and the launch gap.

    Steps of a sequence follow each other and are no independent samples: blocks are drawn whole. P99 stays what
    decode.csv says, refused where n can't support it. How often the intervals hold is reports/decode_coverage.py's.
    """
    return run.once("enriched decode", lambda: _decode(run))


def _decode(run: Run) -> pd.DataFrame:
    from_to = zip(run.decode["context_from"], run.decode["context_to"], strict=True)
    frame = run.decode.assign(row=[range_label(run, *pair) for pair in from_to])
    found = joined(frame, ["case", "row"], (
        {"case": case, "row": row, "launch_gap_ms": launch_gap(part)} | decode_intervals(part)
        for row, steps in decode_rows(run)
        for case, part in steps.groupby("case")
    ))  # fmt: skip
    if "p99_low_ms" in found:
        refused = found["p99_ms"].isna()
        found = found.assign(**{name: found[name].mask(refused) for name in ("p99_low_ms", "p99_high_ms")})
    return found.assign(bandwidth_utilisation=utilisation(run, found["p50_ms"]))


def decode_intervals(part: pd.DataFrame) -> Record:
    """Intervals over blocks of a case's steps in a range."""
    found = ends("mean", mean_over_blocks(part, mean))
    for name, p in EXACT:
        value = mean_over_blocks(part, rank(p))
        found |= spread(name, value) if name == "p90" else ends(name, value)
    return found


def average(run: Run, metric: str, frame: pd.DataFrame, value: str) -> dict[str, Estimate]:
    """The mean over lengths of a column by case, NaN where a length is missing, with its interval over blocks."""
    blocks, found = by_block(run, metric), {}
    for case in run.cases:
        own = frame.loc[frame["case"] == case, value].dropna()
        whole = len(own) == len(run.sweep["prompt_lengths"])
        found[case] = average_interval(blocks, case, float(np.mean(own)) if whole else math.nan)
    return found
