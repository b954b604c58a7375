"""How far one run's figures lie from another's, case by case: one line where the cells are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.compare.cells import Cell
from reports.compare.tables import ORDER
from reports.table import Cell as Field
from reports.table import Notes, Table, heads, number

FACTS = (
    "B/A of the medians, of P99 of the 99th percentiles: the geometric mean over a case's cells, the lowest and the "
    "highest of them. Farthest: how far the cell that moved most lies from 1, either way (the larger of B/A and A/B)."
)


class Move(NamedTuple):
    """A row of the .csv; `farthest` is a share."""

    metric: str
    case: str
    title: str
    cells: int
    mean: float
    lowest: float
    highest: float
    farthest: float


def moves_of(cells: Sequence[Cell]) -> list[Move]:
    """Each metric and case with cells in both runs, in the order of the page."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for cell in sorted(cells, key=lambda cell: ORDER.index(cell.key.metric)):
        if math.isfinite(cell.ratio.value):
            found.setdefault((cell.key.metric, cell.key.case, cell.title), []).append(cell.ratio.value)
    moves = []
    for name, ratios in found.items():
        logs = np.log(ratios)
        mean, farthest = float(np.exp(logs.mean())), float(np.exp(np.abs(logs).max()) - 1)
        moves.append(Move(*name, len(ratios), mean, min(ratios), max(ratios), farthest))
    return moves


def moves_table(cells: Sequence[Cell], forced: str, smoke: bool) -> Table:
    """A row a move. `forced`: what the heading says of unlike runs."""
    moves = moves_of(cells)
    rows = [
        [Field(text) for text in (one.metric, one.title, str(one.cells))]
        + [Field(number(value, 3)) for value in (one.mean, one.lowest, one.highest)]
        + [Field(f"{100 * one.farthest:.1f} %")]
        for one in moves
    ]
    rules = frozenset(place for place in range(1, len(moves)) if moves[place].metric != moves[place - 1].metric)
    columns = ("Metric", "Case", "Cells", "B/A", "Lowest", "Highest", "Farthest")
    head = heads(*columns, left=("Metric", "Case"))
    title = f"How far B lies from A{forced}"
    frame = pd.DataFrame(moves, columns=Move._fields)
    return Table("compare_moves", title, head, rows, Notes(), FACTS, smoke, frame, rules)
