"""Every run against every other: how far each case lies apart, as it is and by what the machine explains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from reports.compare.cells import Cell, Key, cells_of
from reports.compare.moves import Move, moves_of
from reports.compare.tables import ORDER
from reports.compare.verdict import MARGIN
from reports.run import Run

METRICS = ORDER[: ORDER.index("Cold TTFT")]
"""Those with a cell for each length; a cold start is one sample a process."""


class Spread(NamedTuple):
    """A case's cells of one metric over several runs.

    `means` are each run's geometric mean over the cells, in ms. The others are shares: how far that cell of a pair of
    runs lies from 1 that lies farthest, in the pair that is closest, the one in the middle (the mean of two where
    there are as many) and the farthest; and of the farthest pair with each latency over the host's loop beside it, and
    over its run's floor, NaN where a run has none.
    """

    metric: str
    case: str
    title: str
    cells: int
    means: tuple[float, ...]
    closest: float
    middle: float
    farthest: float
    in_loops: float
    in_floors: float


class Between(NamedTuple):
    """How far one case lies in one metric from the first run of a pair to the second, by their places."""

    first: int
    second: int
    move: Move

    @property
    def group(self) -> tuple[str, str]:
        """What is told side by side."""
        return self.move.metric, self.move.case


class Paired(NamedTuple):
    """Runs by their places, two and two; each pair's cells; the keys of those that all pairs have, in order; and what
    some run has and not all do, in words."""

    pairs: list[tuple[int, int]]
    cells: list[dict[Key, Cell]]
    keys: list[Key]
    lost: list[str]

    @property
    def runs(self) -> int:
        """How many."""
        return self.pairs[-1][1] + 1

    def values(self, key: Key) -> list[float]:
        """A cell in each run, in ms; a run's from the first pair that it is in."""
        found = []
        for run in range(self.runs):
            place = next(number for number, pair in enumerate(self.pairs) if run in pair)
            cell = self.cells[place][key]
            side = (cell.a, cell.b)[self.pairs[place].index(run)]
            found.append(math.nan if side is None else side.value)
        return found


def pair_up(runs: Sequence[Run], cases: Collection[str] = ()) -> Paired:
    """Every run against every other, in the order of the page; cells that one lacks are out, and cases left unnamed
    where some are named.

    Raises:
        ValueError: one sentence on a latency that is none, on runs that have no cell in common, or on a case that
            they don't all have.
    """
    pairs = list(itertools.combinations(range(len(runs)), 2))
    every = [cells_of(runs[a], runs[b], MARGIN) for a, b in pairs]
    found = [{cell.key: cell for cell in cells if there(cell)} for cells in every]
    common = [key for key in found[0] if all(key in cells for cells in found)]
    if not common:
        raise ValueError("these runs have no cells of the same case in common: there is nothing to set side by side")
    known = list(dict.fromkeys(key.case for key in common))
    if unknown := next((case for case in cases if case not in known), None):
        raise ValueError(f"these runs have no cells of the case {unknown!r} in common: choose among {', '.join(known)}")
    chosen = [key for key in common if not cases or key.case in cases]
    chosen.sort(key=lambda key: ORDER.index(key.metric))
    told = {(key.metric, key.case) for key in chosen}
    titles = {
        (cell.key.metric, cell.key.case): f"{cell.key.metric} of {cell.title}"
        for cells in every
        for cell in cells
        if cell.key.metric in METRICS and (not cases or cell.key.case in cases) and (cell.a or cell.b)
    }
    return Paired(pairs, found, chosen, [title for group, title in titles.items() if group not in told])


def between(paired: Paired) -> list[Between]:
    """Metric by metric and case by case the pairs, the closest first."""
    found = [
        Between(*pair, move)
        for pair, cells in zip(paired.pairs, paired.cells, strict=True)
        for move in moves_of([cells[key] for key in paired.keys])
    ]
    groups = list(dict.fromkeys((key.metric, key.case) for key in paired.keys))
    return sorted(found, key=lambda one: (groups.index(one.group), one.move.farthest))


def spreads(paired: Paired, found: Sequence[Between]) -> list[Spread]:
    """Each metric and case that all of the runs have cells of."""
    groups = dict.fromkeys(one.group for one in found)
    return [spread(paired, [one.move for one in found if one.group == group]) for group in groups]


def there(cell: Cell) -> bool:
    """Whether both runs of a pair have the cell, and it is one that is compared here."""
    return cell.key.metric in METRICS and math.isfinite(cell.ratio.value)


def spread(paired: Paired, moves: Sequence[Move]) -> Spread:
    """One case and metric, by its pairs."""
    one = moves[0]
    keys = [key for key in paired.keys if (key.metric, key.case) == (one.metric, one.case)]
    means = np.exp(np.log([paired.values(key) for key in keys]).mean(axis=0))
    apart = np.array([(move.farthest, move.scaled_farthest, move.floored_farthest) for move in moves])
    raw = apart[:, 0]
    return Spread(
        one.metric, one.case, one.title, len(keys), tuple(map(float, means)), float(raw.min()), float(np.median(raw)),
        *map(float, apart.max(axis=0)),
    )  # fmt: skip
