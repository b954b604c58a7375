"""What the socket adds: the same case in the worker's process and behind the server."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import style
from reports.blockwise import added
from reports.canvas import SIZE, frame_of
from reports.experiments.section import (
    Record,
    Section,
    estimate,
    figure,
    spread,
    stated,
    table_of,
    timed,
)
from reports.plots import Plot
from reports.quantiles import quantile
from reports.run import Run
from reports.table import Table

TITLE = "In process against over the socket"
TEXT = (
    "The same case twice: in the worker's own process, and in a server of its own behind a Unix socket. The client's "
    "clock covers the socket."
)
INSIDE, OUTSIDE = "inproc", "unix"
LEVELS = {"p50": 0.5, "p99": 0.99}
DECODE = "Decode"
BRACKETS = (
    "Brackets: 95 % intervals by Student's t over the differences of paired blocks, a process of each case in turn; "
    "none of fewer than three."
)


def section(run: Run) -> Section:
    """The table and the figure of the experiment."""
    rows = records(run)
    return Section(TITLE, TEXT, [table(run, rows)], [plot(run, rows)])


def records(run: Run) -> list[Record]:
    """One record a prompt length and one for decode; latencies and differences in ms."""
    ttft = timed(run, "ttft")
    rows = [
        record(run, f"{length}", ttft[ttft["prompt_length"] == length])
        | floor(run.ttft[run.ttft["prompt_length"] == length])
        for length in sorted(run.sweep["prompt_lengths"])
    ]
    if not run.decodes:
        return rows
    whole = run.decode[(run.decode["context_from"] == run.whole[0]) & (run.decode["context_to"] == run.whole[1])]
    return [*rows, record(run, DECODE, timed(run, "decode")) | floor(whole)]


def floor(cells: pd.DataFrame) -> Record:
    """What memory and arithmetic set for these cells of a summary, in ms, NaN where nobody measured it."""
    return {"floor_ms": float(cells["floor_ms"].min())}


def record(run: Run, label: str, samples: pd.DataFrame) -> Record:
    """Both quantiles of both cases, and what the socket adds to each."""
    ours, theirs = (samples[samples["case"] == case] for case in (OUTSIDE, INSIDE))
    found: Record = {"label": label, "key": "Prompt tokens", "n": min(len(ours), len(theirs))}
    for name, p in LEVELS.items():
        outside, inside = (quantile(side["latency_ms"], p) for side in (ours, theirs))
        found |= spread(f"{INSIDE}_{name}_ms", inside) | spread(f"{OUTSIDE}_{name}_ms", outside)
        found |= spread(f"added_{name}_ms", added(ours, theirs, p))
    lacking = [
        run.missing(case) for case in (INSIDE, OUTSIDE) if case not in set(samples["case"]) and case in run.cases
    ]
    found["note"] = lacking[0] if lacking else f"n = {found['n']} is too small: a P99 needs 368."
    return found


def claimed() -> tuple[float, float]:
    """The published range of the socket's cost in ms."""
    low, high = (stated("ipc", f"overhead_{end}", "jit_cuda_graph") for end in ("low", "high"))
    return low, high


def table(run: Run, rows: list[Record]) -> Table:
    """One row a prompt length, and decode."""
    titles = {case: run.cases.get(case, case) for case in (INSIDE, OUTSIDE)}
    fields = []
    for name in LEVELS:
        fields += [figure(f"{name.upper()}, {titles[case]} (ms)", f"{case}_{name}_ms", 3) for case in titles]
        fields += [estimate(f"Added to {name.upper()} (ms)", f"added_{name}_ms", 3)]
    fields += [figure("Floor (ms)", "floor_ms")]
    low, high = claimed()
    words = (
        f"Published for the socket: {low:g} to {high:g} ms. {BRACKETS} The quantiles' own intervals, in the .csv, take "
        "the samples for independent, pooled over blocks."
    )
    facts = f"{words} {run.facts(row['n'] for row in rows if row['n'])}"
    return table_of(run, "ipc", "Latency in process, over the socket, and what the socket adds", fields, rows, facts)


def plot(run: Run, rows: list[Record]) -> Plot:
    """What the socket adds to P50 and P99, with the published range."""
    name, title = "ipc", "What the socket adds"
    low, high = claimed()
    caption = f"Bars: the intervals in brackets. Shaded: the published {low:g} to {high:g} ms. {BRACKETS}"
    known = [level for level in LEVELS if any(not math.isnan(row[f"added_{level}_ms"]) for row in rows)]
    if absent := [level.upper() for level in LEVELS if level not in known]:
        caption += f" Not shown, for n is too small: {', '.join(absent)}."
    if not known:
        return Plot(name, title, caption, None, "there are no requests of both cases")
    figure = Figure(figsize=(SIZE[0], 1.6 + 1.9 * len(known)))
    for axes, level in zip(figure.subplots(len(known), 1, sharex=True, squeeze=False).flat, known, strict=True):
        panel(axes, rows, level)
    axes.set_xticks(range(len(rows)), [row["label"] if row["label"] != DECODE else "decode" for row in rows])
    axes.set_xlabel("TTFT by prompt length (tokens)" + (", and decode" if run.decodes else ""))
    figure.subplots_adjust(hspace=0.3)
    frame_of(run, figure, title, caption, pd.Series([row["n"] for row in rows]), right=0.97, top_in=0.7)
    return Plot(name, title, caption, figure)


def panel(axes: Axes, rows: list[Record], level: str) -> None:
    """What is added to one quantile, and the published range."""
    low, high = claimed()
    look = style.LOOKS["jit_cuda_graph"]
    axes.axhspan(low, high, color=style.PUBLISHED, alpha=0.12, linewidth=0)
    axes.axhline(0, color=style.FAINT, linewidth=0.8)
    value, below, above = (
        pd.Series([row[f"added_{level}_ms{end}"] for row in rows], dtype=float) for end in ("", "_low", "_high")
    )
    reach = [value - below, above - value]
    axes.errorbar(range(len(rows)), value, reach, fmt=look.marker, color=look.colour, elinewidth=1.2, capsize=3)
    axes.set_title(f"Added to {level.upper()} (ms)", fontsize=9, fontweight="normal", pad=4)
