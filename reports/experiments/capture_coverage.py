"""Capture every length: how many succeed, how long that takes, what memory the graphs hold and give back."""

from __future__ import annotations

import math

import pandas as pd

from reports import style
from reports.canvas import canvas, without_curve
from reports.experiments.draw import legend_above
from reports.experiments.section import PUBLISHED, Field, Record, Section, figure, first_block, stated, table_of
from reports.experiments.section import table_file as load
from reports.plots import Plot
from reports.run import Run
from reports.table import Table

GIB = 1024.0  # MiB
TITLE = "Capturing every length"
TEXT = (
    "Every prompt length gets a CUDA graph of its own, captured from the largest down: with one memory pool that all "
    "graphs share; with that pool and few of the graphs instantiated at a time, the others instantiated when they are "
    "wanted; with a pool for each graph. At the end all graphs are evicted, and the device's free memory is read "
    "before and after."
)


def section(run: Run) -> Section:
    """The table and the figure of the experiment."""
    return Section(TITLE, TEXT, [table(run)], [plot(run)])


def asked(run: Run, case: str, tried: pd.DataFrame) -> int:
    """How many lengths were to be captured: all up to the largest where each is a bucket, else those tried."""
    graph = run.manifest["config"]["cases"][case].get("graph", {})
    return int(graph["largest"]) if graph.get("buckets") == "exact" else tried["bucket"].nunique()


def prefill(captures: pd.DataFrame) -> pd.DataFrame:
    """The captures of prompt lengths: bucket 0 is the graph of a decode step."""
    return captures[captures["bucket"] > 0]


def record(run: Run, case: str) -> Record:
    """What a case's captures came to; memory in GiB."""
    captures, given = first_block(load(run, "captures"), case), first_block(load(run, "eviction"), case)
    tried = prefill(captures)
    good, bad = tried[tried["reason"] == ""], tried[tried["reason"] != ""].sort_values("order")
    held = float(given["held_mib"].iloc[0]) if len(given) else math.nan
    back = float((given["free_after_mib"] - given["free_before_mib"]).iloc[0]) if len(given) else math.nan
    return {
        "case": case,
        "asked": asked(run, case, tried) if len(captures) else math.nan,
        "captured": good["bucket"].nunique() if len(captures) else math.nan,
        "first_failure": float(bad["bucket"].iloc[0]) if len(bad) else math.nan,
        "failure_reason": str(bad["reason"].iloc[0]) if len(bad) else "",
        "seconds": good["seconds"].sum() if len(good) else math.nan,
        "median_ms": 1e3 * good["seconds"].quantile(0.5, interpolation="lower") if len(good) else math.nan,
        "memory_gib": captures["grown_mib"].sum() / GIB if len(captures) else math.nan,
        "held_gib": held / GIB,
        "returned_share": back / held if held > 0 else math.nan,
        "note": "" if len(captures) else f"{run.missing(case)[:-1]}: captures.csv has no row of it.",
    }


def published() -> Record:
    """What the published texts state."""
    failing = stated("capture_all_lengths", "first_failing_length", "jit_cuda_graph")
    return {
        "case": PUBLISHED,
        "asked": stated("capture_all_lengths", "capture_attempts", "jit_cuda_graph"),
        "captured": stated("capture_all_lengths", "captured", "jit_cuda_graph"),
        "first_failure": failing,
        "failure_reason": "out of memory",
        "seconds": math.nan,
        "median_ms": math.nan,
        "memory_gib": stated("capture_all_lengths", "graph_pool", "jit_cuda_graph"),
        "held_gib": math.nan,
        "returned_share": math.nan,
    }


def captured(row: Record) -> str:
    """How many of how many."""
    return "" if math.isnan(row["captured"]) else f"{row['captured']:.0f} of {row['asked']:.0f}"


def failure(row: Record) -> str:
    """The first length that failed, and why."""
    if math.isnan(row["captured"]):
        return ""
    return "none" if math.isnan(row["first_failure"]) else f"{row['first_failure']:.0f}: {row['failure_reason']}"


def share(row: Record) -> str:
    """What eviction returned of what the graphs held."""
    if math.isnan(row["returned_share"]):
        return "" if row["case"] == PUBLISHED or row.get("note") else "nothing held" if row["held_gib"] == 0 else ""
    return f"{row['returned_share']:.1%}"


def table(run: Run) -> Table:
    """One row a case, and the published one."""
    fields = [
        Field("Lengths captured", captured),
        Field("First failure, in tokens", failure, left=True),
        figure("All captures (s)", "seconds", 1),
        figure("Median capture (ms)", "median_ms", 1),
        figure("Graph memory (GiB)", "memory_gib", 2),
        Field("Returned by evicting all", share),
    ]
    words = (
        "Graph memory: device memory that the captures took, the graph of a decode step with them. Returned: growth of "
        "the device's free memory over what the graphs held; below 100 %: the driver keeps a part of each graph that "
        "was instantiated; above: it gave back more than the captures had taken. Seconds: captures of prompt lengths "
        "that succeeded. Published: one GPU of 93.12 GiB. n: lengths captured."
    )
    records = [*(record(run, case) for case in run.cases), published()]
    n = [row["captured"] for row in records[:-1] if not math.isnan(row["captured"])]
    return table_of(
        run, "capture_coverage", "Lengths captured, time and graph memory", fields, records, f"{words} {run.facts(n)}"
    )


def plot(run: Run) -> Plot:
    """Graph memory over the number of graphs, all cases, with the published end."""
    name, title = "capture_coverage", "Graph memory as graphs are captured"
    captures = load(run, "captures")
    good = {
        case: own[own["reason"] == ""].sort_values("order") for case in run.cases
        if len(own := prefill(first_block(captures, case)))
    }  # fmt: skip
    caption = "Lengths are captured from the largest down. Cross: where the published system ran out of memory."
    caption += without_curve(run, good)
    if not good:
        return Plot(name, title, caption, None, "captures.csv has no capture of a prompt length")
    figure, axes = canvas(run, title, caption, pd.Series([len(own) for own in good.values()]), right=0.97, top_in=0.78)
    for case, own in good.items():
        look = style.looks(run.cases)[case]
        held = own["grown_mib"].cumsum() / GIB
        axes.plot(range(1, len(own) + 1), held, color=look.colour, marker=look.marker,
                  markevery=max(1, len(own) // 10), label=run.cases[case])  # fmt: skip
    graphs, memory = published()["captured"], published()["memory_gib"]
    axes.plot([graphs], [memory], "x", color=style.PUBLISHED, markersize=9, markeredgewidth=2.2, label="Published")
    text = f"published: {graphs:.0f} graphs,\n{memory:g} GiB, then out of memory"
    axes.annotate(text, (graphs, memory), (-10, 0), textcoords="offset points", ha="right", va="center",
                  fontsize=8.5, color=style.PUBLISHED)  # fmt: skip
    axes.set_ylim(0, 1.1 * max([memory, *(own["grown_mib"].sum() / GIB for own in good.values())]))
    axes.set_xlim(left=0)
    axes.set_xlabel("Graphs captured")
    axes.set_ylabel("Graph memory (GiB)")
    legend_above(axes, 4)
    return Plot(name, title, caption, figure)
