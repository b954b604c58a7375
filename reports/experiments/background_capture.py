"""What a capture going on costs the requests beside it."""

from __future__ import annotations

import math

import pandas as pd

from reports import style
from reports.experiments.draw import ecdfs
from reports.experiments.section import (
    INDEPENDENT,
    Field,
    Record,
    Section,
    estimate,
    figure,
    seed_of,
    spread,
    table_of,
    timed,
)
from reports.floors import HEAD, OF_REQUESTS, of_requests
from reports.plots import Plot
from reports.quantiles import quantile, ratio
from reports.run import Run
from reports.table import Table

TITLE = "Requests beside background captures"
TEXT = (
    "The same timed requests twice. Quiet: before each stands an untimed request whose graph is there. Busy: before "
    "each stands one whose graph is missing, so that it is captured in the background while the timed request runs."
)
KINDS = {
    "quiet": "Quiet",
    "busy": "Busy, all",
    "capturing": "Busy, with a capture going on",
}
LOOKS = {"quiet": style.LOOKS["cuda_graph"], "busy": style.LOOKS["eager"], "capturing": style.LOOKS["jit_cuda_graph"]}


def section(run: Run) -> Section:
    """The table and the figure of the experiment."""
    return Section(TITLE, TEXT, [table(run)], [plot(run, case) for case in run.cases])


def kinds(run: Run, case: str) -> dict[str, pd.DataFrame]:
    """A case's timed requests of each kind."""
    quiet, busy = (rows[rows["case"] == case] for rows in (timed(run, "quiet"), timed(run, "busy")))
    return {"quiet": quiet, "busy": busy, "capturing": busy[busy["capturing"] > 0]}


def records(run: Run, case: str) -> list[Record]:
    """One record a kind of request, latencies in ms; the ratio is that of its P99 to the quiet P99."""
    found, rows = kinds(run, case), []
    quiet = found["quiet"]["latency_ms"]
    for kind, samples in found.items():
        latency = samples["latency_ms"]
        p99, factor = quantile(latency, 0.99), (math.nan, math.nan, math.nan)
        if kind != "quiet":
            factor = ratio(p99, quantile(quiet, 0.99), latency, quiet, 0.99, seed_of(run))
        title = f"{run.cases[case]}: " if len(run.cases) > 1 else ""
        rows.append(
            {
                "case": case,
                "label": title + KINDS[kind],
                "key": "Requests",
                "n": len(latency),
                "ungraphed": int((samples["ungraphed"] > 0).sum()),
                **spread("p50_ms", quantile(latency, 0.5)),
                "floor_ms": of_requests(run, samples),
                **spread("p99_ms", p99),
                "p99_ms_max": latency.max(),
                **spread("p99_ratio", factor),
                "note": "" if len(latency) else f"{run.cases[case]}: no such requests.",
            }
        )
    return rows


def over_quiet(row: Record) -> str:
    """The ratio of the P99s with its interval, or why there is none."""
    if row["label"].endswith(KINDS["quiet"]):
        return "reference"
    return estimate("", "p99_ratio", 2, "×").text(row) or ("n too small" if row["n"] else "")


def table(run: Run) -> Table:
    """One row a kind of request."""
    fields = [
        Field("n", lambda row: f"{row['n']}"),
        Field("Without a graph", lambda row: f"{row['ungraphed']}" if row["n"] else ""),
        estimate("P50 (ms)", "p50_ms", 3),
        figure(HEAD, "floor_ms", 3),
        estimate("P99 (ms)", "p99_ms", 3),
        Field("P99 over quiet P99", over_quiet),
    ]
    rows = [row for case in run.cases for row in records(run, case)]
    words = (
        f"{OF_REQUESTS} "
        "Brackets: 95 % intervals, between order statistics for P50 and P99, by the bootstrap over requests for the "
        f"ratio. {INDEPENDENT} All lengths are pooled, so the P99 is that of the longest ones. "
        "It needs n of at least 368; below that the maximum stands in its place. The timed requests find their graphs: "
        "what a request costs that has to go without one, another experiment (rolling) shows."
    )
    facts = f"{words} {run.facts(row['n'] for row in rows if row['n'])}"
    return table_of(run, "background_capture", "Latency by what runs beside the request", fields, rows, facts)


def plot(run: Run, case: str) -> Plot:
    """Distributions of the three kinds."""
    name = "background_capture" if len(run.cases) == 1 else f"background_capture_{case}"
    title = f"Requests with and without captures beside them, {run.cases[case]}"
    found = kinds(run, case)
    curves = {kind: (KINDS[kind], found[kind]["latency_ms"], LOOKS[kind]) for kind in KINDS}
    absent = [KINDS[kind] for kind in KINDS if found[kind].empty]
    caption = "Empirical distribution of the timed requests of all lengths: a step a length."
    if len(found["busy"]) and len(found["busy"]) == len(found["capturing"]):
        del curves["busy"]
        caption += " Every busy request had a capture going on."
    caption += f" Without a curve, for want of samples: {'; '.join(absent)}." if absent else ""
    return ecdfs(run, name, title, caption, curves)
