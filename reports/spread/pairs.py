"""Every run against every other: how far each case lies apart, as it is and by what the machine explains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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


def spreads(runs: Sequence[Run]) -> list[Spread]:
    """Each metric and case that all of the runs have cells of, in the order of the page; cells that one lacks are out.

    Raises:
        ValueError: one sentence on a latency that is none, or on runs that have no cell in common.
    """
    pairs = list(itertools.combinations(range(len(runs)), 2))
    found = [{cell.key: cell for cell in cells_of(runs[a], runs[b], MARGIN) if there(cell)} for a, b in pairs]
    common = [key for key in found[0] if all(key in cells for cells in found)]
    groups = dict.fromkeys((key.metric, key.case) for key in sorted(common, key=lambda key: ORDER.index(key.metric)))
    if not groups:
        raise ValueError("these runs have no cells of the same case in common: there is nothing to set side by side")
    return [
        spread([key for key in common if (key.metric, key.case) == group], found, pairs, len(runs)) for group in groups
    ]


def there(cell: Cell) -> bool:
    """Whether both runs of a pair have the cell, and it is one that is compared here."""
    return cell.key.metric in METRICS and math.isfinite(cell.ratio.value)


def spread(
    keys: Sequence[Key], found: Sequence[dict[Key, Cell]], pairs: Sequence[tuple[int, int]], count: int
) -> Spread:
    """One case and metric: `found` has the cells of each of the `pairs` of `count` runs."""
    first = found[0][keys[0]]
    logs = np.array([[logs_of(cells[key]) for key in keys] for cells in found])
    apart = np.array([[farthest(own) for own in pair.T] for pair in logs])
    raw = apart[:, 0]
    means = tuple(mean_of(run, keys, found, pairs) for run in range(count))
    most = (float(apart[:, place].max()) for place in range(logs.shape[-1]))
    return Spread(
        keys[0].metric, keys[0].case, first.title, len(keys), means, float(raw.min()), float(np.median(raw)), *most
    )


def logs_of(cell: Cell) -> Logs:
    """The logarithms of a cell's ratios."""
    ratio = math.log(cell.ratio.value)
    return Logs(ratio, math.log(cell.scaled.value), ratio - math.log(cell.floor))


def mean_of(run: int, keys: Sequence[Key], found: Sequence[dict[Key, Cell]], pairs: Sequence[tuple[int, int]]) -> float:
    """A run's geometric mean over the cells, in ms, from the first pair that it is in."""
    place = next(number for number, pair in enumerate(pairs) if run in pair)
    sides = [(cell.a, cell.b)[pairs[place].index(run)] for cell in (found[place][key] for key in keys)]
    return float(np.exp(np.mean([math.log(side.value) for side in sides if side])))
