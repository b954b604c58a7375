"""What the tables have in common: published figures, measured columns beside them, dashes that say why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from reports.marks import case_marks
from reports.paper.runs import NAMES, Runs, absent, engine, impersonates, why_no_engine
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number

FACTS = "Published figures, copied as they are stated; nothing here was measured by this harness."
COPIED = "Published: copied as stated, not measured by this harness."
STAND_IN = (
    "The published fifth case under its own name: it imports the package of TensorRT-LLM, then loads and times the "
    "model of Transformers."
)
UNDER_ANOTHER = "Published under the name of TensorRT-LLM."
WORDS = ("Winner", "Metric", "Case", "over")
"""Columns of words, which are set left."""
Marks = Mapping[str, tuple[str, ...]]


def made(
    name: str, title: str, frame: pd.DataFrame, columns: Sequence[str], rows: list[list[Cell]], facts: str = "",
    notes: Notes | None = None, rules: frozenset[int] = frozenset(),
) -> Table:  # fmt: skip
    """A table of published figures; the first column is set left, and one of winners."""
    headings = heads(*columns, left=(columns[0], *WORDS))
    said = " ".join(filter(None, [facts, FACTS]))
    return Table(f"paper_{name}", title, headings, rows, notes or Notes(), said, False, frame, rules)


def beside(table: Table, facts: str, runs: Iterable[Run | None]) -> Table:
    """The same table with measured columns: its facts tell both halves apart; a smoke run stamps it."""
    smoke = any(run.smoke for run in runs if run)
    return replace(table, facts=f"{table.facts.replace(FACTS, COPIED)} {facts}".strip(), smoke=smoke)


def line(values: pd.Series, marks: Marks, competing: Iterable[str] | None = None) -> list[Cell]:
    """Latencies of one row, the lowest of those `competing` in bold."""
    best = values[list(values.index if competing is None else competing)].min()
    return [Cell(number(value), marks.get(str(case), ()), value == best) for case, value in values.items()]


def said_of(runs: Runs, counts: Mapping[str, Iterable[int]]) -> str:
    """The facts of the runs under both protocols, with the `counts` of samples behind their figures."""
    return " ".join(
        f"{NAMES[name]}: {run.facts(counts.get(name, ()))}" for name, run in runs.both.items() if run is not None
    )


def figure(value: float, notes: Notes, why: str, digits: int = 2, unit: str = "") -> Cell:
    """A figure, or a dash with the reason."""
    return Cell(DASH, (notes.mark(why),)) if math.isnan(value) else Cell(number(value, digits) + unit)


def why_not(run: Run | None, name: str, case: str) -> str:
    """Why a case has no figure in a run that may not be there."""
    if run is None:
        return absent(name)
    if case == "tensorrt_llm" and case != engine(run):
        return why_no_engine(run)
    return run.missing(case) if case in run.cases else f"The run {run.manifest['run']} has no case {case}."


def head_of(run: Run, case: str, notes: Notes) -> tuple[str, ...]:
    """The marks of a case's title: what the stand-in is, why there is no figure, what it failed in."""
    marks = case_marks(run, case, notes)
    if not impersonates(run, case):
        return marks
    real = engine(run)
    ran = bool(real) and real in set(run.samples["case"])
    return (*marks, notes.mark(STAND_IN if ran else f"{STAND_IN} The engine itself: {why_no_engine(run)}"))
