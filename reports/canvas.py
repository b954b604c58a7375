"""What all figures share: margins, title, facts, watermark, axes and labels at the ends of lines."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports import style
from reports.run import SMOKE, Run
from reports.table import DAGGER

SIZE = (7.6, 4.6)
WIDE_SPREAD = 12.0  # above this ratio of the largest to the smallest value a linear axis hides the small ones
LONG_AXIS = 300.0  # from this ratio of its ends on a logarithmic axis names its decades alone
CHARACTERS_PER_INCH = 15.5  # of the small print under a figure
LINE_IN = 0.165
MOST_LINES = 12  # of it: more would leave the figure no room
LABEL_CHARACTERS, LABEL_LINES = 16, 3
LEGEND_CHARACTERS, KEY_CHARACTERS = 96, 7  # across a figure, and those that a key takes
LEGEND_IN = 0.2  # height of a row more
LABEL_HEIGHT, LABEL_LINE = 0.055, 0.045  # of the axes' height: a label of one line, and each line more
WORDS_IN, WORD_CHARACTER_IN = 0.08, 0.068  # what a figure behind a bar takes, and each of its characters
STAMP_EMS = 20.0  # the watermark's length with room at both ends
End = tuple[float, str, str]  # where a line ends, its name, its colour


def label(run: Run, case: str, *, wrapped: bool = True) -> str:
    """A case's title, in lines that a figure has room for beside it, with a dagger when it fails the comparison."""
    lines = textwrap.wrap(run.cases[case], LABEL_CHARACTERS if wrapped else LEGEND_CHARACTERS - KEY_CHARACTERS)
    if len(lines) > LABEL_LINES:
        lines = [*lines[: LABEL_LINES - 1], lines[LABEL_LINES - 1][: LABEL_CHARACTERS - 1] + "…"]
    return "\n".join(lines) + (DAGGER if run.failed_equivalence(case) else "")


def legend_columns(names: Sequence[str]) -> tuple[int, int]:
    """Columns and rows of a legend across a figure, as few rows as its width allows."""
    for columns in range(len(names), 1, -1):
        rows = math.ceil(len(names) / columns)
        widths = [max(map(len, names[start : start + rows])) + KEY_CHARACTERS for start in range(0, len(names), rows)]
        if sum(widths) <= LEGEND_CHARACTERS:
            return math.ceil(len(names) / rows), rows
    return 1, len(names)


def canvas(
    run: Run, title: str, caption: str, counts: pd.Series, right: float = 0.8, top_in: float = 0.55
) -> tuple[Figure, Axes]:
    """A figure of one panel with room at the right for labels, or above for a legend."""
    figure = Figure(figsize=SIZE)
    axes = figure.subplots()
    frame_of(run, figure, title, caption, counts, right, top_in)
    return figure, axes


def frame_of(
    run: Run, figure: Figure, title: str, caption: str, counts: pd.Series, right: float, top_in: float = 0.55,
    bottom_in: float = 0.68, panels_in: float | None = None,
) -> None:  # fmt: skip
    """Title above, caption and facts below, a watermark across a smoke run; margins in inches."""
    if any(run.failed_equivalence(case) for case in run.cases):
        caption += f" {DAGGER} fails the comparison with the baseline."
    framed(figure, title, (caption, run.facts(counts)), run.smoke, right, top_in, bottom_in, panels_in)


def framed(
    figure: Figure, title: str, paragraphs: Sequence[str], smoke: bool, right: float, top_in: float, bottom_in: float,
    panels_in: float | None = None,
) -> None:  # fmt: skip
    """Title above, paragraphs of small print below, a watermark across every panel of a smoke run.

    The panels have what the figure leaves them, or are `panels_in` high and the figure as high as that needs.
    """
    width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    lines = [line for paragraph in paragraphs for line in textwrap.wrap(unparted(paragraph), width)]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "… The rest stands under the tables."]
    bottom = LINE_IN * len(lines) + bottom_in
    if panels_in is not None:
        figure.set_figheight(top_in + panels_in + bottom)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.09, right=right, top=1 - top_in / height, bottom=bottom / height)
    figure.text(0.015, 1 - 0.12 / height, title, fontsize=11.5, fontweight="bold", va="top")
    for place, line in enumerate(reversed(lines)):
        figure.text(0.015, (0.08 + LINE_IN * place) / height, line, fontsize=7.5, color=style.FAINT, va="bottom")
    if smoke:
        for axes in figure.axes:
            stamp(axes)


def unparted(text: str) -> str:
    """The text with a figure and its per cent sign on one line, however it is wrapped."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def stamp(axes: Axes) -> None:
    """A watermark small enough to stay inside the axes, under what is written there; bars have it above them."""
    if not axes.get_visible() or axes.figure is None:
        return
    box, figure = axes.get_position(), axes.get_figure(root=True)
    assert figure is not None  # noqa: S101  for the type checker
    width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
    size = 72 * min(width / STAMP_EMS, height / 5)
    place, rotation = (0.9, 0) if axes.patches else (0.5, 12)
    spot: dict[str, Any] = {"ha": "center", "va": "center", "rotation": rotation, "fontweight": "bold", "zorder": 2.5}
    axes.text(0.5, place, SMOKE, fontsize=size, color="#b00020", alpha=0.28, transform=axes.transAxes, **spot)


def without_curve(run: Run, drawn: Collection[str], what: str = "a curve", want: str = "samples") -> str:
    """A note, to be added to a caption, on the cases that a figure does not show."""
    absent = [run.cases[case] for case in run.cases if case not in drawn]
    return f" Without {what}, for want of {want}: {', '.join(absent)}." if absent else ""


def scale(axes: Axes, values: pd.Series, text: str = "Latency (ms)") -> None:
    """A linear axis from zero, or a logarithmic one when the values lie far apart."""
    wide = values.max() / values.min() > WIDE_SPREAD
    if wide:
        log_axis(axes, "y")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(text + (", log scale" if wide else ""))


class Steps(LogLocator):
    """1, 2 and 5 of each decade; 1 alone on an axis that is too long for so many figures."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """See matplotlib's LogLocator."""
        self.set_params(subs=(1.0, 2.0, 5.0) if vmax / vmin < LONG_AXIS else (1.0,))
        return super().tick_values(vmin, vmax)


def log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis with plain figures at the steps of its decades."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(Steps())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def room_for_words(figure: Figure, panels: Sequence[Axes]) -> None:
    """A shared axis from zero, long enough for the longest figure to stand behind the longest bar or interval."""
    words = max(len(text.get_text()) for axes in panels for text in axes.texts if text.get_text() != SMOKE)
    panel_in = panels[0].get_position().width * figure.get_figwidth()
    longest = panels[0].dataLim.union([axes.dataLim for axes in panels]).x1
    panels[0].set_xlim(0, longest / (1 - (WORDS_IN + WORD_CHARACTER_IN * words) / panel_in))


def end_labels(axes: Axes, ends: list[End]) -> None:
    """Names at the right end of lines, pushed apart where lines end close together."""
    ends = sorted(ends)
    pixels = [axes.transData.transform((1, value)) for value, _, _ in ends]
    heights = [float(axes.transAxes.inverted().transform(pixel)[1]) for pixel in pixels]
    places = spread(heights, [LABEL_HEIGHT + LABEL_LINE * text.count("\n") for _, text, _ in ends])
    for (_, text, colour), place in zip(ends, places, strict=True):
        axes.text(
            1.015, place, text, transform=axes.transAxes, color=colour, va="center", fontsize=9, fontweight="bold",
            linespacing=1.05,
        )  # fmt: skip


def spread(places: list[float], sizes: float | list[float]) -> list[float]:
    """Sorted places, the middles of things of these sizes, moved as little as need be for neighbours not to overlap:
    pools of neighbours share a shift."""
    tall = [sizes] * len(places) if isinstance(sizes, float) else sizes
    starts = list(accumulate(((one + other) / 2 for one, other in pairwise(tall)), initial=0.0))
    pools: list[tuple[float, int]] = []  # mean of (place - start) over the pool, and its size
    for place, start in zip(places, starts, strict=True):
        mean, size = place - start, 1
        while pools and pools[-1][0] > mean:
            earlier, count = pools.pop()
            mean, size = (earlier * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    shifts = [mean for mean, size in pools for _ in range(size)]
    return [start + shift for start, shift in zip(starts, shifts, strict=True)]
