"""How far one run's figures lie from another's, case by case: one line where the cells are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.compare.cells import Cell
from reports.compare.tables import ORDER
from reports.table import DASH, Notes, Table, heads, number
from reports.table import Cell as Field

FACTS = (
    "B/A of the medians, of P99 of the 99th percentiles: the geometric mean over a case's cells, the lowest and the "
    "highest of them. Farthest: how far the cell that moved most lies from 1, either way (the larger of B/A and A/B)."
)
HOST = (
    " Host: B/A of the host's loop, a fixed one of Python timed right behind each of these samples (medians). In "
    "loops: B/A of latencies each divided by its loop, and the farthest cell of that: what the host's speed does not "
    "explain where kernels are launched one by one; where a graph launches them, the host explains nothing. How sure "
    "each cell of that is, over blocks, stands in the .csv of the cells (scaled_low, scaled_high)."
)
CARD = (
    " Card: B/A of the floor below these cells, by the rates of memory and arithmetic that each run measured on its "
    "card. In floors: B/A of latencies each over its run's floor, and the farthest cell of that: what the card's speed "
    "does not explain where a graph keeps the card busy; where the host is waited for, the card explains nothing."
)
LOOPS, FLOORS = ("Host", "In loops", "Farthest"), ("Card", "In floors", "Farthest")


class Move(NamedTuple):
    """A row of the .csv; `farthest` and what ends so are shares.

    Of the host's loop and of the floor: B/A of it, and what is left of the case's own B/A. They are NaN where a run
    has none beside one of the cells.
    """

    metric: str
    case: str
    title: str
    cells: int
    mean: float
    lowest: float
    highest: float
    farthest: float
    host: float
    scaled: float
    scaled_farthest: float
    card: float
    floored: float
    floored_farthest: float


def moves_of(cells: Sequence[Cell]) -> list[Move]:
    """Each metric and case with cells in both runs, in the order of the page."""
    found: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    for cell in sorted(cells, key=lambda cell: ORDER.index(cell.key.metric)):
        if math.isfinite(cell.ratio.value):
            found.setdefault((cell.key.metric, cell.key.case, cell.title), []).append(
                (cell.ratio.value, cell.host, cell.scaled.value, cell.floor)
            )
    moves = []
    for name, ratios in found.items():
        logs, hosts, scaled, floors = np.log(np.array(ratios, dtype=float)).T
        mean, low, high = (float(np.exp(value)) for value in (logs.mean(), logs.min(), logs.max()))
        beside = [part for of, left in ((hosts, scaled), (floors, logs - floors)) for part in explained(of, left)]
        moves.append(Move(*name, len(ratios), mean, low, high, farthest(logs), *beside))
    return moves


def explained(of: np.ndarray, left: np.ndarray) -> tuple[float, float, float]:
    """Means of what should explain a move and of what it leaves, by their logarithms; and the latter's farthest."""
    return float(np.exp(of.mean())), float(np.exp(left.mean())), farthest(left)


def farthest(logs: np.ndarray) -> float:
    """How far the ratio that is farthest from 1 lies from it, either way, by their logarithms."""
    return float(np.exp(np.abs(logs).max()) - 1)


def moves_table(cells: Sequence[Cell], forced: str, smoke: bool) -> Table:
    """A row a move. `forced`: what the heading says of unlike runs."""
    moves = moves_of(cells)
    looped, carded = (any(math.isfinite(getattr(one, name)) for one in moves) for name in ("host", "card"))
    rows = [
        [Field(text) for text in (one.metric, one.title, str(one.cells))]
        + fields((one.mean, one.lowest, one.highest), one.farthest)
        + (fields((one.host, one.scaled), one.scaled_farthest) if looped else [])
        + (fields((one.card, one.floored), one.floored_farthest) if carded else [])
        for one in moves
    ]
    rules = frozenset(place for place in range(1, len(moves)) if moves[place].metric != moves[place - 1].metric)
    more = (LOOPS if looped else ()) + (FLOORS if carded else ())
    head = heads("Metric", "Case", "Cells", "B/A", "Lowest", "Highest", "Farthest", *more, left=("Metric", "Case"))
    title = f"How far B lies from A{forced}"
    facts = f"{FACTS}{HOST if looped else ''}{CARD if carded else ''}"
    frame = pd.DataFrame(moves, columns=Move._fields)
    return Table("compare_moves", title, head, rows, Notes(), facts, smoke, frame, rules)


def fields(ratios: Sequence[float], share: float) -> list[Field]:
    """Ratios, and how far the farthest of them lies from 1."""
    return [*(Field(number(value, 3)) for value in ratios), Field(percent(share))]


def percent(share: float) -> str:
    """A share with one decimal, a dash for NaN."""
    return DASH if math.isnan(share) else f"{number(100 * share, 1)} %"
