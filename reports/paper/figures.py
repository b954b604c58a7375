"""The published figures, drawn from the stated numbers."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import style
from reports.paper.audit import NAMES
from reports.paper.published import METRICS, SOURCES, TITLES, Published

SIZE = (9.4, 4.4)
FACTS = "Published figures, as stated; nothing here was measured by this harness."


def figures(paper: Published) -> dict[str, Figure]:
    """TTFT and P99 by prompt length in both texts, decode by context; by the stems of their files."""
    drawn = {f"paper_{metric}": by_length(paper, metric) for metric in METRICS}
    return {**drawn, "paper_decode": decode(paper)}


def sheet(title: str, caption: str, panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with its title above and its caption below."""
    figure = Figure(figsize=SIZE)
    axes = [figure.add_subplot(1, panels, place + 1) for place in range(panels)]
    figure.subplots_adjust(left=0.07, right=0.985, top=0.76, bottom=0.21, wspace=0.14)
    figure.text(0.015, 0.97, title, fontsize=11.5, fontweight="bold", va="top")
    for place, line in enumerate((FACTS, caption)):
        figure.text(0.015, 0.018 + 0.037 * place, line, fontsize=7.5, color=style.FAINT)
    return figure, axes


def by_length(paper: Published, metric: str) -> Figure:
    """Lines of the five cases, a panel a text, on one logarithmic scale: a cold start is ten times the rest."""
    caption = "Log scale. Hollow: marked as an estimate in the text."
    figure, panels = sheet(f"{NAMES[metric]} by prompt length, as published", caption, 2)
    tables = {source: paper.rows(source, metric) for source in ("readme", "draft")}
    low = min(table.min().min() for table in tables.values())
    high = max(table.max().max() for table in tables.values())
    for axes, (source, table) in zip(panels, tables.items(), strict=True):
        guessed = paper.estimates(source, metric)
        for case in table.columns:
            look = style.LOOKS[case]
            axes.plot(table.index, table[case], color=look.colour, marker=look.marker, markersize=5, label=TITLES[case])
            hollow = table[case][[(case, length) in guessed for length in table.index]]
            axes.plot(hollow.index, hollow, look.marker, color=look.colour, markerfacecolor="white", markersize=5)
        dress(axes, SOURCES[source], "Prompt length (tokens)", (low * 0.85, high * 1.2))
    panels[0].set_ylabel("Latency (ms)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.985, 0.925), ncols=len(labels), frameon=False)
    return figure


def dress(axes: Axes, title: str, label: str, limits: tuple[float, float]) -> None:
    """Title, scale and plain ticks of a panel."""
    axes.set_title(title, fontsize=9.5, fontweight="normal")
    axes.set_xlabel(label)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    ticks = [tick for tick in (5, 10, 20, 50, 100, 200) if limits[0] <= tick <= limits[1]]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def decode(paper: Published) -> Figure:
    """Mean and standard deviation of a decode step in each range of contexts."""
    caption = "Bars: one standard deviation. Width: the range of contexts that the mean is of."
    figure, (axes,) = sheet("Decode latency by context, as published: without a KV cache", caption, 1)
    look = style.LOOKS["jit_cuda_graph"]
    for row in paper.ranges.to_dict("records"):
        axes.hlines(row["mean_ms"], row["context_from"], row["context_to"], color=look.colour, linewidth=2.2)
        middle = (row["context_from"] + row["context_to"]) / 2
        axes.errorbar(
            middle, row["mean_ms"], row["std_ms"], color=look.colour, capsize=3, marker=look.marker, markersize=5
        )
    axes.set_xlabel("Context length (tokens)")
    axes.set_ylabel("Latency (ms a token)")
    axes.set_ylim(0, 1.1 * float((paper.ranges["mean_ms"] + paper.ranges["std_ms"]).max()))
    return figure
