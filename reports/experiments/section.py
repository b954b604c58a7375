"""What every experiment's section is made of: its files, the published figures, tables from records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from harness import schema
from reports.files import load_table
from reports.marks import case_marks
from reports.plots import Plot
from reports.run import Run, answered
from reports.table import DASH, Cell, Column, Notes, Table, number

PAPER = Path(__file__).resolve().parents[2] / "results" / "paper"
PUBLISHED = "published"
TEXTS = ("source", "metric", "case", "table", "quantity", "value", "unit")
"""Columns of the published figures that are text: how many decimals a value was stated with is part of it."""
COLUMNS = {"captures": schema.CAPTURES, "eviction": schema.EVICTION, "memory": schema.MEMORY,
           "energy": schema.ENERGY, "identity": schema.IDENTITY}  # fmt: skip
INDEPENDENT = "Intervals of 95 % take the samples for independent, pooled over blocks."
Record = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """An experiment's part of the report, ahead of all others."""

    title: str
    text: str
    tables: list[Table]
    plots: list[Plot]


@dataclass(frozen=True)
class Field:
    """A column: its heading, and a record's text in it; an empty text is a dash with the reason."""

    head: str
    text: Callable[[Record], str]
    left: bool = False


def figure(head: str, key: str, digits: int = 2) -> Field:
    """A column of numbers with fixed decimals."""
    return Field(head, lambda record: "" if math.isnan(record[key]) else number(record[key], digits))


def estimate(head: str, key: str, digits: int = 2, unit: str = "") -> Field:
    """A column of numbers with their intervals, from the keys `key`, `key_low` and `key_high`.

    A record's `key_max` stands in, named so, where the samples are too few for the quantile.
    """

    def text(record: Record) -> str:
        value, low, high = record[key], record.get(f"{key}_low", math.nan), record.get(f"{key}_high", math.nan)
        most = record.get(f"{key}_max", math.nan)
        if math.isnan(value):
            return "" if math.isnan(most) else f"max {number(most, digits)} (n={record['n']:.0f})"
        interval = "" if math.isnan(low) else f" [{number(low, digits)}, {number(high, digits)}]"
        return number(value, digits) + unit + interval

    return Field(head, text)


def spread(key: str, found: tuple[float, float, float]) -> Record:
    """An estimate as the three entries that `estimate` reads."""
    return dict(zip((key, f"{key}_low", f"{key}_high"), found, strict=True))


def table_of(run: Run, name: str, title: str, fields: Sequence[Field], records: list[Record], facts: str) -> Table:
    """A table of records, each with its `case`: one of the run's, or PUBLISHED, or another row's `label`.

    A record's `note` says why it lacks figures; without one, the status of its case does.
    """
    notes = Notes()
    rows = [[row_head(run, record, notes), *(cell_of(run, record, f, notes) for f in fields)] for record in records]
    key = next((str(record["key"]) for record in records if "key" in record), "Case")
    columns = [Column(Cell(key), "left"), *(Column(Cell(f.head), "left" if f.left else "right") for f in fields)]
    frame = pd.DataFrame(records).drop(columns=["note", "key"], errors="ignore")
    return Table(name, title, columns, rows, notes, facts, run.smoke, frame)


def row_head(run: Run, record: Record, notes: Notes) -> Cell:
    """The name of a row, with the marks of its case."""
    case = str(record.get("case", ""))
    if "label" in record:
        return Cell(str(record["label"]), case_marks(run, case, notes) if case in run.cases else ())
    if case == PUBLISHED:
        return Cell("Published")
    return Cell(run.cases[case], case_marks(run, case, notes))


def cell_of(run: Run, record: Record, field: Field, notes: Notes) -> Cell:
    """One field, or a dash that says why."""
    if text := field.text(record):
        return Cell(text)
    case = str(record.get("case", ""))
    if record.get("note"):
        return Cell(DASH, (notes.mark(record["note"]),))
    if case == PUBLISHED:
        return Cell(DASH, (notes.mark("Not stated in the published texts."),))
    if case in run.cases and case not in set(run.samples["case"]):
        return Cell(DASH, (notes.mark(run.missing(case)),))
    return Cell(DASH)


def table_file(run: Run, name: str) -> pd.DataFrame:
    """captures.csv, eviction.csv and their like, without blocks in which something else answered; empty when no case
    gave any. Raises ValueError with one sentence."""
    path = run.path / f"{name}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS[name]))
    return answered(load_table(path, COLUMNS[name]), run.status)


def first_block(frame: pd.DataFrame, case: str) -> pd.DataFrame:
    """The rows of a case's first block that has any: pools of two processes don't add up."""
    own = frame[frame["case"] == case]
    return own[own["block"] == own["block"].min()]


@cache
def paper(name: str) -> pd.DataFrame:
    """A table of the published figures. Raises ValueError with one sentence when it is not in the checkout."""
    path = PAPER / f"{name}.csv"
    load_table(path, (), text=TEXTS)  # for its sentences
    return pd.read_csv(path)


def stated(table: str, quantity: str, case: str) -> float:
    """A figure that the published texts state, NaN when they don't."""
    found = paper("stated")
    rows = found[(found["table"] == table) & (found["quantity"] == quantity) & (found["case"] == case)]
    return float(rows["value"].iloc[0]) if len(rows) else math.nan


def timed(run: Run, metric: str) -> pd.DataFrame:
    """The samples of one metric, but for the iterations of a sweep beyond those of TTFT."""
    rows = run.samples[run.samples["metric"] == metric]
    return rows[rows["iteration"] < run.sweep["ttft_iterations"]] if metric == "ttft" else rows


def seed_of(run: Run) -> int:
    """The seed of everything that is drawn at random: the run's own."""
    return run.seed
