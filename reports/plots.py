"""The figures of a run, as matplotlib figures without a display."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from reports import enriched, style
from reports.blockwise import ttft_samples
from reports.canvas import (
    LEGEND_IN,
    SIZE,
    End,
    canvas,
    end_labels,
    frame_of,
    label,
    legend_columns,
    log_axis,
    room_for_words,
    scale,
    without_curve,
)
from reports.latency import INDEPENDENT
from reports.overview import METRICS, counted, speedup_frame, whole_decode
from reports.run import Run
from reports.style import Look

MOST_TICKS = 12
BAR_IN = 0.4
TICK_LINE_IN = 0.16  # height of a line of a bar's name
NAME_CHARACTERS = 52  # of the baseline's name, under the axis
BACKED = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
ENDS = ("low", "high")


@dataclass(frozen=True)
class Plot:
    """A figure, or in `reason` why there is none."""

    name: str
    title: str
    caption: str
    figure: Figure | None
    reason: str = ""


def plots(run: Run) -> list[Plot]:
    """All figures of a run, in the order of the report."""
    makers = [ttft, p99, *([decode] if run.decodes else []), speedup, ecdf] if run.compares else []
    with mpl.rc_context(style.RC):
        return [make(run) for make in makers]


def ttft(run: Run) -> Plot:
    """Median TTFT by prompt length with its interval, and the floor."""
    caption = "Dashed: the floor of memory and arithmetic."
    if run.ttft["p50_low_ms"].notna().any():
        caption = f"Bands: exact 95 % intervals of the median. {caption} {INDEPENDENT}"
    columns = ("p50_ms", "p50_low_ms", "p50_high_ms")
    return by_length(run, "ttft", "Time to first token by prompt length (median)", run.ttft, columns, caption)


def p99(run: Run) -> Plot:
    """P99 of TTFT by prompt length with its interval; the maximum, dotted and hollow, where n can't support it."""
    caption = f"Bars: exact 95 % intervals of the 99th percentile, moved apart sideways. {INDEPENDENT}"
    frame, columns = enriched.p99(run), ("p99_ms", "p99_low_ms", "p99_high_ms")
    title = "99th percentile of the time to first token"
    if len(frame) and not frame["supported"].all():
        maxima = "Hollow and dotted: the maximum, because n is below the 368 that a P99 needs."
        caption = f"{maxima} {caption}" if frame["supported"].any() else maxima
        frame = frame.assign(p99_ms=frame["p99_ms"].where(frame["supported"].astype(bool), frame["max_ms"]))
        title += "" if frame["supported"].any() else ": maxima only, n is too small"
    caption += " Dashed: the floor." if frame["floor_ms"].notna().any() else ""
    return by_length(run, "p99", title, frame, columns, caption, bands=False)


def by_length(
    run: Run,
    name: str,
    title: str,
    frame: pd.DataFrame,
    columns: tuple[str, str, str],
    caption: str,
    bands: bool = True,
) -> Plot:
    """A line a case over prompt length, labelled at its end."""
    value = columns[0]
    if frame[value].isna().all():
        return Plot(name, title, caption, None, "no case has a value")
    caption += without_curve(run, set(frame.loc[frame[value].notna(), "case"]))
    figure, axes = canvas(run, title, caption, frame["n"])
    ends: list[End] = []
    for case, look in style.looks(run.cases).items():
        rows = frame[frame["case"] == case].sort_values("prompt_length")
        if rows.empty:
            continue
        curve(axes, rows, columns, look, None if bands else (len(ends) - 2) * 0.006 * frame["prompt_length"].max())
        ends.append((rows[value].iloc[-1], label(run, case), look.colour))
    if "floor_ms" in frame and frame["floor_ms"].notna().any():
        floors = frame.drop_duplicates("prompt_length").sort_values("prompt_length")
        axes.plot(floors["prompt_length"], floors["floor_ms"], marker="_" if len(floors) == 1 else "",
                  color=style.FLOOR, linestyle="--", linewidth=1.2, markersize=16)  # fmt: skip
        ends.append((floors["floor_ms"].iloc[-1], "Floor", style.FLOOR))
    if frame["prompt_length"].nunique() <= MOST_TICKS:
        axes.set_xticks(sorted(frame["prompt_length"].unique()))
    axes.set_xlabel("Prompt length (tokens)")
    scale(axes, frame[value])
    end_labels(axes, ends)
    return Plot(name, title, caption, figure)


def curve(axes: Axes, rows: pd.DataFrame, columns: tuple[str, str, str], look: Look, shift: float | None) -> None:
    """A case's values with intervals: as a band, or where there is a `shift` as bars moved sideways by it.

    Intervals of a tail are wide: thin bars, moved a little apart, stay readable where bands would cover each other.
    """
    value, low, high = columns
    x, sure = rows["prompt_length"], rows.get("supported", pd.Series(True, rows.index)).astype(bool).all()
    if sure and shift is not None:
        x = x + shift
        reach = [rows[value] - rows[low], rows[high] - rows[value]]
        axes.errorbar(x, rows[value], reach, fmt="none", ecolor=look.colour, elinewidth=1, alpha=0.75, capsize=2)
    elif sure:
        axes.fill_between(x, rows[low], rows[high], color=look.colour, alpha=0.18, linewidth=0)
    fill, dash = (look.colour, "-") if sure else ("white", ":")
    every = max(1, math.ceil(len(rows) / MOST_TICKS))
    axes.plot(
        x, rows[value], color=look.colour, marker=look.marker, markevery=every, markerfacecolor=fill, linestyle=dash
    )


def decode(run: Run) -> Plot:
    """Decode latency against context: the median of each bin of contexts."""
    title = "Decode latency by context length"
    steps = run.samples[run.samples["metric"] == "decode"]
    if steps.empty:
        return Plot("decode", title, "", None, "no case has decode samples")
    span = steps["context_length"].max() - steps["context_length"].min() + 1
    width = max(1, math.ceil(span / 40))
    caption = f"Median over bins of {width} context length{'s' if width > 1 else ''}. Dashed: the floor."
    if steps.groupby("case")["block"].nunique().max() > 1:
        caption = f"Bands: from the lowest to the highest block. {caption}"
    caption += without_curve(run, set(steps["case"]))
    figure, axes = canvas(run, title, caption, whole_decode(run)["n"])
    ends: list[End] = []
    drawn: list[pd.Series] = []
    for case, look in style.looks(run.cases).items():
        rows = steps[steps["case"] == case]
        if rows.empty:
            continue
        bins = (rows["context_length"] // width * width + (width - 1) / 2).rename("bin")
        medians = rows.groupby(bins)["latency_ms"].median()
        band(axes, rows, bins, look)
        # The same distance along the axis for every case, each from a place of its own: no marker hides another.
        apart = max(1, round(len(medians) / 8))
        start = len(drawn) * apart // len(run.cases)
        axes.plot(medians.index, medians, color=look.colour, marker=look.marker, markevery=(start, apart))
        ends.append((medians.iloc[-1], label(run, case), look.colour))
        drawn.append(medians)
    floor = run.decode["floor_ms"].dropna()
    if len(floor):
        axes.axhline(floor.iloc[0], color=style.FLOOR, linestyle="--", linewidth=1.2)
        ends.append((floor.iloc[0], "Floor", style.FLOOR))
    axes.set_xlabel("Context length (tokens before the step)")
    scale(axes, pd.concat(drawn), "Latency (ms a token)")
    end_labels(axes, ends)
    return Plot("decode", title, caption, figure)


def band(axes: Axes, rows: pd.DataFrame, bins: pd.Series, look: Look) -> None:
    """From the lowest to the highest block in each bin; nothing for a case of one block.

    Bins hold a few steps of each block: an interval from so little would hide what it is about.
    """
    blocks = rows.groupby([bins, rows["block"]])["latency_ms"].median().unstack().dropna()
    if blocks.shape[1] > 1:
        low, high = blocks.min(axis=1), blocks.max(axis=1)
        axes.fill_between(blocks.index, low, high, color=look.colour, alpha=0.18, linewidth=0)


def speedup(run: Run) -> Plot:
    """Speed-up over the baseline: bars by metric and case."""
    title, reference = "Speed-up over the baseline", "baseline"
    caption = "Geometric mean over prompt lengths for TTFT and P99, ratio of medians over the whole range for decode."
    found = {case: look for case, look in style.looks(run.cases).items() if case != reference}
    frame = speedup_frame(run)
    frame = frame[frame["over"] == reference].set_index(["case", "metric"])
    places = {case: [(case, metric) for metric in METRICS] for case in found}
    table = {case: frame.reindex(pd.MultiIndex.from_tuples(places[case])) for case in found}
    ratios = {case: table[case]["speed_up"].tolist() for case in found}
    if frame["low"].notna().any():
        caption += " Thin lines: 95 % intervals over blocks."
    found = {case: look for case, look in found.items() if not np.isnan(ratios[case]).all()}
    metrics = [i for i, m in enumerate(METRICS) if any(not math.isnan(ratios[case][i]) for case in found)]
    if not found:
        return Plot("speedup", title, caption, None, "there is no case to compare with the baseline")
    absent = [metric for i, metric in enumerate(METRICS) if i not in metrics]
    caption += f" Not shown, for want of values: {', '.join(absent)}." if absent else ""
    caption += f" {counted(run)}{without_curve(run, [reference, *found], 'bars', 'values')}"
    figure = Figure(figsize=SIZE)
    panels = list(figure.subplots(1, len(metrics), sharex=True, sharey=True, squeeze=False).flat)
    for axes, i in zip(panels, metrics, strict=True):
        values = pd.DataFrame([table[case].iloc[i] for case in found], index=list(found))
        speedup_bars(axes, values[["speed_up", *ENDS]].astype(float), [look.colour for look in found.values()])
        axes.set_title(list(METRICS)[i], fontsize=9.5, fontweight="normal", pad=5)
    panels[0].set_yticks(range(len(found)), [label(run, case) for case in found], fontsize=8.5, fontweight="bold")
    for tick, look in zip(panels[0].get_yticklabels(), found.values(), strict=True):
        tick.set_color(look.colour)
    panels[0].invert_yaxis()
    row_in = max(BAR_IN, TICK_LINE_IN * (1 + max(label(run, case).count("\n") for case in found)))
    above = 0.25 * len(found) if run.smoke else 0.0  # room for the watermark, in rows
    panels[0].set_ylim(top=-0.5 - above)
    frame_of(run, figure, title, caption, pd.Series(dtype=float), right=0.97, top_in=0.72,
             panels_in=0.25 + row_in * (len(found) + above))  # fmt: skip
    figure.subplots_adjust(left=0.19, wspace=0.08)
    room_for_words(figure, panels)
    below = figure.subplotpars.bottom - 0.46 / figure.get_figheight()
    name = textwrap.shorten(run.cases[reference], NAME_CHARACTERS, placeholder="…")
    figure.supxlabel(f"Times faster than {name}", fontsize=9.5, x=0.58, y=below)
    return Plot("speedup", title, caption, figure)


def speedup_bars(axes: Axes, values: pd.DataFrame, colours: list[str]) -> None:
    """One metric's bars, a row a case, with interval and figure behind each."""
    known = values[list(ENDS)].notna().all(axis=1).to_numpy()
    rows, ends = np.arange(len(values)), values[list(ENDS)].to_numpy()
    axes.barh(rows, values["speed_up"], 0.62, color=colours)
    edged = [withStroke(linewidth=2.5, foreground="white")]  # seen on dark bars too
    axes.hlines(rows[known], *ends[known].T, color="#333333", linewidth=1, zorder=3, path_effects=edged)
    axes.axvline(1.0, color=style.LOOKS["baseline"].colour, linewidth=1.0)
    for row, ratio, end in zip(rows, values["speed_up"], values[["speed_up", "high"]].max(axis=1), strict=True):
        words, at = ("–", 0.0) if math.isnan(ratio) else (f"{ratio:.2f}×", end)
        axes.annotate(words, (at, row), (4, 0), textcoords="offset points", va="center", fontsize=8, color="#333333",
                      zorder=4, bbox=BACKED)  # fmt: skip
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def ecdf(run: Run) -> Plot:
    """The distribution of TTFT: share of requests answered within a time, a panel a prompt length."""
    title, caption = (
        "Distribution of the time to first token",
        "Empirical distribution of all timed requests; log axis. Dashed: the floor.",
    )
    timed = ttft_samples(run)
    lengths = sorted(timed["prompt_length"].unique())
    if not lengths:
        return Plot("ttft_ecdf", title, caption, None, "no case has timed requests")
    shown = [lengths[round(i)] for i in np.linspace(0, len(lengths) - 1, min(9, len(lengths)))]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(SIZE[0], 1.6 + (1.7 if rows > 1 else 2.4) * rows))
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, length in zip(grid, shown, strict=False):
        panel(run, axes, timed[timed["prompt_length"] == length], f"{length:.0f} tokens")
    for above, axes in zip(grid[len(shown) - columns :], grid[len(shown) :], strict=False):
        axes.set_visible(False)
        above.tick_params(labelbottom=True)
    keys = {name: key for axes in figure.axes for key, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [name for case in run.cases if (name := label(run, case, wrapped=False)) in keys]
    handles = [keys[name] for name in names]
    across, down = legend_columns(names)
    figure.legend(handles, names, frameon=False, ncols=across, loc="upper left", fontsize=8.5,
                  bbox_to_anchor=(0.06, 1 - 0.38 / figure.get_figheight()))  # fmt: skip
    caption += without_curve(run, set(timed["case"]))
    top = 0.88 + LEGEND_IN * (down - 1)
    frame_of(run, figure, title, caption, run.ttft["n"], right=0.97, top_in=top, bottom_in=0.6)
    below = figure.subplotpars.bottom - 0.44 / figure.get_figheight()
    figure.supxlabel("Time to first token (ms)", fontsize=9.5, y=below)
    figure.supylabel("Share of requests", fontsize=9.5)
    return Plot("ttft_ecdf", title, caption, figure)


def panel(run: Run, axes: Axes, samples: pd.DataFrame, title: str) -> None:
    """One panel of the distribution."""
    for case, look in style.looks(run.cases).items():
        values = samples.loc[samples["case"] == case, "latency_ms"]
        if len(values):
            axes.ecdf(values, color=look.colour, label=label(run, case, wrapped=False), linewidth=1.4)
    floor = run.ttft.loc[run.ttft["prompt_length"] == samples["prompt_length"].iloc[0], "floor_ms"].dropna()
    if len(floor):
        axes.axvline(floor.iloc[0], color=style.FLOOR, linestyle="--", linewidth=1.2)
    log_axis(axes, "x")
    axes.grid(visible=True, axis="both")
    axes.set_ylim(0, 1.04)
    axes.set_title(title, fontsize=9, fontweight="normal", pad=4)
