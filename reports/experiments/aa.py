"""One case under two names: what differs though nothing does, and how often that is called significant."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import pandas as pd

from reports import style
from reports.canvas import canvas, end_labels
from reports.experiments.section import Field, Record, Section, figure, table_of
from reports.overview import METRICS, values_of
from reports.plots import Plot
from reports.run import Run, load_table
from reports.table import Table, number

TITLE = "A against A"
TEXT = (
    "The same code under two names, in turns, each block a process of its own: every difference is chance or drift. Of "
    "cells compared at a level of 5 %, about one in twenty may be called significant before the correction for their "
    "number, and hardly any behind it."
)
LEVEL = 0.05
SIGNIFICANCE = ("pair", "metric", "cell", "ratio", "low", "high", "p", "holm_p", "verdict")
LEAST_REACH = 1.0
"""Per cent that the figure shows at least: differences below look as small as they are."""
WORDS = {"pair", "metric", "cell", "verdict"}
NONE = "significance.csv is not in this run's folder: ratios are shown, and no share of significant ones."


def section(run: Run) -> Section:
    """The tables and the figure of the experiment."""
    return Section(TITLE, TEXT, tables(run, "aa"), [plot(run, "aa", TITLE)])


def tables(run: Run, name: str) -> list[Table]:
    """Ratios of every cell, and for each pair how many of them are significant."""
    found, cells = significance(run.path), ratio_table(run, name)
    return [cells] if found is None else [share_table(run, name, found), tests_table(run, name, found), cells]


def significance(folder: Path) -> pd.DataFrame | None:
    """significance.csv of a run or of its report, None where there is none. Raises ValueError with one sentence."""
    for path in (folder / "significance.csv", folder / "report" / "significance.csv"):
        if path.is_file():
            others = set(pd.read_csv(path, nrows=0).columns) - set(SIGNIFICANCE)
            return load_table(path, SIGNIFICANCE, text=WORDS | others)
    return None


def share_table(run: Run, name: str, found: pd.DataFrame) -> Table:
    """One row a pair: cells that were tested, and those that are significant before and behind the correction."""
    rows: list[Record] = []
    for pair, own in found.groupby("pair", sort=False):
        tested = own[own["holm_p"].notna() | own["p"].notna()]
        rows.append({
            "label": str(pair), "key": "Pair", "n": len(tested),
            "significant": int((tested["holm_p"] < LEVEL).sum()), "uncorrected": int((tested["p"] < LEVEL).sum()),
            "least_ratio": own["ratio"].min(), "greatest_ratio": own["ratio"].max(),
        })  # fmt: skip
    fields = [
        Field("Cells tested", lambda row: str(row["n"])),
        Field("Significant (Holm)", lambda row: share(row["significant"], row["n"])),
        Field("p below 5 %, uncorrected", lambda row: share(row["uncorrected"], row["n"])),
        figure("Least ratio", "least_ratio", 3), figure("Greatest ratio", "greatest_ratio", 3),
    ]  # fmt: skip
    facts = f"A cell is a metric at a prompt length or context range. {run.facts()}"
    return table_of(run, f"{name}_share", "Cells that are called significantly different", fields, rows, facts)


def share(count: int, of: int) -> str:
    """`2 of 27 (7.4 %)`."""
    return f"{count} of {of} ({count / of:.1%})".replace("%)", " %)") if of else f"{count} of 0"


def tests_table(run: Run, name: str, found: pd.DataFrame) -> Table:
    """Every cell of significance.csv as it stands there."""
    records = found[list(SIGNIFICANCE)].to_dict("records")
    rows = [{**{str(key): value for key, value in one.items()}, "label": one["pair"], "key": "Pair"} for one in records]
    fields = [
        Field("Metric", lambda row: str(row["metric"]), left=True), Field("Cell", lambda row: str(row["cell"])),
        Field("Ratio", lambda row: interval(row["ratio"], row["low"], row["high"])),
        figure("p", "p", 3), figure("p (Holm)", "holm_p", 3),
        Field("Verdict", lambda row: str(row["verdict"]), left=True),
    ]  # fmt: skip
    return table_of(run, f"{name}_tests", "Cell by cell", fields, rows, f"From significance.csv. {run.facts()}")


def interval(value: float, low: float, high: float) -> str:
    """A ratio with its interval, empty where there is none."""
    if math.isnan(value):
        return ""
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{number(low, 3)}, {number(high, 3)}]"
    return f"{number(value, 3)}{ends}"


def ratios(run: Run) -> list[Record]:
    """One record a pair, metric and row of the tables: the later case's value over the earlier one's."""
    rows: list[Record] = []
    for one, other in combinations(run.cases, 2):
        for metric in METRICS:
            ours, theirs = values_of(run, metric, other), values_of(run, metric, one)
            for place in sorted(set(ours.index) & set(theirs.index)):
                rows.append({
                    "label": f"{run.cases[other]} over {run.cases[one]}", "key": "Pair", "one": one, "other": other,
                    "metric": metric, "place": float(place), "ratio": float(ours[place] / theirs[place]),
                })  # fmt: skip
    return rows


def ratio_table(run: Run, name: str) -> Table:
    """The ratio of the two values of each cell: of the medians of TTFT and decode, of the P99."""
    rows = ratios(run)
    fields = [
        Field("Metric", lambda row: str(row["metric"]), left=True),
        Field("Prompt tokens", lambda row: f"{row['place']:.0f}"), figure("Ratio", "ratio", 3),
    ]  # fmt: skip
    there = significance(run.path) is not None
    lost = [run.missing(case) for case in run.cases if run.lost_blocks(case)]
    words = [*lost, *([] if there else [NONE]), "TTFT and decode: of medians; decode over its whole range."]
    counts = run.ttft["n"]
    return table_of(run, name, "One value over the other", fields, rows, f"{' '.join(words)} {run.facts(counts)}")


def plot(run: Run, name: str, title: str) -> Plot:
    """Differences of the medians of TTFT by prompt length, a line a pair."""
    caption = "How far the median of one name lies above that of the other: 0 where they are alike."
    rows = [row for row in ratios(run) if row["metric"] == "TTFT"]
    if not rows:
        return Plot(name, title, caption, None, "no two cases have samples of one length")
    drawn, axes = canvas(run, title, caption, run.ttft["n"])
    ends = []
    looks = [style.LOOKS[case] for case in ("jit_cuda_graph", "jit", "cuda_graph")]
    for place, ((one, other), own) in enumerate(pd.DataFrame(rows).groupby(["one", "other"], sort=False)):
        look, percent = looks[place % len(looks)], (own["ratio"] - 1) * 100
        axes.plot(own["place"], percent, color=look.colour, marker=look.marker)
        ends.append((float(percent.iloc[-1]), f"{other} to {one}", look.colour))
    axes.axhline(0.0, color=style.FLOOR, linestyle="--", linewidth=1.2)
    reach = max(LEAST_REACH, *(1.1 * abs(row["ratio"] - 1) * 100 for row in rows))
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("Prompt length (tokens)")
    axes.set_ylabel("Difference (%)")
    axes.yaxis.set_major_formatter("{x:g}")
    end_labels(axes, ends)
    return Plot(name, title, caption, drawn)
