"""Several machines as a figure: each cell over its mean of all of them, a mark a machine, a panel for each metric."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.canvas import CHARACTERS_PER_INCH, LINE_IN, stamp
from reports.compare.cells import Key
from reports.compare.forest import LEAST_REACH, MOST, ROWS, WIDTH_IN, foot, ratio_axes
from reports.compare.tables import ORDER, name_of
from reports.compare.verdict import MARGIN
from reports.plots import Plot
from reports.run import Run
from reports.spread.pairs import Paired
from reports.spread.tables import LETTERS, facts_of
from reports.table import Table

ROW_IN, HEADING = 0.16, 1.5  # height of a row, and of a case's name above its rows, in rows
TITLE_IN, AXIS_IN, LEFT_IN, BETWEEN_IN = 0.75, 0.5, 0.65, 0.6
ACROSS = 3
"""Names of machines beside each other."""
CAPTION = (
    "Medians, or 99th percentiles, each over its geometric mean of all runs; log scale, left is faster. "
    "Band: {margin:g} % to both sides."
)


def machines_figure(paired: Paired, runs: Sequence[Run], table: Table) -> Plot:
    """A figure of every cell that all runs have, or the reason why there is none; titled as the table beside it."""
    caption = f"{CAPTION.format(margin=100 * MARGIN)} {facts_of(runs)}"
    names = [f"{letter}  {name_of(run)}" for letter, run in zip(LETTERS, runs, strict=False)]
    if len(paired.keys) > MOST:
        return Plot("spread", table.title, caption, None, f"{len(paired.keys)} cells are more than a figure can show")
    panels = [(metric, own) for metric in ORDER if (own := [key for key in paired.keys if key.metric == metric])]
    lines = textwrap.wrap(caption, int(CHARACTERS_PER_INCH * WIDTH_IN))
    rows = math.ceil(len(names) / ACROSS)
    above, below = TITLE_IN + 0.2 * rows, AXIS_IN + LINE_IN * len(lines)
    tallest = ROW_IN * max(heights_of(own)[-1] + 1 for _, own in panels)
    height = above + tallest + below
    figure = Figure(figsize=(WIDTH_IN, height))
    room = (WIDTH_IN - 0.15 - LEFT_IN + BETWEEN_IN) / len(panels)
    for place, (metric, own) in enumerate(panels):
        tall = ROW_IN * (heights_of(own)[-1] + 1)
        left, bottom = LEFT_IN + place * room, height - above - tall
        axes = figure.add_axes(
            (left / WIDTH_IN, bottom / height, (room - BETWEEN_IN) / WIDTH_IN, tall / height)
        )  # fmt: skip
        panel(axes, metric, own, paired)
        if table.smoke:
            stamp(axes)
    words(figure, names, table.title, lines)
    return Plot("spread", table.title, caption, figure)


def heights_of(keys: Sequence[Key]) -> list[float]:
    """The height at which each cell is drawn, downwards, with room for a case's name above its first."""
    found, at, before = [], 0.0, None
    for key in keys:
        at += 1 if key.case == before else HEADING + (before is not None)
        found.append(at)
        before = key.case
    return found


def panel(axes: Axes, metric: str, keys: Sequence[Key], paired: Paired) -> None:
    """One metric: its cells from top to bottom, case by case."""
    logs = np.log([paired.values(key) for key in keys])
    logs -= logs.mean(axis=1, keepdims=True)
    reach, heights = max(LEAST_REACH, 1.1 * float(np.abs(logs).max())), heights_of(keys)
    ratio_axes(axes, heights, [key.place for key in keys], reach, MARGIN)
    for look, own in zip(marks(paired.runs), logs.T, strict=True):
        axes.plot(own, heights, markersize=4, alpha=0.85, linestyle="none", zorder=3, **look)
    for place, key in enumerate(keys):
        if place == 0 or keys[place - 1].case != key.case:
            title = paired.cells[0][key].title
            axes.text(-reach, heights[place] - 0.75, title, fontsize=7.5, fontweight="bold", va="bottom")
    axes.set_title(f"{metric} by {ROWS[metric].lower()}", fontsize=9.5)
    axes.set_xlabel("over the mean of all runs", fontsize=7.5)


def marks(count: int) -> list[dict[str, Any]]:
    """How each machine's mark looks, no two alike: filled, then hollow, then in another machine's shape."""
    looks, times = style.SERIES, len(style.SERIES)
    return [
        {
            "color": looks[place % times].colour,
            "marker": looks[(place + place // (2 * times)) % times].marker,
            "markerfacecolor": "white" if place // times % 2 else looks[place % times].colour,
        }
        for place in range(count)
    ]


def words(figure: Figure, names: Sequence[str], title: str, lines: Sequence[str]) -> None:
    """The title and the machines' marks above, caption and facts below."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=11.5, fontweight="bold", va="top")
    handles = [
        Line2D([], [], linestyle="none", label=name, **look)
        for look, name in zip(marks(len(names)), names, strict=True)
    ]
    figure.legend(
        handles=handles, frameon=False, fontsize=8, ncols=min(len(names), ACROSS), loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.3 / height), borderpad=0.2, handletextpad=0.2,
    )  # fmt: skip
    foot(figure, lines)
