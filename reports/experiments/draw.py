"""Curves that several experiments draw."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from reports import style
from reports.canvas import canvas, log_axis
from reports.plots import Plot
from reports.run import Run

WIDE = 3.0  # a tail that reaches further than this times the median needs a logarithmic axis


def ecdfs(
    run: Run, name: str, title: str, caption: str, curves: Mapping[str, tuple[str, pd.Series, style.Look]]
) -> Plot:
    """Empirical distributions: label, latencies in ms and look of each curve."""
    drawn = {key: curve for key, curve in curves.items() if len(curve[1])}
    if not drawn:
        return Plot(name, title, caption, None, "no case has such requests")
    figure, axes = canvas(run, title, caption, pd.Series([len(v) for _, v, _ in drawn.values()]), right=0.97)
    for label, values, look in drawn.values():
        axes.ecdf(values, color=look.colour, label=f"{label} (n = {len(values)})", linewidth=1.5)
    values = pd.concat([v for _, v, _ in drawn.values()])
    wide = values.max() > WIDE * values.median()
    if wide:
        log_axis(axes, "x")
    axes.grid(visible=True, axis="both")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Time to first token (ms" + (", log scale)" if wide else ")"))
    axes.set_ylabel("Share of requests")
    axes.legend(frameon=False, loc="lower right", fontsize=8.5)
    return Plot(name, title, caption, figure)


def legend_above(axes: Axes, columns: int) -> None:
    """The legend in one line between title and axes."""
    axes.legend(frameon=False, ncols=columns, loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
