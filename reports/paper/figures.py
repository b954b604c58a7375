"""The published figures, drawn from the stated numbers, with a further panel of what was measured."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import style
from reports.canvas import stamp
from reports.paper.audit import NAMES
from reports.paper.measures import counts, decode_range, decoder, latencies, steps
from reports.paper.published import METRICS, SOURCES, TITLES, Published
from reports.paper.runs import PAPER, Missing, Runs, absent, five
from reports.run import Run
from reports.style import Look

SIZE = (9.6, 4.5)
FACTS = "Published: as stated, not measured by this harness."
MEASURED = "Measured, paper's protocol"
WRAP = 165
LINE = 0.037
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


CAPTIONS = {
    "ttft": "Log scale. Hollow: marked as an estimate in the text.",
    "p99": "Log scale. P99 as published: by linear interpolation over 100 requests.",
}


def figures(paper: Published, runs: Runs) -> dict[str, Figure]:
    """TTFT and P99 by prompt length in both texts, decode by context; by the stems of their files."""
    drawn = {f"paper_{metric}": by_length(paper, metric, runs) for metric in METRICS}
    return {**drawn, "paper_decode": decode(paper, runs)}


def sheet(title: str, caption: str, facts: str, panels: int, top: float = 0.78) -> tuple[Figure, list[Axes]]:
    """A figure with its title above, its caption and facts below; its panels have the same axes."""
    figure = Figure(figsize=SIZE)
    axes = list(figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False).flat)
    lines = [*textwrap.wrap(caption, WRAP), *textwrap.wrap(facts, WRAP)]
    figure.subplots_adjust(left=0.07, right=0.985, top=top, bottom=0.13 + LINE * len(lines), wspace=0.08)
    figure.text(0.015, 0.97, title, fontsize=11.5, fontweight="bold", va="top")
    for place, line in enumerate(reversed(lines)):
        figure.text(0.015, 0.018 + LINE * place, line, fontsize=7.5, color=style.FAINT)
    return figure, axes


def facts_of(run: Run | None, n: list[int]) -> str:
    """What is published, and what the measured panel is made of."""
    return f"{FACTS} Measured: {run.facts(n)}" if run else f"{FACTS} {absent(PAPER)}"


def look_of(case: str) -> Look:
    """A case's colour and marker; what stands in TensorRT-LLM's place shares the colour and not the marker."""
    return style.LOOKS.get(case, Look(style.LOOKS["tensorrt_llm"].colour, "X"))


def by_length(paper: Published, metric: str, runs: Runs) -> Figure:
    """Lines of the five cases, a panel a text and one of the run, on one logarithmic scale."""
    run = runs.paper
    caption = CAPTIONS[metric]
    facts = facts_of(run, counts(run, metric) if run else [])
    figure, panels = sheet(f"{NAMES[metric]} by prompt length, as published and measured", caption, facts, 3)
    tables = {source: paper.rows(source, metric) for source in ("readme", "draft")}
    measured = latencies(run, metric)[five(run)].dropna(axis=1, how="all") if run else pd.DataFrame()
    every = pd.concat([*tables.values(), measured]).stack().dropna()
    limits = (float(every.to_numpy().min()) * 0.85, float(every.to_numpy().max()) * 1.2)
    for axes, (source, table) in zip(panels, tables.items(), strict=False):
        curves(axes, table, TITLES, paper.estimates(source, metric))
        dress(axes, SOURCES[source], "Prompt length (tokens)", limits)
    curves(panels[-1], measured, run.cases if run else {}, set())
    dress(panels[-1], MEASURED, "Prompt length (tokens)", limits)
    close(panels[-1], run, empty=measured.empty)
    panels[0].set_ylabel("Latency (ms)")
    legend(figure, panels)
    return figure


def curves(axes: Axes, table: pd.DataFrame, titles: dict[str, str], guessed: set[tuple[str, int]]) -> None:
    """A line a case, estimates hollow."""
    for case in map(str, table.columns):
        look = look_of(case)
        axes.plot(table.index, table[case], color=look.colour, marker=look.marker, markersize=5, label=titles[case],
                  linestyle="-" if case in style.LOOKS else "--")  # fmt: skip
        hollow = table[case][[(case, length) in guessed for length in table.index]]
        axes.plot(hollow.index, hollow, look.marker, color=look.colour, markerfacecolor="white", markersize=5)


def legend(figure: Figure, panels: list[Axes]) -> None:
    """The cases of all panels, once each."""
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(list(found.values()), list(found), loc="upper left", bbox_to_anchor=(0.06, 0.925), ncols=len(found),
                  frameon=False, fontsize=8.5, columnspacing=1.2)  # fmt: skip


def close(axes: Axes, run: Run | None, empty: bool) -> None:
    """The watermark of a smoke run; or why the panel is empty."""
    if empty:
        why = absent(PAPER).replace(": ", ":\n") if run is None else "No samples in this run"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=style.FAINT)
    if run is not None and run.smoke:
        stamp(axes)


def dress(axes: Axes, title: str, label: str, limits: tuple[float, float]) -> None:
    """Title, scale and plain ticks of a panel."""
    axes.set_title(title, fontsize=9.5, fontweight="normal")
    axes.set_xlabel(label)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def decode(paper: Published, runs: Runs) -> Figure:
    """Mean and standard deviation of a decode step in each range of contexts."""
    run, found = runs.paper, pd.DataFrame()
    caption = "Bars: one standard deviation. Width: the range of contexts that the mean is of."
    try:
        found = steps(runs.need(PAPER))
        caption += " Thin: mean of each context."
    except Missing as missing:
        caption += f" {missing}." if run else ""
    title = "Decode latency by context, as published and measured: without a KV cache"
    figure, (left, right) = sheet(title, caption, facts_of(run, [len(found)] if len(found) else []), 2, top=0.86)
    pairs = list(zip(paper.ranges["mean_ms"], paper.ranges["std_ms"], strict=True))
    bars(left, paper, pairs)
    left.set_title(f"Published ({SOURCES['draft'].lower()})", fontsize=9.5, fontweight="normal")
    right.set_title(MEASURED, fontsize=9.5, fontweight="normal")
    if run and len(found):
        ours = [decode_range(found, *ends) for ends in paper.ranges[["context_from", "context_to"]].to_numpy().tolist()]
        each = found.groupby("context_length")["latency_ms"].mean()
        right.plot(each.index, each, color=style.FLOOR, linewidth=0.8, zorder=1)
        bars(right, paper, ours)
        right.set_title(f"{MEASURED}: {run.cases[decoder(run)]}", fontsize=9.5, fontweight="normal")
        pairs += ours
    close(right, run, empty=not len(found))
    left.set_ylabel("Latency (ms a token)")
    left.set_ylim(0, 1.1 * max(mean + (std if std == std else 0) for mean, std in pairs if mean == mean))
    for axes in (left, right):
        axes.set_xlabel("Context length (tokens)")
    return figure


def bars(axes: Axes, paper: Published, pairs: list[tuple[float, float]]) -> None:
    """A mean over the width of each range, with its standard deviation."""
    look = style.LOOKS["jit_cuda_graph"]
    for row, (mean, std) in zip(paper.ranges.to_dict("records"), pairs, strict=True):
        first, last = row["context_from"], row["context_to"]
        axes.hlines(mean, first, last, color=look.colour, linewidth=2.2)
        axes.errorbar((first + last) / 2, mean, std, color=look.colour, capsize=3, marker=look.marker, markersize=5)
