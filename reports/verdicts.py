"""Which differences between cases hold from block to block: the table of tests."""

from __future__ import annotations

import math

import pandas as pd

from reports import significance
from reports.blockwise import MIN_BLOCKS
from reports.marks import case_marks
from reports.overview import bracketed
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads

HOW = (
    "Ratio: how many times faster, geometric mean over prompt lengths; ratio of medians over the whole range for "
    "decode. A block is one witness, however many requests it has: Student's t over pairs of blocks with the same "
    "number, which follow each other and have the same prompts. It tests the log ratio of the pooled values; its "
    "squared standard error is that of the blocks' mean log ratio (a paired t-test has this part alone), plus the "
    "squared distance of that mean from the pooled one. Holm's correction is over all pairs and metrics "
    "of this table. The .csv has every row of the latency tables too, each row a family of its own."
)
FEW = f"Fewer than {MIN_BLOCKS} blocks in pairs, or no value to compare."


def significance_table(run: Run) -> Table:
    """One row a metric and pair of cases, the faster first: ratio, interval, p-values, verdict.

    A run of too few blocks for any test has the .csv alone.
    """
    notes, shown = Notes(), significance.overall(run)
    rows, rules = significance_rows(run, shown, notes)
    head = heads(
        "Metric",
        "Case",
        "against",
        "Ratio",
        "p",
        "p after Holm",
        "Verdict",
        left=("Metric", "Case", "against", "Verdict"),
    )
    parts = [significance.tests(run, metric) for metric in significance.POOLED]
    cells = pd.concat([part[~part["row"].isin(shown["row"])] for part in parts])
    frame = pd.concat([shown.assign(family="overall"), cells.assign(family="row")], ignore_index=True)
    title = f"Case against case: does it hold from block to block (5 %, {MIN_BLOCKS} blocks or more)?"
    facts = f"{HOW} {run.facts()}"
    tested = bool(shown["p"].notna().any())
    hidden = "" if tested else f"has nothing to test: that needs {MIN_BLOCKS} blocks or more of two cases"
    return Table(
        "significance", title, head, rows, notes, facts, run.smoke, frame, frozenset(rules[1:]), tested, hidden
    )


def significance_rows(run: Run, shown: pd.DataFrame, notes: Notes) -> tuple[list[list[Cell]], list[int]]:
    """The table's rows, and before which of them a metric begins."""
    rows: list[list[Cell]] = []
    rules: list[int] = []
    for metric in significance.POOLED:
        own = shown[shown["metric"] == metric]
        rules += [len(rows)] if len(own) else []
        for found in own.to_dict("records"):
            low, high, p = (float(found[key]) for key in ("low", "high", "p"))
            why = () if p == p else (notes.mark(FEW),)
            pair = [
                Cell(run.cases[name], case_marks(run, name, notes)) for name in map(str, (found["case"], found["over"]))
            ]
            rows.append(
                [
                    Cell(metric), *pair,
                    Cell(bracketed(float(found["ratio"]), low, high, unit="×")),
                    Cell(chance(p), why),
                    Cell(chance(float(found["holm_p"])), why),
                    Cell(str(found["verdict"]), bold=found["verdict"] == significance.FASTER),
                ]
            )  # fmt: skip
    return rows, rules


def chance(p: float) -> str:
    """A p-value with two digits that count."""
    if math.isnan(p):
        return DASH
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"
