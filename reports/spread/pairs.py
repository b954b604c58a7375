"""Every run against every other: how far each case lies apart, as it is and by what the machine explains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from reports.compare.cells import Cell, Key, cells_of
from reports.compare.moves import farthest
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


class Logs(NamedTuple):
    """Of a cell and a pair of runs, logarithms of the ratio: as it is, in loops, in floors."""

    ratio: float
    loops: float
    floors: float


class Paired(NamedTuple):
    """Runs by their places, two and two; each pair's cells; and the keys of those that all pairs have, in order."""

    pairs: list[tuple[int, int]]
    cells: list[dict[Key, Cell]]
    keys: list[Key]

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
    found = [{cell.key: cell for cell in cells_of(runs[a], runs[b], MARGIN) if there(cell)} for a, b in pairs]
    common = [key for key in found[0] if all(key in cells for cells in found)]
    if not common:
        raise ValueError("these runs have no cells of the same case in common: there is nothing to set side by side")
    known = list(dict.fromkeys(key.case for key in common))
    if unknown := next((case for case in cases if case not in known), None):
        raise ValueError(f"these runs have no cells of the case {unknown!r} in common: choose among {', '.join(known)}")
    chosen = [key for key in common if not cases or key.case in cases]
    return Paired(pairs, found, sorted(chosen, key=lambda key: ORDER.index(key.metric)))


def spreads(paired: Paired) -> list[Spread]:
    """Each metric and case that all of the runs have cells of."""
    groups = dict.fromkeys((key.metric, key.case) for key in paired.keys)
    return [spread([key for key in paired.keys if (key.metric, key.case) == group], paired) for group in groups]


def there(cell: Cell) -> bool:
    """Whether both runs of a pair have the cell, and it is one that is compared here."""
    return cell.key.metric in METRICS and math.isfinite(cell.ratio.value)


def spread(keys: Sequence[Key], paired: Paired) -> Spread:
    """One case and metric."""
    first = paired.cells[0][keys[0]]
    logs = np.array([[logs_of(cells[key]) for key in keys] for cells in paired.cells])
    apart = np.array([[farthest(own) for own in pair.T] for pair in logs])
    raw = apart[:, 0]
    means = np.exp(np.log([paired.values(key) for key in keys]).mean(axis=0))
    most = (float(apart[:, place].max()) for place in range(logs.shape[-1]))
    return Spread(
        keys[0].metric, keys[0].case, first.title, len(keys), tuple(map(float, means)), float(raw.min()),
        float(np.median(raw)), *most,
    )  # fmt: skip


def logs_of(cell: Cell) -> Logs:
    """The logarithms of a cell's ratios."""
    ratio = math.log(cell.ratio.value)
    return Logs(ratio, math.log(cell.scaled.value), ratio - math.log(cell.floor))
