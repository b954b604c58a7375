"""One case under two names: what differs though nothing does, and how often that is called significant."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from scipy.stats import t as student

from reports import significance, style
from reports.blockwise import AVERAGE, holm, range_label
from reports.canvas import canvas, end_labels
from reports.experiments.section import Field, Record, Section, figure, table_of
from reports.overview import METRICS, values_of
from reports.plots import Plot
from reports.run import Run
from reports.table import Table, number

TITLE = "A against A"
TEXT = (
    "The same code under two names, in turns, each block a process of its own: every difference is chance or drift. Of "
    "cells compared at a level of 5 %, about one in twenty may be called significant before the correction for their "
    "number, and hardly any behind it."
)
LEVEL = 0.05
FIELDS = ("pair", "metric", "cell", "ratio", "low", "high", "p", "holm_p", "verdict")
LEAST_REACH = 1.0
"""Per cent that the figure shows at least: differences below look as small as they are."""
TOLD = (
    "Least told: what the median cell of a metric would have to differ by for the first step of Holm's correction; "
    "cells of one pair share its processes, and lie to one side together."
)
BESIDE = 4.0
"""Prompt tokens by which the figure puts a pair to the right of the one before: their bars would hide each other."""
TESTS = "Student's t over paired blocks; Holm's correction is over all cells of a pair."
NONE = "Too few blocks for any test: ratios are shown, and no share of significant ones."


def section(run: Run) -> Section:
    """The tables and the figure of the experiment."""
    return Section(TITLE, TEXT, tables(run, "aa"), [plot(run, "aa", TITLE)])


def tables(run: Run, name: str) -> list[Table]:
    """Ratios of every cell, and for each pair how many of them are significant."""
    found, cells = tested(run), ratio_table(run, name)
    return [cells] if found.empty else [share_table(run, name, found), tests_table(run, name, found), cells]


def tested(run: Run) -> pd.DataFrame:
    """The tests of every prompt length and context range, averages apart, corrected over all cells of a pair.

    A ratio is the later case's value over the earlier one's. Empty where there are too few blocks for any test.
    """
    parts = [significance.tests(run, metric).assign(metric=metric) for metric in significance.POOLED]
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    found = found[~found["row"].isin((AVERAGE, range_label(run, *run.whole)))]
    if not found["p"].notna().any():
        return found.iloc[:0]
    found = found.sort_values(["metric", "row"], key=places, kind="stable")
    order = {case: place for place, case in enumerate(run.cases)}
    turned = found["case"].map(order) > found["over"].map(order)
    one, other = (
        found[column].where(~turned, found[swapped]) for column, swapped in (("case", "over"), ("over", "case"))
    )
    upside = 1 / found[["ratio", "low", "high"]]
    found = found.assign(
        pair=[f"{run.cases[later]} over {run.cases[first]}" for first, later in zip(one, other, strict=True)],
        cell=found["row"],
        ratio=found["ratio"].where(~turned, upside["ratio"]),
        low=found["low"].where(~turned, upside["high"]),
        high=found["high"].where(~turned, upside["low"]),
    )
    return pd.concat([corrected(own) for _, own in found.groupby("pair", sort=False)], ignore_index=True)


def places(column: pd.Series) -> pd.Series:
    """Where metrics and cells stand: metrics as tables have them, cells by their first length, 50 before 100."""
    order = {metric: place for place, metric in enumerate(significance.POOLED)}
    return column.map(order) if column.name == "metric" else column.str.extract(r"^(\d+)", expand=False).astype(int)


def corrected(own: pd.DataFrame) -> pd.DataFrame:
    """With `holm_p` over all of these cells, and what that makes of each."""
    holm_p = holm(own["p"].to_numpy(dtype=float))
    verdict = ["not tested" if math.isnan(p) else "differs" if p <= LEVEL else "not told apart" for p in holm_p]
    return own.assign(holm_p=holm_p, verdict=verdict)


def share_table(run: Run, name: str, found: pd.DataFrame) -> Table:
    """One row a pair: cells that were tested, and those that are significant before and behind the correction."""
    rows: list[Record] = []
    for pair, own in found.groupby("pair", sort=False):
        known = own[own["p"].notna()]
        rows.append({
            "label": str(pair), "key": "Pair", "n": len(known),
            "significant": int((known["holm_p"] < LEVEL).sum()), "uncorrected": int((known["p"] < LEVEL).sum()),
            "least_ratio": own["ratio"].min(), "greatest_ratio": own["ratio"].max(), **told(known),
        })  # fmt: skip
    fields = [
        Field("Cells tested", lambda row: str(row["n"])),
        Field("Significant (Holm)", lambda row: share(row["significant"], row["n"])),
        Field("p below 5 %, uncorrected", lambda row: share(row["uncorrected"], row["n"])),
        figure("Least ratio", "least_ratio", 3), figure("Greatest ratio", "greatest_ratio", 3),
        *(figure(f"Least told, {metric} (%)", f"told_{metric.lower()}", 1) for metric in significance.POOLED),
    ]  # fmt: skip
    facts = f"A cell is a metric at a prompt length or context range. {TOLD} {run.facts(run.ttft['n'])}"
    return table_of(run, f"{name}_share", "Cells that are called significantly different", fields, rows, facts)


def told(known: pd.DataFrame) -> Record:
    """For each metric the least difference, in per cent, that the first step of Holm's correction would call
    significant, in its median cell; NaN without one. The error of a cell is its interval's half-width over t."""
    freedom = known["blocks"] - 1
    errors = np.log(known["high"] / known["low"]) / 2 / student.ppf(1 - LEVEL / 2, freedom)
    least = 100 * np.expm1(errors * student.ppf(1 - LEVEL / 2 / max(1, len(known)), freedom))
    return {
        f"told_{metric.lower()}": float(least[known["metric"] == metric].median()) for metric in significance.POOLED
    }


def share(count: int, of: int) -> str:
    """`2 of 27 (7.4 %)`."""
    return f"{count} of {of} ({count / of:.1%})".replace("%)", " %)") if of else f"{count} of 0"


def tests_table(run: Run, name: str, found: pd.DataFrame) -> Table:
    """Every cell that was tested."""
    records = found[list(FIELDS)].to_dict("records")
    rows = [{**{str(key): value for key, value in one.items()}, "label": one["pair"], "key": "Pair"} for one in records]
    fields = [
        Field("Metric", lambda row: str(row["metric"]), left=True), Field("Cell", lambda row: str(row["cell"])),
        Field("Ratio", lambda row: interval(row["ratio"], row["low"], row["high"])),
        figure("p", "p", 3), figure("p (Holm)", "holm_p", 3),
        Field("Verdict", lambda row: str(row["verdict"]), left=True),
    ]  # fmt: skip
    facts = f"{TESTS} {run.facts(run.ttft['n'])}"
    return table_of(run, f"{name}_tests", "Cell by cell", fields, rows, facts)


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
    there = not tested(run).empty
    lost = [run.missing(case) for case in run.cases if run.lost_blocks(case)]
    words = [*lost, *([] if there else [NONE]), "TTFT and decode: of medians; decode over its whole range."]
    counts = run.ttft["n"]
    return table_of(run, name, "One value over the other", fields, rows, f"{' '.join(words)} {run.facts(counts)}")


def plot(run: Run, name: str, title: str) -> Plot:
    """Differences of the medians of TTFT by prompt length, a line a pair, with the tests' intervals where there are."""
    caption = "How far the median of one name lies above that of the other: 0 where they are alike."
    rows = [row for row in ratios(run) if row["metric"] == "TTFT"]
    if not rows:
        return Plot(name, title, caption, None, "no two cases have samples of one length")
    spans = ttft_spans(run)
    caption += " Bars: 95 % intervals of the tests, over blocks." if spans else ""
    drawn, axes = canvas(run, title, caption, run.ttft["n"])
    ends = []
    looks = [style.LOOKS[case] for case in ("jit_cuda_graph", "jit", "cuda_graph")]
    for place, ((one, other, pair), own) in enumerate(
        pd.DataFrame(rows).groupby(["one", "other", "label"], sort=False)
    ):
        look, percent = looks[place % len(looks)], (own["ratio"] - 1) * 100
        beside = own["place"] + BESIDE * place
        axes.plot(beside, percent, color=look.colour, marker=look.marker)
        for at, shown in zip(own["place"], beside, strict=True):
            if (str(pair), at) in spans:
                axes.plot([shown, shown], spans[str(pair), at], color=look.colour, linewidth=1.0, alpha=0.6)
        ends.append((float(percent.iloc[-1]), f"{other} over {one}", look.colour))
    axes.axhline(0.0, color=style.FLOOR, linestyle="--", linewidth=1.2)
    furthest = max(abs(row["ratio"] - 1) * 100 for row in rows)
    reach = max(LEAST_REACH, 1.1 * max([furthest, *(abs(end) for span in spans.values() for end in span)]))
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("Prompt length (tokens)")
    axes.set_ylabel("Difference (%)")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    end_labels(axes, ends)
    return Plot(name, title, caption, drawn)


def ttft_spans(run: Run) -> dict[tuple[str, float], tuple[float, float]]:
    """The tests' intervals in per cent, by pair and prompt length."""
    found = tested(run)
    found = found[(found["metric"] == "TTFT") & found["low"].notna()]
    return {
        (str(row["pair"]), float(row["cell"])): ((row["low"] - 1) * 100, (row["high"] - 1) * 100)
        for row in found.to_dict("records")
    }
