"""What a run's machine allows at best, for tables whose rows are no row of ttft.csv or decode.csv.

The formula is that of the summaries (harness/output/summary.py), over the same figures of manifest.json: the time to
read every weight once, or to compute all positions, whichever is longer.
"""

from __future__ import annotations

import math

import pandas as pd

from reports.run import Run

NEEDED = ("read_bandwidth_tb_s", "matmul_tflop_s", "weight_bytes", "flops_per_token")
HEAD = "Floor (ms)"
OF_REQUESTS = "Floor: the median over the same requests of what the card allows each one's length at best."


def floor_ms(run: Run, tokens: float) -> float:
    """The floor in ms of a forward pass over so many positions; NaN where the run was not calibrated."""
    known = [run.manifest.get(key) for key in NEEDED]
    if not all(isinstance(value, int | float) and value > 0 for value in known):
        return math.nan
    bandwidth, arithmetic, weights, operations = map(float, known)  # type: ignore[arg-type]  # numbers by now
    return 1e3 * max(weights / (bandwidth * 1e12), operations * tokens / (arithmetic * 1e12))


def of_step(run: Run) -> float:
    """The floor in ms of one step of decode."""
    return floor_ms(run, 1)


def of_sweep(run: Run) -> float:
    """The floor in ms of average TTFT: the mean over the run's prompt lengths."""
    floors = [floor_ms(run, length) for length in run.sweep["prompt_lengths"]]
    return math.nan if not floors else sum(floors) / len(floors)


def of_requests(run: Run, samples: pd.DataFrame) -> float:
    """The median over requests, the lower one, of each one's floor in ms; NaN without requests."""
    floors = samples["prompt_length"].map(lambda length: floor_ms(run, length))
    return float(floors.quantile(0.5, interpolation="lower")) if len(floors) else math.nan
