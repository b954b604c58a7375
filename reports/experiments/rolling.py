"""A stream of random lengths through pools of few graphs: hits, latency, captures and memory over time."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from reports import style
from reports.canvas import SIZE, canvas, frame_of, without_curve
from reports.experiments.draw import ecdfs, legend_above
from reports.experiments.section import (
    INDEPENDENT,
    Field,
    Record,
    Section,
    estimate,
    figure,
    first_block,
    spread,
    table_file,
    table_of,
    timed,
)
from reports.floors import HEAD, OF_REQUESTS, of_requests
from reports.plots import Plot
from reports.quantiles import quantile
from reports.run import Run
from reports.table import Table

TITLE = "Rolling pools: a stream of random lengths"
TEXT = (
    "One request after the other, of lengths that are drawn at random, the same for every case, through pools that "
    "start empty and hold a few graphs. A graph that is missing is captured in the background while its request goes "
    "on without one, and the graph that was used the longest time ago makes room."
)
SETTLED = 1000
"""Requests after which memory should not grow any more."""
SERIES = {
    "graph_pool_mib": "Graph memory",
    "device_used_mib": "Device memory, beyond the first reading",
    "host_rss_mib": "Host memory of the process, beyond the first reading",
}


def section(run: Run) -> Section:
    """The tables and the figures of the experiment."""
    records = [record(run, case) for case in run.cases]
    return Section(
        TITLE, TEXT, [table(run, records), growth_table(run, records)], [hit_rate(run), memory(run), distribution(run)]
    )


def stream(run: Run, case: str) -> pd.DataFrame:
    """A case's stream, in the order of its requests, of its first block."""
    return first_block(timed(run, "stream"), case).sort_values("iteration")


def growth(readings: pd.DataFrame, column: str) -> float:
    """MiB from the first reading at or after the request SETTLED to the last; NaN without two such readings."""
    later = readings.loc[readings["request"] >= SETTLED, ["request", column]].dropna().sort_values("request")
    return float(later[column].iloc[-1] - later[column].iloc[0]) if len(later) > 1 else math.nan


def record(run: Run, case: str) -> Record:
    """What became of a stream: latencies in ms, memory in MiB.

    Captures are those of the whole process, made between requests as well. Each that is no longer in the pool at the
    end was evicted.
    """
    samples, readings = stream(run, case), first_block(table_file(run, "memory"), case).sort_values("request")
    captures = first_block(table_file(run, "captures"), case)
    latency, asked = samples["latency_ms"], samples["hits"].sum() + samples["misses"].sum()
    made, last = int((captures["reason"] == "").sum()), readings.tail(1)
    known = len(captures) > 0 and len(last) > 0
    return {
        "case": case,
        "n": len(latency),
        "hit_rate": samples["hits"].sum() / asked if asked else math.nan,
        **spread("p50_ms", quantile(latency, 0.5)),
        "floor_ms": of_requests(run, samples),
        **spread("p99_ms", quantile(latency, 0.99)),
        "p99_ms_max": latency.max(),
        "captures": made if len(captures) else math.nan,
        "failures": int((captures["reason"] != "").sum()) if len(captures) else math.nan,
        "evictions": made - float(last["graphs"].iloc[0]) if known else math.nan,
        "ungraphed": int((samples["ungraphed"] > 0).sum()) if len(samples) else math.nan,
        "graph_memory_mib": float(last["graph_pool_mib"].iloc[0]) if len(last) else math.nan,
        "device_growth_mib": growth(readings, "device_used_mib"),
        "host_growth_mib": growth(readings, "host_rss_mib"),
        "note": why_lacking(run, case, samples, captures, readings),
    }


def why_lacking(
    run: Run, case: str, samples: pd.DataFrame, captures: pd.DataFrame, readings: pd.DataFrame
) -> str:  # fmt: skip
    """Why a row has dashes."""
    title = run.cases[case]
    if samples.empty:
        return run.missing(case)
    lost = [name for name, frame in (("captures.csv", captures), ("memory.csv", readings)) if frame.empty]
    if lost:
        return f"No row of the case in {' or '.join(lost)}."
    if readings["request"].max() <= SETTLED:
        return f"Memory was read up to request {readings['request'].max():.0f} only: growth counts from {SETTLED} on."
    return f"{title}: the device's memory was not read."


def table(run: Run, records: list[Record]) -> Table:
    """One row a cap: hits, latencies, captures."""
    fields = [
        figure("Requests", "n", 0),
        Field("Hit rate", lambda row: "" if math.isnan(row["hit_rate"]) else f"{row['hit_rate']:.1%}"),
        estimate("P50 (ms)", "p50_ms"),
        figure(HEAD, "floor_ms"),
        estimate("P99 (ms)", "p99_ms"),
        figure("Captures", "captures", 0),
        figure("Failed", "failures", 0),
        figure("Evictions", "evictions", 0),
        figure("Without a graph", "ungraphed", 0),
    ]
    words = (
        "Hit rate: requests whose graph was there. Captures and evictions: of the whole process, the graph of a decode "
        f"step with them. {INDEPENDENT} A P99 needs n of at least 368; below it the maximum stands in its place. "
        f"{OF_REQUESTS}"
    )
    facts = f"{words} {run.facts(row['n'] for row in records if row['n'])}"
    return table_of(run, "rolling", "Hits, latency and captures by cap", fields, records, facts)


def growth_table(run: Run, records: list[Record]) -> Table:
    """One row a cap: what the graphs hold at the end, and what grew once the pool was full."""
    fields = [
        figure("Graph memory at the end (MiB)", "graph_memory_mib", 1),
        figure("Growth of device memory (MiB)", "device_growth_mib", 1),
        figure("Growth of host memory (MiB)", "host_growth_mib", 1),
    ]
    words = f"Growth: from the first reading at or after request {SETTLED} to the last. Device: all that is in use."
    facts = f"{words} {run.facts(row['n'] for row in records if row['n'])}"
    return table_of(run, "rolling_growth", "Graph memory and growth by cap", fields, records, facts)


def hit_rate(run: Run) -> Plot:
    """Hits so far over requests so far."""
    name, title = "rolling_hits", "Share of requests whose graph was there, so far"
    streams = {case: samples for case in run.cases if len(samples := stream(run, case))}
    caption = f"Cumulative: hits over prefills from the first request on.{without_curve(run, streams)}"
    if not streams:
        return Plot(name, title, caption, None, "no case has a stream of requests")
    figure_, axes = canvas(run, title, caption, pd.Series([len(s) for s in streams.values()]), right=0.97, top_in=0.78)
    for case, samples in streams.items():
        hits, misses = samples["hits"].cumsum(), samples["misses"].cumsum()
        look = style.looks(run.cases)[case]
        axes.plot(samples["iteration"] + 1, hits / (hits + misses), color=look.colour, label=run.cases[case])
    axes.set_ylim(0, 1)
    axes.set_xlabel("Requests")
    axes.set_ylabel("Hit rate so far")
    legend_above(axes, len(streams))
    return Plot(name, title, caption, figure_)


def memory(run: Run) -> Plot:
    """Graph, device and host memory over requests, a panel each; memory that was never read has none."""
    name, title = "rolling_memory", "Memory over the stream"
    found = table_file(run, "memory")
    readings = {case: own.sort_values("request") for case in run.cases if len(own := first_block(found, case))}
    series = [column for column in SERIES if any(own[column].notna().any() for own in readings.values())]
    long = any(own["request"].max() >= SETTLED for own in readings.values())
    caption = f"Dotted: request {SETTLED}, from which on growth is counted." if long else "Too short to count growth."
    caption += without_curve(run, readings)
    if absent := [SERIES[column].lower() for column in SERIES if column not in series]:
        caption += f" Not read: {', '.join(absent)}."
    if not series:
        return Plot(name, title, caption, None, "memory.csv has no reading")
    figure_ = Figure(figsize=(SIZE[0], 1.5 + 1.75 * len(series)))
    for axes, column in zip(figure_.subplots(len(series), 1, sharex=True, squeeze=False).flat, series, strict=True):
        for case, own in readings.items():
            look = style.looks(run.cases)[case]
            start = 0.0 if column == "graph_pool_mib" else own[column].dropna().head(1).sum()
            axes.plot(own["request"], own[column] - start, color=look.colour, label=run.cases[case], linewidth=1.4)
        axes.axvline(SETTLED, color=style.FAINT, linestyle=":", linewidth=1)
        axes.set_title(f"{SERIES[column]} (MiB)", fontsize=9, fontweight="normal", pad=4)
    figure_.axes[-1].set_xlabel("Requests")
    figure_.axes[-1].set_xlim(0, max(own["request"].max() for own in readings.values()))
    keys, names = figure_.axes[0].get_legend_handles_labels()
    figure_.legend(keys, names, frameon=False, ncols=len(names), loc="upper left", fontsize=8.5,
                   bbox_to_anchor=(0.06, 1 - 0.34 / figure_.get_figheight()))  # fmt: skip
    figure_.subplots_adjust(hspace=0.35)
    frame_of(run, figure_, title, caption, pd.Series(dtype=float), right=0.97, top_in=0.9)
    return Plot(name, title, caption, figure_)


def distribution(run: Run) -> Plot:
    """Latencies of the whole stream by cap."""
    samples = timed(run, "stream")
    looks = style.looks(run.cases)
    curves = {
        case: (title, samples.loc[samples["case"] == case, "latency_ms"], looks[case])
        for case, title in run.cases.items()
    }
    caption = "Empirical distribution of all requests of the stream, of every length."
    caption += without_curve(run, set(samples["case"]))
    return ecdfs(run, "rolling_ecdf", "Latency of a stream of random lengths", caption, curves)
