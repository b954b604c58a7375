"""A run's figures by the published rules: means of TTFT, P99 by linear interpolation, statistics of decode steps."""

from __future__ import annotations

import math

import pandas as pd

from harness.schema import UNTHROTTLED
from reports.marks import FLAGS
from reports.paper.runs import Missing
from reports.run import Run

HYBRID = "jit_cuda_graph"
EVERY_CONTEXT = "every_context"
SHORT = 100  # the longest context of the first of the two means of decode steps
RULES = {
    "ttft": "TTFT: mean of the first requests of a length ({n}).",
    "p99": "P99: 99th percentile of the requests of a length ({n}), interpolated linearly as published; this harness "
    "itself states no P99 below n = 368.",
}


def window(run: Run, metric: str, case: str) -> tuple[int, int]:
    """The first iteration that a case's TTFT or P99 is taken over, and the one behind the last.

    Without a warm-up the requests of P99 come behind those of TTFT; else both begin with the first.
    """
    ttft, planned = int(run.sweep["ttft_iterations"]), run.sweep.get("p99_iterations", 0)
    p99 = len(run.samples) if planned == "auto" else int(planned)
    if metric == "ttft":
        return 0, ttft
    start = ttft if run.procedure(case).get("warmup") == "none" else 0
    return start, start + p99


def requests(run: Run, metric: str) -> pd.DataFrame:
    """The samples behind `ttft` or `p99` of every case, pooled over blocks."""
    timed = run.samples[run.samples["metric"] == "ttft"]
    parts = [
        own[own["iteration"].between(first, end - 1)]
        for case in run.cases
        for own, (first, end) in [(timed[timed["case"] == case], window(run, metric, case))]
    ]
    return pd.concat(parts) if parts else timed


def latencies(run: Run, metric: str) -> pd.DataFrame:
    """Mean TTFT or P99 in ms: a row a length of the sweep, a column a case; NaN where there is none."""
    groups = requests(run, metric).groupby(["prompt_length", "case"])["latency_ms"]
    found = (groups.mean() if metric == "ttft" else groups.quantile(0.99)).unstack("case")
    found = found.reindex(index=sorted(run.sweep["prompt_lengths"]), columns=list(run.cases)).astype(float)
    return found.set_axis([int(length) for length in found.index])


def counts(run: Run, metric: str) -> list[int]:
    """How many requests are behind each figure of `latencies`."""
    return [int(n) for n in requests(run, metric).groupby(["prompt_length", "case"]).size()]


def average(run: Run, metric: str, case: str) -> float:
    """Mean over all lengths of a case; NaN where the run lacks it or a length of it."""
    return float(latencies(run, metric)[case].mean(skipna=False)) if case in run.cases else math.nan


def flagged(run: Run, samples: pd.DataFrame) -> list[str]:
    """How many samples of each case hold a capture, ran without a graph, or were taken on a slowed card."""
    slow = samples["throttle"].map(
        lambda text: any(part.strip().lower() not in UNTHROTTLED for part in str(text).split("|"))
    )
    kinds = {
        FLAGS["captures"]: samples["captures"] > 0,
        FLAGS["ungraphed"]: samples["ungraphed"] > 0,
        FLAGS["throttled"]: slow,
    }
    found = []
    for case, title in run.cases.items():
        own = samples["case"] == case
        parts = [f"{count} {words}" for words, mask in kinds.items() if (count := int((own & mask).sum()))]
        found += [f"{title} {', '.join(parts)} (n = {int(own.sum())})"] if parts else []
    return found


def decoder(run: Run) -> str:
    """The case whose decode steps answer the published ones: with a graph for each context, where the run has it."""
    return EVERY_CONTEXT if EVERY_CONTEXT in run.cases else HYBRID


def steps(run: Run) -> pd.DataFrame:
    """The decode steps of that case. Raises Missing."""
    case = decoder(run)
    if case not in run.cases:
        raise Missing("JIT+CUDA is not in this run.")
    found = run.samples[(run.samples["case"] == case) & (run.samples["metric"] == "decode")]
    if found.empty:
        raise Missing(run.missing(case))
    return found


def decode_statistics(found: pd.DataFrame) -> dict[str, float]:
    """Decode steps by the published quantities, in ms; `total` and `tokens` are those of one sequence."""
    latency, tokens = found["latency_ms"], found["context_length"].nunique()
    short = latency[found["context_length"] <= SHORT].mean()
    long = latency[found["context_length"] > SHORT].mean()
    return {
        "mean": latency.mean(), "median": latency.median(), "p25": latency.quantile(0.25),
        "p75": latency.quantile(0.75), "std": latency.std(), "min": latency.min(), "max": latency.max(),
        "total": latency.mean() * tokens, "tokens": float(tokens), "throughput": 1000 / latency.mean(),
        "mean_context_le_100": short, "mean_context_gt_100": long, "scaling_factor": long / short,
    }  # fmt: skip


def decode_range(found: pd.DataFrame, first: int, last: int) -> tuple[float, float]:
    """Mean and standard deviation in ms of the steps of a range of contexts, both ends included; NaN without any."""
    own = found.loc[found["context_length"].between(first, last), "latency_ms"]
    return float(own.mean()), float(own.std())
