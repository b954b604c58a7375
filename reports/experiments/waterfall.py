"""A waterfall on a logarithmic axis: how one ratio became another, a factor at a time."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from reports import style
from reports.canvas import CHARACTERS_PER_INCH, LINE_IN, frame_of, log_axis, spread
from reports.run import Run

WIDE_IN, HIGH_IN = 8.8, 4.5  # without the lines below the axes
RIGHT = 0.82
WIDTH = 0.76  # of a bar, in places of the axis
INSIDE_PT = 13.0  # a lower bar has its factor beside it
LEAST_SPAN = math.log(4.0)
REASON_PT = 3.9  # of a character of a reason
NAME_PT = 12.0  # of a line's name
PAPER: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
DASHES: Any = (0, (5, 3))
WHISKER = 0.56  # of a bar's width from its middle: between the bars, where nothing is written
UNTOLD: Any = {"facecolor": style.UNTOLD, "edgecolor": style.FLOOR, "linewidth": 0.8}
KEYS = [
    Patch(color=style.WHOLE, label="the speed-up itself"),
    Patch(color=style.LOWERED, label="a step lowers it"),
    Patch(color=style.RAISED, label="a step raises it"),
    Line2D([], [], color=style.PUBLISHED, linewidth=1.1, linestyle=DASHES, label="as published"),
]
UNTOLD_KEY = Patch(**UNTOLD, label="not told from noise")


@dataclass(frozen=True)
class Bar:
    """A place on the axis: from one ratio to another, or from 1 where `start` is NaN.

    Where `end` is NaN there is no figure, and `why` is the reason. `low` and `high`: the range of `end`, NaN where it
    has none. `told`: False where noise may be all of the change.
    """

    tick: str
    start: float
    end: float
    why: str = ""
    low: float = math.nan
    high: float = math.nan
    told: bool = True

    @property
    def whole(self) -> bool:
        """Whether it shows a ratio itself, not a change."""
        return math.isnan(self.start)

    @property
    def foot(self) -> float:
        """Where it begins."""
        return 1.0 if self.whole else self.start

    @property
    def colour(self) -> str:
        """That of ratios, or of what raised, lowered or left one."""
        if self.whole:
            return style.WHOLE
        if not self.told:
            return style.UNTOLD
        if round(self.end / self.start, 2) == 1:
            return style.FLOOR
        return style.RAISED if self.end > self.start else style.LOWERED

    @property
    def ink(self) -> str:
        """That of words beside it."""
        return self.colour if self.told else style.FAINT


def factor_text(factor: float) -> str:
    """A factor as what was multiplied or divided by."""
    return f"×{factor:.2f}" if round(factor, 2) >= 1 else f"/{1 / factor:.2f}"


def draw(
    run: Run, title: str, caption: str, bars: Sequence[Bar], lines: Mapping[str, float], counts: Sequence[int]
) -> Figure:  # fmt: skip
    """The figure: at least one bar must have a figure. `lines` are published ratios to compare with, by name."""
    below = textwrap.wrap(f"{caption} {run.facts(counts)}", int(CHARACTERS_PER_INCH * WIDE_IN))
    figure = Figure(figsize=(WIDE_IN, HIGH_IN + LINE_IN * len(below)))
    axes = figure.subplots()
    limits(axes, bars, lines, run.smoke)
    axes.axhline(1.0, color=style.WHOLE, linewidth=0.8, zorder=0.9)
    for value in lines.values():
        axes.axhline(value, color=style.PUBLISHED, linewidth=1.1, linestyle=DASHES, zorder=0.9)
    known = [(place, bar) for place, bar in enumerate(bars) if not math.isnan(bar.end)]
    for place, bar in known:
        block(axes, place, bar)
    connect(axes, known)
    axes.set_xticks(range(len(bars)), [bar.tick for bar in bars], fontsize=7.8)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(bars) - 0.45)
    axes.set_ylabel("Speed-up of JIT+CUDA (×), log scale")
    keys = [*KEYS, *([] if all(bar.told for bar in bars) else [UNTOLD_KEY])]
    axes.legend(handles=keys, frameon=False, ncols=len(keys), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5,
                borderaxespad=0.2)  # fmt: skip
    frame_of(run, figure, title, caption, pd.Series(counts, dtype=float), right=RIGHT, top_in=0.78, bottom_in=0.55)
    for place, bar in known:  # what is written takes the room that is there: it comes behind the margins
        label(axes, place, bar)
    for place in set(range(len(bars))) - {place for place, _ in known}:
        hatched(axes, place, bars[place].why, 0.82 if run.smoke else 0.98)
    margin(axes, lines)
    return figure


def limits(axes: Axes, bars: Sequence[Bar], lines: Mapping[str, float], smoke: bool) -> None:
    """A logarithmic axis with room for the labels, and for a smoke run's stamp above them."""
    ends = [value for bar in bars for value in (bar.start, bar.end, bar.low, bar.high) if not math.isnan(value)]
    logs = [math.log(value) for value in (*ends, *lines.values(), 1.0)]
    span = max(max(logs) - min(logs), LEAST_SPAN)
    log_axis(axes, "y")
    axes.set_ylim(math.exp(min(logs) - 0.12 * span), math.exp(max(logs) + (0.34 if smoke else 0.12) * span))


def block(axes: Axes, place: int, bar: Bar) -> None:
    """A bar from start to end, or from 1; one without height is a line. A range is a whisker beside its end."""
    low, high = sorted((bar.foot, bar.end))
    look = {"facecolor": bar.colour, "edgecolor": bar.colour, "linewidth": 0.8} if bar.told else UNTOLD
    axes.bar(place, high - low, WIDTH, bottom=low, **look)
    if not math.isnan(bar.low):  # where a process broke off, the mean over all requests may lie outside
        reach = [[max(0.0, bar.end - bar.low)], [max(0.0, bar.high - bar.end)]]
        axes.errorbar(place + WHISKER * WIDTH, bar.end, reach, fmt="none", ecolor="black", elinewidth=1.0, capsize=2.0,
                      zorder=4)  # fmt: skip


def connect(axes: Axes, known: Sequence[tuple[int, Bar]]) -> None:
    """Thin lines from the end of each bar to the next that has one, over places without a figure."""
    for (place, bar), (after, _) in itertools.pairwise(known):
        axes.plot([place + WIDTH / 2, after - WIDTH / 2], [bar.end, bar.end], color="#444444", linewidth=0.8)


def height_pt(axes: Axes) -> float:
    """The axes' height in points."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # noqa: S101  for the type checker
    return 72 * axes.get_position().height * figure.get_figheight()


def hatched(axes: Axes, place: int, why: str, top: float) -> None:
    """A place without a figure, up to `top` of the axes, with as much of the reason inside as there is room for."""
    across = axes.get_xaxis_transform()
    box = Rectangle((place - WIDTH / 2, 0.02), WIDTH, top - 0.02, transform=across, fill=False, edgecolor="#a0a0a0",
                    hatch="////", linestyle="--", linewidth=0.8)  # fmt: skip
    axes.add_patch(box)
    room = int(0.9 * (top - 0.02) * height_pt(axes) / REASON_PT)
    reason = textwrap.wrap(why, room, max_lines=2, placeholder=" …")
    axes.text(place, (top + 0.02) / 2, "\n".join(["not measured here", *reason]), transform=across, rotation=90,
              ha="center", va="center", fontsize=7, linespacing=1.15, bbox=PAPER, zorder=6)  # fmt: skip


def label(axes: Axes, place: int, bar: Bar) -> None:
    """The ratio at the end of a bar, and the factor on it, or at its other end where it is too low."""
    rose = bar.end >= bar.foot
    text(axes, place, bar.end, f"{bar.end:.2f}×", above=rose, bold=bar.whole)
    if bar.whole:
        return
    low, high = axes.get_ylim()
    if abs(math.log(bar.end / bar.start)) / math.log(high / low) * height_pt(axes) < INSIDE_PT:
        text(axes, place, bar.start, factor_text(bar.end / bar.start), above=not rose, colour=bar.ink, bold=True)
        return
    axes.text(place, math.sqrt(bar.start * bar.end), factor_text(bar.end / bar.start), ha="center", va="center",
              color="white" if bar.told else style.FAINT, fontsize=8, fontweight="bold")  # fmt: skip


def text(axes: Axes, x: float, y: float, words: str, above: bool, colour: str = "#222222", bold: bool = False) -> None:
    """Words just above or below a point, readable over lines."""
    # Spaces keep a dashed line away from the words: one of its dashes would read as a minus.
    axes.annotate(f" {words} ", (x, y), (0, 3 if above else -3), textcoords="offset points", ha="center",
                  va="bottom" if above else "top", fontsize=8, color=colour, fontweight="bold" if bold else "normal",
                  bbox=PAPER)  # fmt: skip


def margin(axes: Axes, lines: Mapping[str, float]) -> None:
    """What the lines are, in the right margin, pushed apart; those that read the same have one name."""
    names: dict[str, list[str]] = {}
    for name in sorted(lines, key=lambda name: lines[name]):
        names.setdefault(f"{lines[name]:.2f}×", []).append(name)
    entries = [(1.0, "1× equal", style.WHOLE)]
    for words, found in names.items():
        entries.append((lines[found[0]], f"{words} {', '.join(found)}", style.PUBLISHED))
    entries.sort()
    low, high = (math.log(end) for end in axes.get_ylim())
    places = spread([(math.log(value) - low) / (high - low) for value, _, _ in entries], NAME_PT / height_pt(axes))
    for (_, words, colour), place in zip(entries, places, strict=True):
        axes.text(1.012, place, words, transform=axes.transAxes, color=colour, va="center", fontsize=8)
