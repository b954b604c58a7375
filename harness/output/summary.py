"""From raw samples to the summary files of a run: ttft.csv, p99.csv, decode.csv and equivalence.csv."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness import schema
from harness.disk import write_aside
from harness.foreign import foreign_blocks
from harness.job import Job, read_job
from harness.output import equivalence, statistics

Row = dict[str, Any]
Window = Callable[[str], tuple[int, int]]
"""From a case to the first iteration that counts, and the one behind the last."""


@dataclass(frozen=True)
class Floor:
    """What the machine allows at best, from the calibration of the run; NaN where it was not calibrated."""

    read_bandwidth_tb_s: float
    matmul_tflop_s: float
    weight_bytes: float
    flops_per_token: float

    def milliseconds(self, tokens: int) -> float:
        """Time to read every weight once or to compute `tokens` positions, whichever is longer, in ms."""
        if math.isnan(self.read_bandwidth_tb_s) or math.isnan(self.matmul_tflop_s):
            return math.nan
        read_s = self.weight_bytes / (self.read_bandwidth_tb_s * 1e12)
        compute_s = self.flops_per_token * tokens / (self.matmul_tflop_s * 1e12)
        return 1e3 * max(read_s, compute_s)


def load_floor(manifest: Path) -> Floor:
    """The calibration in manifest.json. Raises ValueError when a key is missing; null is NaN."""
    data = json.loads(manifest.read_text(encoding="utf-8"))
    keys = ("read_bandwidth_tb_s", "matmul_tflop_s", "weight_bytes", "flops_per_token")
    if absent := [key for key in keys if key not in data]:
        raise ValueError(f"{manifest} has no {', '.join(absent)}: null is allowed, absence is not")
    return Floor(*(math.nan if data[key] is None else float(data[key]) for key in keys))


def load_samples(path: Path) -> pd.DataFrame:
    """samples.csv with `throttle` as text and every missing number as NaN. Raises ValueError on a missing column."""
    text = {"case": str, "metric": str, "throttle": str}
    samples = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=["", "nan", "NaN"])
    if absent := [column for column in schema.SAMPLES_ALWAYS if column not in samples]:
        raise ValueError(
            f"{path} has no column {', '.join(absent)}: its first line must name {', '.join(schema.SAMPLES_ALWAYS)}"
        )
    if "latency_ms" not in samples:
        samples = samples.assign(latency_ms=samples["host_ms"])
    lacking = [column for column in schema.SAMPLES if column not in samples]
    samples = samples.assign(**{column: math.nan if column in schema.SAMPLES_UNKNOWN else 0 for column in lacking})
    samples["throttle"] = samples["throttle"].fillna("")
    return samples


def answered(run_dir: Path) -> pd.DataFrame:
    """The samples of a run without those of blocks in which something else answered than the case says: they speak for
    nobody. Those of a block that failed otherwise are the case's own, whatever became of it later.

    Raises:
        ValueError: samples.csv without a column, or status.csv that is no table.
    """
    samples, foreign = load_samples(run_dir / "samples.csv"), foreign_blocks(run_dir / "status.csv")
    if not foreign:
        return samples
    return samples[[pair not in foreign for pair in zip(samples["case"], samples["block"], strict=True)]]


def throttled(reasons: pd.Series) -> pd.Series:
    """Which samples were taken while something slowed the card down; reasons are joined by '|'."""
    slow = {
        text: any(part.strip().lower() not in schema.UNTHROTTLED for part in str(text).split("|"))
        for text in reasons.unique()
    }
    return reasons.map(slow).astype(bool)


def make_tables(folder: Path) -> None:
    """`summarise`, and one sentence where a file is not as the harness wrote it. Raises ValueError."""
    with as_written(folder):
        summarise(folder)


@contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """One sentence for a file of the run that can't be read as what the harness wrote. Raises ValueError."""
    try:
        yield
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"a file of {folder} is not as the harness wrote it ({why}): no tables of it") from error


def summarise(run_dir: Path) -> None:
    """Write the four summary files of the run from its job.json, manifest.json, samples.csv and scores.

    A case without samples gets no row. Each file is whole or absent (harness/disk.py).

    Raises:
        ValueError: manifest.json or samples.csv is incomplete.
    """
    job = read_job(run_dir / "job.json")
    floor = load_floor(run_dir / "manifest.json")
    samples = answered(run_dir)
    write_table(run_dir / "ttft.csv", schema.TTFT, ttft_rows(job, samples, floor))
    write_table(run_dir / "p99.csv", schema.P99, p99_rows(job, samples))
    write_table(run_dir / "decode.csv", schema.DECODE, decode_rows(job, samples, floor))
    write_table(run_dir / "equivalence.csv", schema.EQUIVALENCE, equivalence.rows(run_dir, job, samples))


def clear(run_dir: Path, judged: bool = True) -> None:
    """Remove what `summarise` wrote, and unless told otherwise what the referee did: samples that come now would not
    be in it."""
    for name in ("ttft", "p99", "decode", "equivalence", *(["referee"] if judged else [])):
        (run_dir / f"{name}.csv").unlink(missing_ok=True)


def write_table(path: Path, columns: Sequence[str], rows: Iterator[Row]) -> None:
    """Write rows with exactly these columns; NaN and None are empty fields."""
    table = pd.DataFrame(list(rows), columns=list(columns))
    write_aside(path, table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def by_length(job: Job, samples: pd.DataFrame, window: Window) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """The timed requests of the iterations in a case's window, pooled over blocks, by case and prompt length."""
    timed = samples[samples["metric"] == "ttft"]
    groups = dict(iter(timed.groupby(["case", "prompt_length"])))
    for case in job.cases:
        first, end = window(case)
        for length in job.sweep.prompt_lengths:
            if (case, length) in groups:
                group = groups[case, length]
                group = group[group["iteration"].between(first, end - 1)]
                if len(group):
                    yield case, length, group


def ttft_rows(job: Job, samples: pd.DataFrame, floor: Floor) -> Iterator[Row]:
    """Rows of ttft.csv: one a case and prompt length, in milliseconds."""
    cold = samples[samples["metric"] == "cold"].groupby(["case", "prompt_length"])["latency_ms"].agg(statistics.median)
    for case, length, group in by_length(job, samples, lambda _: (0, job.sweep.ttft_iterations)):
        yield {
            "case": case,
            "prompt_length": length,
            "cold_ms": cold.get((case, length), math.nan),
            **location(group, floor.milliseconds(length)),
            "min_ms": group["latency_ms"].min(),
            **flags(group),
        }


def flags(group: pd.DataFrame) -> Row:
    """How many samples of a group hold a capture, ran without a graph or on a slowed card, or are no step."""
    return {
        "captures": int((group["captures"] > 0).sum()),
        "ungraphed": int((group["ungraphed"] > 0).sum()),
        "throttled": int(throttled(group["throttle"]).sum()),
        "coalesced": int((group["coalesced"] > 0).sum()),
    }


def location(group: pd.DataFrame, floor_ms: float) -> Row:
    """Where the latencies of a group lie, by each clock, and how far above the floor."""
    latency = group["latency_ms"].to_numpy()
    mean, std = statistics.mean_std(latency)
    p50 = statistics.quantile(latency, 0.5)
    return {
        "n": len(latency),
        "mean_ms": mean,
        "std_ms": std,
        "p50_ms": p50.value,
        "p50_low_ms": p50.low,
        "p50_high_ms": p50.high,
        "gpu_p50_ms": statistics.median(group["gpu_ms"].to_numpy()),
        "server_p50_ms": statistics.median(group["server_ms"].to_numpy()),
        "floor_ms": floor_ms,
        "ratio_to_floor": p50.value / floor_ms,
    }


def p99_rows(job: Job, samples: pd.DataFrame) -> Iterator[Row]:
    """Rows of p99.csv: one a case and prompt length, in milliseconds; P99 is NaN where n can't support it."""
    for case, length, group in by_length(job, samples, lambda case: job.sweep.p99_window(job.cases[case].warmup)):
        latency = group["latency_ms"].to_numpy()
        p99 = statistics.quantile(latency, 0.99)
        yield {
            "case": case,
            "prompt_length": length,
            "n": len(latency),
            "p50_ms": statistics.quantile(latency, 0.5).value,
            "p90_ms": statistics.quantile(latency, 0.9).value,
            "p99_ms": p99.value if p99.supported else math.nan,
            "p99_low_ms": p99.low,
            "p99_high_ms": p99.high,
            "max_ms": latency.max(),
            "supported": p99.supported,
        }


def decode_rows(job: Job, samples: pd.DataFrame, floor: Floor) -> Iterator[Row]:
    """Rows of decode.csv: one a case and context range, ends included, and one for the whole range."""
    decode = samples[samples["metric"] == "decode"]
    whole = (job.sweep.decode_prompt_length, job.sweep.decode_context)
    ranges = [(first, last) for first, last in job.sweep.context_ranges if (first, last) != whole]
    for case in job.cases:
        steps = decode[decode["case"] == case]
        for first, last in [*ranges, whole]:
            group = steps[steps["context_length"].between(first, last)]
            if len(group):
                p99 = statistics.quantile(group["latency_ms"].to_numpy(), 0.99)
                yield {
                    "case": case,
                    "context_from": first,
                    "context_to": last,
                    **location(group, floor.milliseconds(1)),
                    "p99_ms": p99.value if p99.supported else math.nan,
                    **flags(group),
                }
