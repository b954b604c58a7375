"""The comparison as a forest plot: a ratio with its interval for each cell, a panel for each metric."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports import style
from reports.canvas import CHARACTERS_PER_INCH, LINE_IN, stamp
from reports.compare.cells import Cell
from reports.compare.tables import ORDER
from reports.plots import Plot

MOST = 400
"""Cells beyond which a figure could not be read."""
ROW_IN, GAP = 0.17, 0.8  # height of a row, and what lies between two cases, in rows
WIDTH_IN, ABREAST = 7.6, 2  # a page, and the panels beside each other on it
HEAD_IN, LEFT_IN, BETWEEN_IN = 1.15, 0.85, 0.85
ROWS = {"TTFT": "Prompt tokens", "P99": "Prompt tokens", "Decode": "Context", "Cold TTFT": ""}
"""What the rows of a metric's panel are."""
LEAST_REACH, WIDEST = 0.08, 0.25  # of an axis, in natural logarithms: at least, and at most for intervals alone
CAPTION = (
    "B/A with its 95 % interval, log scale; left of 1, B is faster. Band: the margin of {margin:g} %. Filled: faster "
    "or slower after Holm's correction; ring: same; cross: unclear. An arrow is an interval that goes on."
)
TICKS = (
    (0.12, (0.9, 0.95, 1.0, 1.05, 1.1)),
    (0.36, (0.8, 0.9, 1.0, 1.1, 1.25)),
    (0.8, (0.5, 0.7, 1.0, 1.4, 2.0)),
    (math.inf, (0.01, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0)),
)
"""Ratios that an axis names, by how far it reaches."""
Panels = list[tuple[str, list[Cell]]]


def forest(cells: Sequence[Cell], title: str, facts: str, smoke: bool, margin: float) -> Plot:
    """A figure of all cells that have a ratio, or the reason why there is none."""
    caption = CAPTION.format(margin=100 * margin)
    drawn = [cell for cell in cells if not math.isnan(cell.ratio.value)]
    if not drawn or len(drawn) > MOST:
        why = "no cell has a ratio" if not drawn else f"{len(drawn)} cells are more than a figure can show"
        return Plot("compare", title, caption, None, why)
    panels = [(metric, own) for metric in ORDER if (own := [cell for cell in drawn if cell.key.metric == metric])]
    lines = textwrap.wrap(f"{caption} {facts}", int(CHARACTERS_PER_INCH * WIDTH_IN))
    figure = Figure(figsize=(WIDTH_IN, height_in(panels, len(lines))))
    for place, (metric, own) in enumerate(panels):
        panel(figure.add_axes(box(figure, panels, place)), metric, own, margin)
    legend_and_text(figure, drawn, title, lines)
    if smoke:
        for axes in figure.axes:
            stamp(axes)
    return Plot("compare", title, caption, figure)


def rows_of(cells: Sequence[Cell]) -> list[float]:
    """The height at which each cell is drawn, downwards, with a gap between cases."""
    found, at, before = [], 0.0, None
    for cell in cells:
        at += 1 + (GAP if before not in (None, cell.key.case) else 0)
        found.append(at)
        before = cell.key.case
    return found


def tall_in(cells: Sequence[Cell]) -> float:
    """The height of a panel in inches."""
    return ROW_IN * (rows_of(cells)[-1] + 1)


def bands(panels: Panels) -> list[float]:
    """The height of each row of panels, as much as its tallest needs, in inches."""
    rows = [panels[start : start + ABREAST] for start in range(0, len(panels), ABREAST)]
    return [max(tall_in(own) for _, own in row) for row in rows]


def height_in(panels: Panels, lines: int) -> float:
    """The height of the figure in inches."""
    tall = bands(panels)
    return HEAD_IN + sum(tall) + BETWEEN_IN * (len(tall) - 1) + 0.55 + LINE_IN * lines


def box(figure: Figure, panels: Panels, place: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a panel, as parts of the figure; each as tall as its cells."""
    width, height = figure.get_size_inches()
    row, column = divmod(place, ABREAST)
    room = (width - 0.15) / ABREAST
    tall = tall_in(panels[place][1])
    top = height - HEAD_IN - sum(bands(panels)[:row]) - BETWEEN_IN * row
    return (column * room + LEFT_IN) / width, (top - tall) / height, (room - LEFT_IN - 0.15) / width, tall / height


def reach_of(cells: Sequence[Cell]) -> float:
    """How far an axis goes to both sides, in logarithms: all ratios, and most of their intervals, if not too wide."""
    furthest = max(abs(math.log(cell.ratio.value)) for cell in cells)
    ends = [abs(math.log(end)) for cell in cells for end in (cell.ratio.low, cell.ratio.high) if not math.isnan(end)]
    usual = sorted(ends)[int(0.9 * (len(ends) - 1))] if ends else 0.0
    return max(LEAST_REACH, 1.15 * furthest, min(1.1 * usual, WIDEST))


def panel(axes: Axes, metric: str, cells: list[Cell], margin: float) -> None:
    """One metric: its cells from top to bottom."""
    reach = reach_of(cells)
    looks = style.looks(dict.fromkeys(cell.key.case for cell in cells))
    heights = rows_of(cells)
    ratio_axes(axes, heights, [cell.key.place for cell in cells], reach, margin)
    for cell, height in zip(cells, heights, strict=True):
        draw(axes, cell, height, looks[cell.key.case].colour, reach)
    axes.tick_params(axis="y", pad=7)
    axes.set_title(f"{metric}, B/A", fontsize=9.5)
    axes.set_ylabel(ROWS.get(metric, ""), fontsize=7.5)


def ratio_axes(axes: Axes, heights: Sequence[float], places: Sequence[str], reach: float, margin: float) -> None:
    """Ratios across, on a log scale that goes `reach` to both sides of 1, with the margin as a band; rows downwards."""
    band = math.log(1 + margin)
    axes.axvspan(-band, band, color="#efefef", zorder=0)
    axes.axvline(0, color="#444444", linewidth=0.8, zorder=1)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(heights[-1] + 1, 0)
    axes.set_yticks(heights, places, fontsize=7)
    axes.tick_params(axis="y", length=0, pad=3)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(visible=False)
    named = next(ratios for most, ratios in TICKS if reach <= most)
    axes.xaxis.set_major_locator(FixedLocator([math.log(ratio) for ratio in named if abs(math.log(ratio)) <= reach]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda log, _: f"{math.exp(log):.3g}"))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(axes: Axes, cell: Cell, height: float, colour: str, reach: float) -> None:
    """One cell: its interval, with an arrow where it goes on, and its ratio."""
    told = cell.verdict in ("faster", "slower")
    if not math.isnan(cell.ratio.low):
        ends = [math.log(cell.ratio.low), math.log(cell.ratio.high)]
        shown = [min(max(end, -reach), reach) for end in ends]
        axes.plot(shown, [height, height], color=colour, linewidth=1.6 if told else 1.0, alpha=1.0 if told else 0.6)
        for end, at, sign in zip(ends, shown, "<>", strict=True):
            if end != at:
                axes.plot([at], [height], sign, color=colour, markersize=3.5, alpha=0.6, clip_on=False)
    mark, face = ("x", colour) if cell.verdict == "unclear" else ("o", colour if told else "white")
    axes.plot(
        [math.log(cell.ratio.value)], [height], mark, color=colour, markerfacecolor=face, markersize=4.5, zorder=3
    )


def legend_and_text(figure: Figure, cells: Sequence[Cell], title: str, lines: list[str]) -> None:
    """The title and the cases' colours above, caption and facts below."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.12 / height, title, fontsize=11.5, fontweight="bold", va="top")
    titles = {cell.key.case: cell.title for cell in cells}
    handles = [Line2D([], [], color=look.colour, label=titles[case]) for case, look in style.looks(titles).items()]
    figure.legend(
        handles=handles, frameon=False, fontsize=8.5, ncols=max(1, min(len(handles), int(width / 1.9))),
        loc="upper left", bbox_to_anchor=(0.0, 1 - 0.36 / height), borderpad=0.2,
    )  # fmt: skip
    foot(figure, lines)


def foot(figure: Figure, lines: Sequence[str]) -> None:
    """Caption and facts at the bottom."""
    width, height = figure.get_size_inches()
    for place, line in enumerate(reversed(lines)):
        at = (0.08 + LINE_IN * place) / height
        figure.text(0.1 / width, at, line, fontsize=7.5, color=style.FAINT, va="bottom")
