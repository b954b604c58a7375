"""The published experiments on the hybrid, beside the runs of ours on the same questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from reports.experiments import capture_coverage, coverage_policies
from reports.experiments import rolling as rolling_study
from reports.experiments.section import first_block, table_file, timed
from reports.paper.audit import HYBRID
from reports.paper.layout import beside, figure, made
from reports.paper.measures import average, counts
from reports.paper.published import TITLES, Published
from reports.paper.runs import Runs, absent
from reports.quantiles import quantile
from reports.run import Run
from reports.table import Cell, Notes, Table

GIB = 1024.0  # MiB
MISSING = "Not counted in this run."
NOT_STATED = "Not stated in the published texts."
Values = Mapping[str, float]
Ours = dict[str, Values]
"""Figures by the heading of their column or row, then by quantity; NaN where the run has none."""
DIGITS = {"graph_pool": 2, "allocated": 2, "weights": 2, "gpu_memory": 2, "mean_latency": 2,
          "overhead_low": 3, "overhead_high": 3}  # fmt: skip


def pairs(
    paper: Published, table: str, name: str, title: str, labels: dict[str, str], run: Run | None, study: str,
    of: Callable[[Run], Ours], facts: str = "", n: Sequence[float] = (),
) -> Table:  # fmt: skip
    """The stated figures of one experiment of the hybrid, and a column for each of the run's cases."""
    found = paper.stated[(paper.stated["table"] == table) & (paper.stated["case"] == HYBRID)]
    said = {row.quantity: (str(row.value), str(row.unit)) for row in found.itertuples()}
    ours = of(run) if run else {"Measured": {}}
    why, notes, rows = MISSING if run else absent(study), Notes(), []
    for quantity, label in labels.items():
        values = [
            Cell("none")
            if none_failed(quantity, line)
            else figure(line.get(quantity, math.nan), notes, why, DIGITS.get(quantity, 0), f" {said[quantity][1]}")
            for line in ours.values()
        ]
        rows.append([Cell(label), Cell(" ".join(said[quantity])), *values])
    frame = found.assign(**{head: found["quantity"].map(dict(line)).astype(float) for head, line in ours.items()})
    made_ = made(name, title, frame, ["Quantity", "Published", *ours], rows, notes=notes)
    return beside(made_, f"{facts} {run.facts(n)}" if run else "", [run])


def none_failed(quantity: str, line: Values) -> bool:
    """Whether there is no first failure because everything was captured."""
    return quantity == "first_failing_length" and line.get("captured", 0) > 0 and math.isnan(line[quantity])


def capture_success(paper: Published, runs: Runs) -> Table:
    """How many lengths could be captured."""
    labels = {
        "capture_attempts": "Lengths tried", "captured": "Captured", "first_failing_length": "First that failed",
        "graph_pool": "Graph pool", "allocated": "Allocated in all", "weights": "Weights",
        "gpu_memory": "Memory of the GPU",
    }  # fmt: skip
    facts = (
        "Ours are captured from the largest length down. Allocated: the peak of the process. Graph pool: device memory "
        "that the captures took."
    )
    title, run = "Capture success, as published and measured", runs.get("capture_coverage")
    return pairs(
        paper, "capture_all_lengths", "capture_success", title, labels, run, "capture_coverage", captured, facts
    )


def captured(run: Run) -> Ours:
    """What each case's captures came to; memory in GiB."""
    found: Ours = {}
    for case, title in run.cases.items():
        record = capture_coverage.record(run, case)
        peaks = run.status.loc[run.status["case"] == case, "peak_memory_gib"]
        found[f"Measured, {title}"] = {
            "capture_attempts": record["asked"], "captured": record["captured"],
            "first_failing_length": record["first_failure"], "graph_pool": record["memory_gib"],
            "allocated": float(peaks.max()), "weights": weights_gib(run), "gpu_memory": gpu_gib(run),
        }  # fmt: skip
    return found


def weights_gib(run: Run) -> float:
    """The model's weights in GiB, NaN where the manifest does not say."""
    return float(run.manifest.get("weight_bytes") or math.nan) / 2**30


def gpu_gib(run: Run) -> float:
    """The memory of the GPU in GiB, NaN without one."""
    return float(run.manifest["gpu"]["memory_mib"]) / GIB if run.manifest["gpu"] else math.nan


def rolling(paper: Published, runs: Runs) -> Table:
    """Statistics of rolling capture."""
    labels = {
        "lengths_tested": "Lengths tried", "succeeded": "Succeeded", "graphs_created": "Graphs created",
        "graphs_deleted": "Graphs deleted", "graphs_kept": "Graphs kept", "mean_latency": "Mean latency",
    }  # fmt: skip
    facts = (
        "Ours: a stream of random lengths through pools of few graphs. Lengths: those that a capture was tried for, "
        "bucketed; created, deleted and kept count the graph of a decode step too. The published mean holds the "
        "captures; ours go on in the background."
    )
    run, title = runs.get("rolling"), "Rolling capture, as published and measured"
    n = [len(rolling_study.stream(run, case)) for case in run.cases] if run else []
    return pairs(paper, "rolling_capture", "rolling", title, labels, run, "rolling", streamed, facts, n)


def streamed(run: Run) -> Ours:
    """What became of each case's stream."""
    found: Ours = {}
    for case, title in run.cases.items():
        record = rolling_study.record(run, case)
        tried = capture_coverage.prefill(first_block(table_file(run, "captures"), case))
        found[f"Measured, {title}"] = {
            "lengths_tested": tried["bucket"].nunique() or math.nan,
            "succeeded": tried.loc[tried["reason"] == "", "bucket"].nunique() or math.nan,
            "graphs_created": record["captures"], "graphs_deleted": record["evictions"],
            "graphs_kept": record["captures"] - record["evictions"],
            "mean_latency": float(rolling_study.stream(run, case)["latency_ms"].mean()),
        }  # fmt: skip
    return found


Quantities = Mapping[str, tuple[str, int]]
"""A stated quantity: its heading, and with how many decimals."""
SHORT = {
    "mean_latency": "mean (ms)", "speedup": "speed-up", "lengths_captured_of_500": "captured",
    "graphs": "graphs", "graph_memory": "memory (GiB)",
}  # fmt: skip


def grid(
    paper: Published, name: str, title: str, cases: Mapping[str, str], quantities: Quantities, run: Run | None,
    study: str, of: Callable[[Run], Ours], facts: str = "", n: Sequence[float] = (),
) -> Table:  # fmt: skip
    """A line a case, two columns a quantity, stated and measured; a dash where there is none."""
    found = paper.stated[paper.stated["table"] == name]
    ours, why, notes = of(run) if run else {}, MISSING if run else absent(study), Notes()
    rows, lines = [], []
    for case, label in cases.items():
        said = found[found["case"] == case].set_index("quantity")["value"].astype(float).to_dict()
        known = ours.get(case, {})
        cells = [figure(said.get(key, math.nan), notes, NOT_STATED, digits) for key, (_, digits) in quantities.items()]
        cells += [figure(known.get(key, math.nan), notes, why, digits) for key, (_, digits) in quantities.items()]
        lines += [{"case": case, "quantity": key, "measured": known.get(key, math.nan)} for key in quantities]
        rows.append([Cell(label), *cells])
    frame = found.merge(pd.DataFrame(lines), on=["case", "quantity"], how="outer").assign(table=name)
    columns = ["Case", *(head for head, _ in quantities.values())]
    columns += [f"Measured: {SHORT[key]}" for key in quantities]
    table = made(name, title, frame, columns, rows, notes=notes)
    return beside(table, f"{facts} {run.facts(n)}" if run else "", [run])


def ablation(paper: Published, runs: Runs) -> Table:
    """The published ablation."""
    cases = {"native_python": "Native Python", **{case: TITLES[case] for case in ("jit", "cuda_graph", HYBRID)}}
    quantities = {
        "mean_latency": ("Mean latency (ms)", 2),
        "speedup": ("Speed-up", 1),
        "lengths_captured_of_500": ("Lengths captured of 500", 0),
    }
    run = runs.get("ablation")
    facts = (
        "Measured: mean TTFT, averaged over the lengths, and the speed-up over the eager control, which stands for "
        f"native Python. {asked_of(run)}n a length and case."
    )
    n = counts(run, "ttft") if run else []
    title = "Ablation, as published and measured"
    return grid(paper, "ablation", title, cases, quantities, run, "ablation", halves, facts, n)


def asked_of(run: Run | None) -> str:
    """How many lengths each case of the run was asked to capture, as a sentence."""
    if run is None:
        return ""
    parts = [f"{title} {asked:.0f}" for case, title in run.cases.items() if (asked := tally(run, case)[1])]
    return f"Lengths that were to be captured: {', '.join(parts)}. " if parts else ""


def tally(run: Run, case: str) -> tuple[int, int]:
    """How many lengths a case captured, and how many it tried to: of its first block."""
    tried = capture_coverage.prefill(first_block(table_file(run, "captures"), case))
    return tried.loc[tried["reason"] == "", "bucket"].nunique(), tried["bucket"].nunique()


def halves(run: Run) -> Ours:
    """Mean latency in ms, speed-up and captures of the four cells."""
    native = average(run, "ttft", "eager")
    found: Ours = {}
    for case, theirs in (("eager", "native_python"), ("jit", "jit"), ("cuda_graph", "cuda_graph"), (HYBRID, HYBRID)):
        mean = average(run, "ttft", case)
        good, tried = tally(run, case)
        found[theirs] = {
            "mean_latency": mean,
            "speedup": native / mean,
            "lengths_captured_of_500": good if tried else math.nan,
        }
    return found


def coverage(paper: Published, runs: Runs) -> Table:
    """The published coverage strategies."""
    cases = {"full_1_500": "Every length from 1 to 500", "every_10th": "Every 10th", "powers_of_2": "Powers of two"}
    quantities = {
        "graphs": ("Graphs", 0),
        "graph_memory": ("Graph memory (GiB)", 2),
        "mean_latency": ("Mean latency (ms)", 2),
    }
    run = runs.get("coverage_policies")
    facts = "Measured: mean TTFT of all lengths from 1 to 500, pooled. n: requests."
    n = [record["n"] for case in run.cases if (record := coverage_policies.record(run, case))["n"]] if run else []
    title = "Coverage strategies, as published and measured"
    return grid(paper, "coverage", title, cases, quantities, run, "coverage_policies", policies, facts, n)


def policies(run: Run) -> Ours:
    """Graphs, memory in GiB and mean latency in ms of each policy that was published."""
    found: Ours = {}
    for case, theirs in coverage_policies.PUBLISHED_AS.items():
        if case in run.cases:
            record = coverage_policies.record(run, case)
            found[theirs] = {
                "graphs": record["graphs"], "graph_memory": record["memory_gib"], "mean_latency": record["mean_ms"],
            }  # fmt: skip
    return found


def socket(paper: Published, runs: Runs) -> Table:
    """What the socket is said to cost."""
    labels = {"overhead_low": "Least", "overhead_high": "Most"}
    facts = (
        "Measured: added to the median TTFT of a length, the least and the most of all lengths; n a length and case."
    )
    run, title = runs.get("ipc"), "Overhead of the Unix socket, as published and measured"
    n = counts(run, "ttft") if run else []
    return pairs(paper, "ipc", "ipc", title, labels, run, "ipc", overhead, facts, n)


def overhead(run: Run) -> Ours:
    """The least and the most that the socket adds to the median TTFT of a length, in ms."""
    added = list(socket_adds(run).values())
    return {"Measured": {"overhead_low": min(added), "overhead_high": max(added)} if added else {}}


def socket_adds(run: Run) -> dict[int, float]:
    """What the socket adds to the median TTFT, in ms by length, of the run with one case in and out of process."""
    samples, found = timed(run, "ttft"), {}
    for length in sorted(run.sweep["prompt_lengths"]):
        own = samples[samples["prompt_length"] == length]
        outside, inside = (own.loc[own["case"] == case, "latency_ms"] for case in ("unix", "inproc"))
        if len(outside) and len(inside):
            found[length] = quantile(outside, 0.5).value - quantile(inside, 0.5).value
    return found
