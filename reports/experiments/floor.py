"""How near the hybrid comes to what the card allows, beside the same graphs of plain operations."""

from __future__ import annotations

import math

import pandas as pd

from reports import style
from reports.canvas import canvas, end_labels, label
from reports.experiments.section import Field, Record, Section, figure, paper, table_of, timed
from reports.plots import Plot
from reports.quantiles import quantile
from reports.run import Run
from reports.table import Table

TITLE = "Over the floor"
TEXT = (
    "The floor of a prompt is the longer of its weights' bytes over the read bandwidth and its operations over the "
    "matmul rate, both calibrated before the run; a decode step reads all weights. JIT+CUDA stands beside CUDA Graph, "
    "the same model code in plain operations, both in the worker's process by its clock."
)
OURS, THEIRS = "jit_cuda_graph", "cuda_graph"
DECODE, AVERAGE = "Decode", "Average"


def section(run: Run) -> Section:
    """Both tables and the figure of the experiment."""
    rows = records(run)
    return Section(TITLE, TEXT, [table(run, rows), ready_table(run)], [plot(run, rows)])


def records(run: Run) -> list[Record]:
    """One record a prompt length, their average over the published lengths, and one for decode."""
    ttft, floors = timed(run, "ttft"), run.ttft.drop_duplicates("prompt_length").set_index("prompt_length")["floor_ms"]
    rows = [
        record(run, f"{length}", ttft[ttft["prompt_length"] == length], float(floors.get(length, math.nan)))
        for length in sorted(run.sweep["prompt_lengths"])
    ]
    beside(rows)
    steps, floor = timed(run, "decode"), run.decode["floor_ms"].dropna()
    last = [record(run, DECODE, steps, float(floor.iloc[0]) if len(floor) else math.nan)] if run.decodes else []
    return [*rows, *average(rows), *last]


def record(run: Run, name: str, samples: pd.DataFrame, floor: float) -> Record:
    """Medians of both cases in ms, ours over the floor and over theirs, and its P99 over its P50."""
    ours, theirs = (samples.loc[samples["case"] == case, "latency_ms"] for case in (OURS, THEIRS))
    median, other, tail = quantile(ours, 0.5)[0], quantile(theirs, 0.5)[0], quantile(ours, 0.99)[0]
    lacking = [run.missing(case) for case in (OURS, THEIRS) if case in run.cases and case not in set(samples["case"])]
    return {
        "label": name, "key": "Prompt tokens", "n": len(ours), "ours_p50_ms": median, "floor_ms": floor,
        "over_floor": median / floor, "p99_over_p50": tail / median, "theirs_p50_ms": other,
        "ours_over_theirs": median / other, "above_line": math.nan,
        "note": lacking[0] if lacking else "",
    }  # fmt: skip


def beside(rows: list[Record]) -> None:
    """How far each inner length lies above the straight line between its neighbours, as a share of that line."""
    for low, here, high in zip(rows, rows[1:], rows[2:], strict=False):
        a, x, b = (float(row["label"]) for row in (low, here, high))
        line = low["ours_p50_ms"] + (high["ours_p50_ms"] - low["ours_p50_ms"]) * (x - a) / (b - a)
        here["above_line"] = here["ours_p50_ms"] / line - 1


def average(rows: list[Record]) -> list[Record]:
    """The means over the lengths that are published too, of ratios the means of ratios; none without such a length."""
    wanted = set(paper("latency")["prompt_length"])
    found = pd.DataFrame([row for row in rows if float(row["label"]) in wanted])
    if found.empty:
        return []
    means = found.drop(columns=["label", "key", "note", "n", "above_line"]).mean(skipna=False)
    words = {"label": f"{AVERAGE} of the {len(found)} published", "key": "Prompt tokens", "n": found["n"].min()}
    return [{**words, **{str(key): value for key, value in means.items()}, "above_line": math.nan, "note": ""}]


def share(row: Record) -> str:
    """A signed share of the neighbours' line."""
    return "" if math.isnan(row["above_line"]) else f"{row['above_line']:+.1%}".replace("%", " %")


def table(run: Run, rows: list[Record]) -> Table:
    """One row a prompt length, their average, and decode."""
    ours, theirs = (run.cases.get(case, case) for case in (OURS, THEIRS))
    fields = [
        figure(f"P50, {ours} (ms)", "ours_p50_ms", 3), figure("Floor (ms)", "floor_ms", 3),
        figure("Over the floor", "over_floor", 3), figure("P99 over P50", "p99_over_p50", 3),
        figure(f"P50, {theirs} (ms)", "theirs_p50_ms", 3), figure(f"{ours} over {theirs}", "ours_over_theirs", 3),
        Field("Above its neighbours' line", share),
    ]  # fmt: skip
    graph = run.manifest["config"]["cases"].get(OURS, {}).get("graph") or {}
    padded = f" Prompts are padded to multiples of {graph['step']} tokens." if graph.get("buckets") == "step" else ""
    words = (
        "Average: over the lengths that the published tables have; of ratios, the mean of the ratios. Above its "
        f"neighbours' line: the P50 over the straight line between those of the lengths beside it.{padded}"
    )
    facts = f"{words} {run.facts(row['n'] for row in rows if row['n'])}"
    return table_of(run, "floor", "Latency over the floor, and over the control's", fields, rows, facts)


def ready_table(run: Run) -> Table:
    """From the start of a worker to a case that is ready, the loading of weights apart."""
    good = run.status[run.status["state"] == "ok"]
    rows: list[Record] = []
    for case in run.cases:
        own = good[good["case"] == case]
        ready, load = (float(own[key].median()) if len(own) else math.nan for key in ("ready_s", "load_s"))
        rows.append({"case": case, "n": len(own), "ready_s": ready, "load_s": load, "rest_s": ready - load})
    fields = [figure("Start to ready (s)", "ready_s", 1), figure("Of it weights (s)", "load_s", 1),
              figure("Without weights (s)", "rest_s", 1)]  # fmt: skip
    facts = f"Medians over processes. {run.facts(row['n'] for row in rows if row['n'])}"
    return table_of(run, "floor_ready", "From the start of a process to its first request", fields, rows, facts)


def plot(run: Run, rows: list[Record]) -> Plot:
    """Both cases over the floor by prompt length."""
    title, caption = "Time to first token over the floor", "Median over the floor: 1 is what the card allows."
    lengths = [row for row in rows if row["label"].isdecimal() and not math.isnan(row["floor_ms"])]
    if not lengths:
        return Plot("floor", title, caption, None, "there is no floor: nothing was calibrated")
    drawn, axes = canvas(run, title, caption, pd.Series([row["n"] for row in lengths]))
    ends = []
    for case, key in ((OURS, "ours_p50_ms"), (THEIRS, "theirs_p50_ms")):
        points = [(float(row["label"]), row[key] / row["floor_ms"]) for row in lengths if not math.isnan(row[key])]
        if points:
            look = style.LOOKS[case]
            axes.plot(*zip(*points, strict=True), color=look.colour, marker=look.marker)
            ends.append((points[-1][1], label(run, case), look.colour))
    axes.axhline(1.0, color=style.FLOOR, linestyle="--", linewidth=1.2)
    ends.append((1.0, "Floor", style.FLOOR))
    axes.set_ylim(0.9 * min(1.0, *(value for value, _, _ in ends)), None)
    axes.set_xlabel("Prompt length (tokens)")
    axes.set_ylabel("Times the floor")
    end_labels(axes, ends)
    return Plot("floor", title, caption, drawn)
