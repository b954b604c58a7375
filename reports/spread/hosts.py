"""What the hosts have to do with it, as a figure: of every pair of machines how far each case moved, over how much
slower the one host's loop was than the other's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports import style
from reports.canvas import framed
from reports.plots import Plot
from reports.run import Run
from reports.spread.pairs import Between
from reports.spread.tables import facts_of

NAME, TITLE = "spread_hosts", "Does a case follow the host? Every pair of machines"
WIDTH_IN, LEFT_IN, TOP_IN, BELOW_IN, GAP_IN = 7.6, 0.75, 0.95, 0.62, 0.42
LOWEST_IN, HIGHEST_IN = 1.5, 3.2
"""Of a panel; both axes have one scale, so that it follows from what is to be shown."""
METRICS = ("TTFT", "Decode")
"""P99s follow what happened in a minute rather than a host's speed."""
CAPTION = (
    "A mark a pair and case: the geometric mean over the cells of the machine with the slower host over the other one. "
    "On the dashed line a case is slower by as much as the host's loop beside its samples; on the line at 1 it does "
    "not follow the host. Both axes have one log scale."
)
UNTIMED = "a run did not time the host's loop"


class Window(NamedTuple):
    """What a panel shows, in logarithms, and how high it is in inches."""

    right: float
    low: float
    high: float
    height: float


def hosts_figure(found: Sequence[Between], runs: Sequence[Run]) -> Plot:
    """One metric below the other, or the reason why there is no figure."""
    told = [one for one in found if one.move.metric in METRICS and math.isfinite(one.move.host)]
    caption = f"{CAPTION} {facts_of(runs)}"
    if not told:
        return Plot(NAME, TITLE, caption, None, UNTIMED)
    metrics = [metric for metric in METRICS if any(one.move.metric == metric for one in told)]
    window = window_of(np.array([turned(one) for one in told]))
    figure = Figure(figsize=(WIDTH_IN, 1.0))
    panels = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    looks = style.looks(style.places({one.move.case for one in told}))
    for axes, metric in zip(panels, metrics, strict=True):
        panel(axes, [one for one in told if one.move.metric == metric], looks, window)
        axes.set_title(metric, fontsize=9.5, pad=4, loc="left", fontweight="bold")
    panels[-1].set_xlabel("host's loop, slower over quicker", fontsize=8.5)
    high = len(metrics) * window.height + (len(metrics) - 1) * GAP_IN
    framed(figure, TITLE, [caption], any(run.smoke for run in runs), 0.98, TOP_IN, BELOW_IN, high)
    figure.subplots_adjust(hspace=GAP_IN / window.height, left=LEFT_IN / WIDTH_IN)
    legend(figure, {one.move.case: one.move.title for one in told}, looks)
    return Plot(NAME, TITLE, caption, figure)


def window_of(points: np.ndarray) -> Window:
    """Room for all points of [n, 2] with one scale on both axes."""
    wide = WIDTH_IN * 0.98 - LEFT_IN
    right = 1.04 * max(points[:, 0].max(), 0.02)
    low, high = min(points[:, 1].min(), 0.0), max(points[:, 1].max(), 0.0)
    room = 0.08 * (high - low) + 0.005
    low, high = low - room, high + room
    right = max(right, (high - low) * wide / HIGHEST_IN)
    high = max(high, low + right * LOWEST_IN / wide)
    return Window(right, low, high, (high - low) / right * wide)


def panel(axes: Axes, found: Sequence[Between], looks: dict[str, style.Look], window: Window) -> None:
    """One metric: across the hosts' loops, upwards the cases."""
    axes.axhline(0, color="#444444", linewidth=0.8, zorder=1)
    axes.axline((0, 0), slope=1, color=style.FLOOR, linewidth=1.0, linestyle="--", zorder=1)
    for case, look in looks.items():
        own = np.array([turned(one) for one in found if one.move.case == case]).reshape(-1, 2)
        axes.plot(*own.T, look.marker, color=look.colour, markersize=4.5, alpha=0.75, zorder=3, clip_on=False)
    axes.set_xlim(0, window.right)
    axes.set_ylim(window.low, window.high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(Ratios())
        axis.set_major_formatter(FuncFormatter(lambda log, _: f"{math.exp(log):.3g}"))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("case, slower host\nover quicker", fontsize=8.5)


class Ratios(MaxNLocator):
    """Plain ratios on an axis of logarithms."""

    def __init__(self) -> None:
        super().__init__(nbins=6, steps=[1, 2, 5, 10])

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """See matplotlib's MaxNLocator."""
        return [math.log(ratio) for ratio in super().tick_values(math.exp(vmin), math.exp(vmax)) if ratio > 0]


def turned(one: Between) -> tuple[float, float]:
    """Logarithms of the host's ratio and of the case's, from the quicker host to the slower."""
    host, mean = math.log(one.move.host), math.log(one.move.mean)
    return (host, mean) if host >= 0 else (-host, -mean)


def legend(figure: Figure, titles: dict[str, str], looks: dict[str, style.Look]) -> None:
    """The cases' marks above the panels."""
    handles = [
        Line2D([], [], linestyle="none", marker=look.marker, color=look.colour, label=titles[case])
        for case, look in looks.items()
    ]
    figure.legend(
        handles=handles, frameon=False, fontsize=8.5, ncols=min(len(handles), 5), loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.34 / figure.get_figheight()), borderpad=0.2, handletextpad=0.2,
    )  # fmt: skip
