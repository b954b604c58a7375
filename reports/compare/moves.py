"""How far one run's figures lie from another's, case by case: one line where the cells are many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.compare.cells import Cell
from reports.table import Cell as Field
from reports.table import Notes, Table, heads, number

METRICS = ("TTFT", "P99", "Decode", "Cold TTFT", "Stream", "Quiet", "Busy")
FACTS = (
    "B/A of the medians, of P99 of the 99th percentiles: the geometric mean over a case's cells, the lowest and the "
    "highest of them. Farthest: how far the cell that moved most lies from 1, either way (the larger of B/A and A/B)."
)


def moves_table(cells: Sequence[Cell], forced: str, smoke: bool) -> Table:
    """A row a metric and case with cells in both runs. `forced`: what the heading says of unlike runs."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for metric in METRICS:
        for cell in cells:
            if cell.key.metric == metric and math.isfinite(cell.ratio.value):
                found.setdefault((metric, cell.key.case, cell.title), []).append(cell.ratio.value)
    records = [record(*name, np.array(ratios)) for name, ratios in found.items()]
    rows = [
        [Field(str(one["metric"])), Field(str(one["title"])), Field(str(one["cells"]))]
        + [Field(number(float(str(one[key])), 3)) for key in ("mean", "lowest", "highest")]
        + [Field(f"{100 * float(str(one['farthest'])):.1f} %")]
        for one in records
    ]
    names = [str(one["metric"]) for one in records]
    rules = frozenset(place for place in range(1, len(names)) if names[place] != names[place - 1])
    columns = ("Metric", "Case", "Cells", "B/A", "Lowest", "Highest", "Farthest")
    head = heads(*columns, left=("Metric", "Case"))
    title = f"How far B lies from A{forced}"
    return Table("compare_moves", title, head, rows, Notes(), FACTS, smoke, pd.DataFrame(records), rules)


def record(metric: str, case: str, title: str, ratios: np.ndarray) -> dict[str, object]:
    """The row of the .csv."""
    logs = np.log(ratios)
    return {
        "metric": metric, "case": case, "title": title, "cells": len(ratios), "mean": float(np.exp(logs.mean())),
        "lowest": float(ratios.min()), "highest": float(ratios.max()),
        "farthest": float(np.exp(np.abs(logs).max()) - 1),
    }  # fmt: skip
