"""The figures of a merged report: a panel a model and case, lines and points by GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import enriched, style
from reports.canvas import LEGEND_IN, WIDE_SPREAD, framed, legend_columns, log_axis
from reports.merge.gather import Sweep, model_of
from reports.merge.tables import facts
from reports.overview import whole_decode
from reports.plots import Plot
from reports.run import Run
from reports.style import Look

PANEL_IN = (3.3, 1.75)
MARGINS_IN = {"left": 0.75, "right": 0.2, "top": 0.85, "bottom": 0.75}
MOST_PANELS = 40
"""Panels beyond which a figure could not be read."""
MOST_TICKS = 8
LEVEL = 36
"""Characters of cases' names that have room beneath a panel without being turned."""
DODGE = 0.7  # of the room of a case, that its points take


def figures(sweep: Sweep) -> list[Plot]:
    """All figures, in the order of the report."""
    with mpl.rc_context(style.RC):
        found = [ttft_ratio(sweep), ttft(sweep)]
        return [*found, decode(sweep)] if any(run.decodes for run in sweep.runs) else found


def ttft_ratio(sweep: Sweep) -> Plot:
    """Median TTFT over the floor of its own GPU, by prompt length."""
    caption = "Median over the floor of the same GPU, by its own calibration; dashed: 1, the limit of the hardware."
    title = "Time to first token over the floor, by prompt length"
    columns = ("ratio_to_floor", "ratio_low", "ratio_high")
    return by_length(sweep, "ttft_ratio", title, "TTFT over floor", columns, caption)


def ttft(sweep: Sweep) -> Plot:
    """Median TTFT by prompt length."""
    title, columns = "Time to first token by prompt length (median)", ("p50_ms", "p50_low_ms", "p50_high_ms")
    return by_length(sweep, "ttft", title, "TTFT (ms)", columns, "Dashed: each GPU's floor of memory and arithmetic.")


def drawn_cases(sweep: Sweep, frame: Callable[[Run], pd.DataFrame], value: str) -> list[str]:
    """The titles of cases that have a value in some run."""
    there = {run.cases[case] for run in sweep.runs for case in set(frame(run).dropna(subset=[value])["case"])}
    return [title for title in sweep.titles if title in there]


def by_length(sweep: Sweep, name: str, title: str, what: str, columns: tuple[str, str, str], caption: str) -> Plot:
    """A row of panels a case and a column a model; a line a GPU, with a band where there are intervals."""
    cases = drawn_cases(sweep, enriched.ttft, columns[0])
    if not cases or len(cases) * len(sweep.models) > MOST_PANELS:
        why = (
            "no case has a value" if not cases else f"{len(cases) * len(sweep.models)} panels are more than can be read"
        )
        return Plot(name, title, caption, None, why)
    figure, grid = panels(len(cases), len(sweep.models))
    looks = style.series(sweep.gpus)
    for row, case in enumerate(cases):
        values = [1.0] if name == "ttft_ratio" else []
        for axes, model in zip(grid[row], sweep.models, strict=True):
            axes.set_title(f"{case}, {model}", fontsize=9, fontweight="normal", pad=4)
            for run in sweep.of_model(model):
                values += line(axes, run, case, columns, looks[run.gpu])
            if name == "ttft_ratio":
                axes.axhline(1, color=style.FLOOR, linestyle="--", linewidth=1.1)
        fit(grid[row], values, what)
    for axes in grid[-1]:
        axes.set_xlabel("Prompt length (tokens)")
    caption += " Each row has a scale of its own. Bands: exact 95 % intervals of the median."
    words = f"{caption}{without(sweep, cases)}{flagged(sweep)}"
    return finished(sweep, figure, name, title, words, pd.concat([run.ttft["n"] for run in sweep.runs]))


def line(axes: Axes, run: Run, title: str, columns: tuple[str, str, str], look: Look) -> list[float]:
    """A GPU's values of a case over prompt length, in ms with its floor; what was drawn."""
    value, low, high = columns
    frame = enriched.ttft(run).sort_values("prompt_length")
    rows = frame[frame["case"].map(run.cases).eq(title)].dropna(subset=[value])
    if rows.empty:
        return []
    x, every = rows["prompt_length"], max(1, math.ceil(len(rows) / MOST_TICKS))
    if low in rows and high in rows:
        axes.fill_between(x, rows[low], rows[high], color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(x, rows[value], color=look.colour, marker=look.marker, markersize=4, markevery=every, label=run.gpu)
    if value != "p50_ms":
        return list(rows[value])
    axes.plot(x, rows["floor_ms"], color=look.colour, linestyle="--", linewidth=1, alpha=0.7)
    return [*rows[value], *rows["floor_ms"].dropna()]


def decode(sweep: Sweep) -> Plot:
    """Decode latency over the whole range: a point a case and GPU, the GPU's floor beneath it."""
    title = "Decode latency over the whole range of contexts (median)"
    caption = "Dashes: each GPU's floor."
    if any(enriched.decode(run).get("p50_low_ms", pd.Series()).notna().any() for run in sweep.runs):
        caption += " Thin lines: 95 % intervals over blocks."
    cases = drawn_cases(sweep, whole_decode, "p50_ms")
    if not cases:
        return Plot("decode", title, caption, None, "no case has a value")
    figure, grid = panels(1, len(sweep.models), len(cases))
    level = len(cases) * max(map(len, cases)) <= LEVEL
    turned: dict[str, Any] = {} if level else {"rotation": 20, "ha": "right", "rotation_mode": "anchor"}
    looks, values = style.series(sweep.gpus), []
    for axes, model in zip(grid[0], sweep.models, strict=True):
        axes.set_title(model, fontsize=9, fontweight="normal", pad=4)
        for run in sweep.of_model(model):
            values += points(axes, run, cases, looks[run.gpu], place_of(run.gpu, sweep.gpus))
        axes.set_xticks(range(len(cases)), cases, fontsize=8.5, **turned)
        axes.set_xlim(-0.5, len(cases) - 0.5)
    fit(grid[0], values, "Latency (ms a token)")
    counts = pd.concat([whole_decode(run)["n"] for run in sweep.runs])
    words = f"{caption}{without(sweep, cases)}{flagged(sweep)}"
    return finished(sweep, figure, "decode", title, words, counts, bottom_in=0.5 if level else 0.82)


def place_of(gpu: str, gpus: Sequence[str]) -> float:
    """How far beside a case's middle a GPU's points stand."""
    return DODGE * ((gpus.index(gpu) + 0.5) / len(gpus) - 0.5)


def points(axes: Axes, run: Run, cases: Sequence[str], look: Look, beside: float) -> list[float]:
    """A GPU's points, one a case, with their floors and intervals; what was drawn."""
    first, last = run.whole
    frame = enriched.decode(run)
    frame = frame[(frame["context_from"] == first) & (frame["context_to"] == last)].dropna(subset=["p50_ms"])
    x = frame["case"].map(lambda case: cases.index(run.cases[case]) + beside)
    width = DODGE / 8
    axes.hlines(frame["floor_ms"], x - width, x + width, color=look.colour, linewidth=1.6)
    if {"p50_low_ms", "p50_high_ms"} <= set(frame):
        axes.vlines(x, frame["p50_low_ms"], frame["p50_high_ms"], color=look.colour, linewidth=1)
    axes.plot(x, frame["p50_ms"], color=look.colour, marker=look.marker, linestyle="none", label=run.gpu)
    return [*frame["p50_ms"], *frame["floor_ms"].dropna()]


def panels(rows: int, columns: int, cases: int = 0) -> tuple[Figure, list[list[Axes]]]:
    """A figure of panels; rows share the axis of latencies. Those of points are as wide as their cases need."""
    wide, high = PANEL_IN if not cases else (max(PANEL_IN[0], 0.75 * cases), 2.6)
    size = (max(wide * columns + MARGINS_IN["left"] + MARGINS_IN["right"], 6.4), high * rows + 2.0)
    figure = Figure(figsize=size)
    grid = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    return figure, [list(line) for line in grid]


def fit(line: Sequence[Axes], values: Sequence[float], what: str) -> None:
    """One axis for a row of panels: from zero, or logarithmic where values lie far apart."""
    wide = max(values) / min(values) > WIDE_SPREAD
    for axes in line:
        if wide:
            log_axis(axes, "y")
        else:
            axes.set_ylim(0, 1.06 * max(values))
    line[0].set_ylabel(what + (", log" if wide else ""))


def without(sweep: Sweep, cases: Iterable[str]) -> str:
    """A note on the cases that a figure does not show."""
    absent = [title for title in sweep.titles if title not in cases]
    return f" Not shown, for want of samples: {', '.join(absent)}." if absent else ""


def flagged(sweep: Sweep) -> str:
    """Notes on runs that were not alone or are not whole, and on cases that fail the comparison with the baseline."""
    beside, part = (
        ", ".join(f"{model_of(run)} on {run.gpu}" for run in sweep.runs if told(run))
        for told in (lambda run: run.neighbours, lambda run: run.unfinished)
    )
    words = f" Measured beside other runs of the same host: {beside}." if beside else ""
    words += f" Interrupted: {part}." if part else ""
    found = [
        f"{title} ({model_of(run)} on {run.gpu})"
        for run in sweep.runs
        for case, title in run.cases.items()
        if run.failed_equivalence(case)
    ]
    return words + (f" Fails the comparison with the baseline: {', '.join(found)}." if found else "")


def finished(
    sweep: Sweep, figure: Figure, name: str, title: str, caption: str, counts: pd.Series, bottom_in: float = 0.62
) -> Plot:
    """The figure with its legend, title, small print and watermark."""
    keys = {text: key for axes in figure.axes for key, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [gpu for gpu in sweep.gpus if gpu in keys]
    across, down = legend_columns(names)
    spot = (0.01, 1 - 0.36 / figure.get_figheight())
    figure.legend([keys[text] for text in names], names, frameon=False, ncols=across, loc="upper left",
                  fontsize=8.5, bbox_to_anchor=spot)  # fmt: skip
    top = MARGINS_IN["top"] + LEGEND_IN * (down - 1)
    right = 1 - MARGINS_IN["right"] / figure.get_figwidth()
    framed(figure, title, (caption, facts(sweep.runs, counts)), sweep.smoke, right, top, bottom_in)
    figure.subplots_adjust(left=MARGINS_IN["left"] / figure.get_figwidth(), hspace=0.32, wspace=0.12)
    return Plot(name, title, caption, figure)
