"""Which lengths get a graph: graphs, memory and time to capture against the latency at every length."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import pandas as pd

from reports import style
from reports.canvas import canvas, scale, without_curve
from reports.experiments.capture_coverage import GIB, prefill
from reports.experiments.draw import legend_above
from reports.experiments.section import (
    INDEPENDENT,
    Record,
    Section,
    estimate,
    figure,
    first_block,
    spread,
    stated,
    table_file,
    table_of,
    timed,
)
from reports.floors import HEAD, OF_REQUESTS, of_requests
from reports.plots import Plot
from reports.quantiles import quantile
from reports.run import Run
from reports.table import Table

TITLE = "Coverage: which lengths get a graph"
TEXT = (
    "A prompt is padded to the next length that has a graph. More graphs pad less and cost more memory and time to "
    "capture. Every length of the sweep is asked for equally often."
)
PUBLISHED_AS = {"full": "full_1_500", "every_10th": "every_10th", "pow2": "powers_of_2"}


def section(run: Run) -> Section:
    """The table and the figure of the experiment."""
    return Section(TITLE, TEXT, [table(run)], [plot(run)])


def padding(edges: Sequence[float], lengths: Sequence[float]) -> float:
    """Mean number of tokens that a prompt is padded by; NaN when a length is beyond the largest edge."""
    edges = sorted(edges)
    places = [bisect_left(edges, length) for length in lengths]
    if not lengths or max(places) == len(edges):
        return math.nan
    return sum(edges[place] - length for place, length in zip(places, lengths, strict=True)) / len(lengths)


def record(run: Run, case: str) -> Record:
    """What a policy costs and gives; beside it what is published of the same policy, memory in GiB, latency in ms."""
    captures = first_block(table_file(run, "captures"), case)
    good = captures[captures["reason"] == ""]
    edges = sorted(set(prefill(good)["bucket"]))
    samples = timed(run, "ttft")
    latency = samples.loc[samples["case"] == case, "latency_ms"]
    theirs = PUBLISHED_AS.get(case, "")
    p50 = quantile(latency, 0.5)
    return {
        "case": case,
        "n": len(latency),
        "graphs": len(edges) if len(captures) else math.nan,
        "memory_gib": good["grown_mib"].sum() / GIB if len(captures) else math.nan,
        "seconds": good["seconds"].sum() if len(captures) else math.nan,
        "padding": padding(edges, list(run.sweep["prompt_lengths"])),
        "mean_ms": latency.mean(),
        **spread("p50_ms", p50),
        "floor_ms": of_requests(run, samples[samples["case"] == case]),
        "published_graphs": stated("coverage", "graphs", theirs),
        "published_memory_gib": stated("coverage", "graph_memory", theirs),
        "published_mean_ms": stated("coverage", "mean_latency", theirs),
    }


def table(run: Run) -> Table:
    """One row a policy."""
    fields = [
        figure("Graphs", "graphs", 0),
        figure("Graph memory (GiB)", "memory_gib", 2),
        figure("Captures (s)", "seconds", 1),
        figure("Mean padding (tokens)", "padding", 1),
        figure("Mean (ms)", "mean_ms"),
        estimate("P50 (ms)", "p50_ms"),
        figure(HEAD, "floor_ms"),
        figure("Published: graphs", "published_graphs", 0),
        figure("Published: memory (GiB)", "published_memory_gib"),
        figure("Published: mean (ms)", "published_mean_ms"),
    ]
    lengths = run.sweep["prompt_lengths"]
    words = (
        f"Latency: TTFT of all requests at the {len(lengths)} lengths from {min(lengths)} to {max(lengths)}, pooled. "
        f"{OF_REQUESTS} "
        f"Memory and seconds count the graph of a decode step too. {INDEPENDENT} "
        "A dash under Published: not stated there. n: requests."
    )
    records = [record(run, case) for case in run.cases]
    facts = f"{words} {run.facts([row['n'] for row in records if row['n']])}"
    return table_of(run, "coverage_policies", "What each coverage costs and gives", fields, records, facts)


def plot(run: Run) -> Plot:
    """Median latency by length, one line a policy."""
    name, title = "coverage_policies", "TTFT at every length"
    caption = "Median of the requests of each length; n is that of a length."
    caption += without_curve(run, set(run.ttft["case"]))
    if run.ttft.empty:
        return Plot(name, title, caption, None, "no case has timed requests")
    figure_, axes = canvas(run, title, caption, run.ttft["n"], right=0.97, top_in=0.78)
    for case, look in style.looks(run.cases).items():
        own = run.ttft[run.ttft["case"] == case].sort_values("prompt_length")
        if len(own):
            axes.plot(own["prompt_length"], own["p50_ms"], color=look.colour, linewidth=1.2, label=run.cases[case])
    floors = run.ttft.drop_duplicates("prompt_length").sort_values("prompt_length")
    if floors["floor_ms"].notna().any():
        axes.plot(floors["prompt_length"], floors["floor_ms"], color=style.FLOOR, linestyle="--", label="Floor")
    axes.set_xlabel("Prompt length (tokens)")
    scale(axes, pd.Series(run.ttft["p50_ms"]))
    legend_above(axes, len(run.cases) + 1)
    return Plot(name, title, caption, figure_)
