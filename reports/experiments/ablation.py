"""The 2x2 of JIT and graphs: the effect of each on log latency, and whether they help each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import style
from reports.blockwise import MIN_BLOCKS, t_test
from reports.canvas import SIZE, frame_of, log_axis
from reports.experiments.section import (
    INDEPENDENT,
    PUBLISHED,
    Record,
    Section,
    estimate,
    figure,
    seed_of,
    spread,
    stated,
    table_of,
    timed,
)
from reports.floors import HEAD, floor_ms, of_step
from reports.plots import Plot
from reports.quantiles import RESAMPLES, at
from reports.run import Run
from reports.table import Table

TITLE = "Ablation: JIT and graphs"
FACTORS = (
    "A factor multiplies latency: 0.50 means half the latency. JIT and graphs: the geometric mean of the factor "
    "without and with the other. Interaction: the factor of JIT with graphs over its factor without; above 1 the two "
    "together give less than their product, below 1 more, which is what is published as their synergy."
)
TEXT = (
    "The same lean model four times: with neither, with compiled kernels, with graphs, with both, all in the worker's "
    f"process. {FACTORS}"
)
NEITHER, JIT, GRAPH, BOTH = CELLS = ("eager", "jit", "cuda_graph", "jit_cuda_graph")
PUBLISHED_AS = {NEITHER: "native_python", JIT: JIT, GRAPH: GRAPH, BOTH: BOTH}
EFFECTS = {"jit_factor": "JIT factor", "graph_factor": "Graphs factor", "interaction": "Interaction"}
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Logs:
    """log(median in ms) of the four cells: the estimate [4], and its blocks [4, B] or its resamples [4, RESAMPLES]."""

    estimate: Array
    parts: Array
    blocks: bool

    def effects(self) -> Record:
        """The three factors with intervals, and the four medians in ms.

        Over blocks: Student's t on each block's own effect. Over requests: percentiles of the resamples.
        """
        found: Record = dict(zip(CELLS, np.exp(self.estimate), strict=True))
        for name, value, parts in zip(EFFECTS, contrasts(self.estimate), contrasts(self.parts), strict=True):
            reach = float(t_test(parts, value)[1]) if self.blocks else 0.0
            low, high = (value - reach, value + reach) if self.blocks else np.quantile(parts, (0.025, 0.975))
            found |= spread(name, (float(np.exp(value)), float(np.exp(low)), float(np.exp(high))))
        return found


def contrasts(logs: Array) -> tuple[Array, Array, Array]:
    """Main effects and interaction of y[neither, jit, graph, both] on the log scale, along the first axis.

    JIT = ((y_jit - y_neither) + (y_both - y_graph)) / 2, graphs likewise; interaction = y_both - y_graph - y_jit +
    y_neither, the difference of the two differences.
    """
    neither, jit, graph, both = logs
    return (jit - neither + both - graph) / 2, (graph - neither + both - jit) / 2, both - graph - jit + neither


def section(run: Run) -> Section:
    """The table and the figure of the experiment."""
    rows = records(run)
    return Section(TITLE, TEXT, [table(run, rows)], [plot(run, rows)])


def shared_blocks(run: Run) -> list[float]:
    """The blocks that ended well in all four cells; none when there are fewer than intervals over blocks need."""
    good = run.status[(run.status["state"] == "ok") & run.status["case"].isin(run.measured)]
    shared = set.intersection(*(set(good.loc[good["case"] == case, "block"]) for case in CELLS))
    return sorted(shared) if len(shared) >= MIN_BLOCKS else []


def cell_logs(
    samples: pd.DataFrame, keys: list[str], blocks: list[float], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Log medians of one case by `keys`: estimates [rows], and the blocks' [rows, B] or resamples [rows, RESAMPLES].

    Over blocks: the mean over blocks of each block's log median. Over requests: the log median of all, the requests
    of each row drawn on their own.
    """
    groups = [group for _, group in samples.groupby(keys)] if keys else [samples]
    if not blocks:
        values = [group["latency_ms"].to_numpy(dtype=float) for group in groups]
        drawn = [np.concatenate([at(rng.choice(v, (50, len(v))), 0.5) for _ in range(RESAMPLES // 50)]) for v in values]
        return np.log([at(v, 0.5) for v in values]), np.log(drawn)
    medians = np.array(
        [[at(g.loc[g["block"] == b, "latency_ms"].to_numpy(dtype=float), 0.5) for b in blocks] for g in groups]
    )
    return np.log(medians).mean(axis=1), np.log(medians)


def logs_of(run: Run, metric: str) -> list[Logs]:
    """Logs by prompt length for TTFT, one entry for decode; empty when a cell lacks samples or a length."""
    samples, keys = timed(run, metric), ["prompt_length"] if metric == "ttft" else []
    lengths = samples.groupby("case")["prompt_length"].nunique().reindex(list(CELLS)).fillna(0)
    if (lengths == 0).any() or (metric == "ttft" and (lengths != len(run.sweep["prompt_lengths"])).any()):
        return []
    rng, blocks = np.random.default_rng(seed_of(run)), shared_blocks(run)
    cells = [cell_logs(samples[samples["case"] == case], keys, blocks, rng) for case in CELLS]
    estimates, draws = (np.stack([cell[part] for cell in cells]) for part in (0, 1))
    return [Logs(estimates[:, row], draws[:, row], bool(blocks)) for row in range(estimates.shape[1])]


def records(run: Run) -> list[Record]:
    """One record a prompt length, one over all lengths, one for decode, and the published one."""
    rows, ttft = [], logs_of(run, "ttft")
    counts = timed(run, "ttft").groupby(["case", "prompt_length"]).size()
    n = int(counts.min()) if len(counts) else 0
    for length, logs in zip(sorted(run.sweep["prompt_lengths"]), ttft, strict=False):
        floor = floor_ms(run, length)
        rows.append({"label": f"TTFT, {length} tokens", "n": n, "floor_ms": floor, **logs.effects()})
    if ttft:
        mean = Logs(
            np.mean([logs.estimate for logs in ttft], axis=0),
            np.mean([logs.parts for logs in ttft], axis=0),
            ttft[0].blocks,
        )
        floor = float(np.exp(np.mean(np.log([row["floor_ms"] for row in rows]))))
        rows.append({"label": "TTFT, all lengths", "n": n * len(ttft), "floor_ms": floor, **mean.effects()})
    for logs in logs_of(run, "decode"):
        steps = int(timed(run, "decode").groupby("case").size().min())
        rows.append({"label": "Decode", "n": steps, "floor_ms": of_step(run), **logs.effects()})
    means = {case: stated("ablation", "mean_latency", PUBLISHED_AS[case]) for case in CELLS}
    factors = [float(np.exp(effect)) for effect in contrasts(np.log(list(means.values())))]
    intervals = [spread(name, (factor, math.nan, math.nan)) for name, factor in zip(EFFECTS, factors, strict=True)]
    rows.append(
        {
            "label": "Published, mean latency",
            "floor_ms": math.nan,
            **means,
            **{k: v for part in intervals for k, v in part.items()},
        }
    )
    return [{"case": PUBLISHED if "n" not in row else "", "key": "Metric", **row} for row in rows]


def how(run: Run) -> str:
    """What the intervals are made of, as a sentence."""
    if blocks := shared_blocks(run):
        return (
            f"95 % intervals: Student's t over the effects of {len(blocks)} blocks, the medians being means over "
            "blocks on the log scale."
        )
    return f"95 % intervals: bootstrap over requests, since there are fewer than {MIN_BLOCKS} blocks. {INDEPENDENT}"


def table(run: Run, rows: list[Record], name: str = "ablation", caution: str = "") -> Table:
    """One row a metric: the four medians, the two factors and their interaction."""
    fields = [figure(f"{run.cases.get(case, case)} (ms)", case) for case in CELLS]
    fields += [figure(HEAD, "floor_ms")]
    fields += [estimate(title, effect, 3) for effect, title in EFFECTS.items()]
    words = "Medians; over all lengths their geometric mean. Published: factors computed here from the stated means."
    facts = f"{FACTORS} {words} {how(run)} {caution}{run.facts(row['n'] for row in rows if row.get('n'))}"
    if len(rows) == 1:
        facts = f"{'; '.join(lacking(run))} {facts}"
    return table_of(run, name, "Medians, factors and their interaction", fields, rows, facts)


def effects_table(run: Run) -> Table:
    """The same of a run that is no ablation but has the four cells; a cell behind a server is named."""
    cells = [(run.cases[case], run.manifest["config"]["cases"][case].get("transport")) for case in CELLS]
    behind = [title for title, transport in cells if transport == "unix"]
    caution = f"Behind a socket server, which adds its time: {', '.join(behind)}. " if behind else ""
    return table(run, records(run), "effects", caution)


def lacking(run: Run) -> list[str]:
    """Why there are no effects: the cells that have no samples."""
    seen = set(run.samples["case"])
    return [
        run.missing(case) if case in run.cases else f"{case} is not in this run." for case in CELLS if case not in seen
    ]


def plot(run: Run, rows: list[Record]) -> Plot:
    """Interaction plots: latency without and with graphs, a line without and with JIT; parallel means none."""
    name, title = "ablation", "JIT and graphs: is the gain of each the same with the other?"
    panels = [row for row in rows if row["label"] in ("TTFT, all lengths", "Decode", "Published, mean latency")]
    caption = "Log axes: parallel lines mean that the two factors multiply. The intervals stand in the table."
    if len(panels) == 1:
        return Plot(name, title, caption, None, "a cell of the 2x2 has no samples")
    figure_ = Figure(figsize=(SIZE[0], 4.4))
    for axes, row in zip(figure_.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        panel(axes, row)
    figure_.axes[0].set_ylabel("Latency (ms), log scale")
    keys, names = figure_.axes[0].get_legend_handles_labels()
    figure_.legend(keys, names, frameon=False, ncols=2, loc="upper left", fontsize=8.5,
                   bbox_to_anchor=(0.06, 1 - 0.36 / figure_.get_figheight()))  # fmt: skip
    counts = pd.Series([row["n"] for row in panels if "n" in row])
    figure_.subplots_adjust(wspace=0.3)
    frame_of(run, figure_, title, caption, counts, right=0.97, top_in=0.98)
    return Plot(name, title, caption, figure_)


def panel(axes: Axes, row: Record) -> None:
    """One interaction plot, labelled with its figures."""
    without, with_jit = [row[NEITHER], row[GRAPH]], [row[JIT], row[BOTH]]
    for name, values, others, look in (
        ("without JIT", without, with_jit, style.LOOKS[NEITHER]),
        ("with JIT", with_jit, without, style.LOOKS[BOTH]),
    ):
        axes.plot([0, 1], values, color=look.colour, marker=look.marker, label=name)
        for place, (value, other) in enumerate(zip(values, others, strict=True)):
            above = value >= other
            axes.annotate(f"{value:.2f}", (place, value), (0, 7 if above else -7), textcoords="offset points",
                          ha="center", va="bottom" if above else "top", fontsize=8.5)  # fmt: skip
    log_axis(axes, "y")
    low, high = min(row[case] for case in CELLS), max(row[case] for case in CELLS)
    axes.set_ylim(low / 1.25, high * 1.25)
    axes.set_xlim(-0.35, 1.35)
    axes.set_xticks([0, 1], ["no graphs", "graphs"])
    axes.set_title(row["label"], fontsize=9, fontweight="normal", pad=4)
