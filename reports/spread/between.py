"""Each pair of machines by itself: how far a case moved from one to the other, and how far their hosts lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from reports.compare.moves import Move, moves_of, percent
from reports.run import Run
from reports.spread.pairs import Paired
from reports.spread.tables import LETTERS, facts_of
from reports.table import Cell, Notes, Table, heads, number

MOST = 150
"""Rows that are shown; more are in the .csv alone."""
EACH = (
    "Pair A–B: B over A, the geometric mean over the cells. Host: the same of the host's loop, a fixed one of Python "
    "timed right behind each of these samples (medians). Farthest: the cell of the pair that lies farthest from 1, "
    "either way; in loops, in floors: that with each latency over the loop beside it, or over its own run's floor. "
    "The pairs of a case stand in the order of their farthest cells."
)


class Between(NamedTuple):
    """How far one case lies in one metric from the first machine of a pair to the second, by their letters."""

    first: str
    second: str
    move: Move

    @property
    def group(self) -> tuple[str, str]:
        """What is told side by side."""
        return self.move.metric, self.move.case


def between(paired: Paired) -> list[Between]:
    """Metric by metric and case by case the pairs, the closest first."""
    found = [
        Between(LETTERS[a], LETTERS[b], move)
        for (a, b), cells in zip(paired.pairs, paired.cells, strict=True)
        for move in moves_of([cells[key] for key in paired.keys])
    ]
    groups = list(dict.fromkeys((key.metric, key.case) for key in paired.keys))
    return sorted(found, key=lambda one: (groups.index(one.group), one.move.farthest))


def pairs_table(runs: Sequence[Run], found: Sequence[Between], forced: str) -> Table:
    """A row a metric, case and pair."""
    looped = any(math.isfinite(one.move.host) for one in found)
    names = ("Metric", "Case", "Pair", "Ratio", *(["Host"] if looped else []), "Farthest")
    head = heads(*names, *(["In loops"] if looped else []), "In floors", left=("Metric", "Case", "Pair"))
    rows = [[Cell(text) for text in row_of(one, looped=looped)] for one in found]
    rules = frozenset(place for place in range(1, len(found)) if found[place].group != found[place - 1].group)
    frame = pd.DataFrame({"first": one.first, "second": one.second, **one.move._asdict()} for one in found)
    smoke = any(run.smoke for run in runs)
    facts = f"{EACH} {facts_of(runs)}"
    hidden = f"has {len(rows)} rows, too many to read here: --to writes them as .csv" if len(rows) > MOST else ""
    return Table(
        "spread_pairs", f"Every machine beside every other{forced}", head, rows, Notes(), facts, smoke, frame, rules,
        shown=not hidden, why_hidden=hidden,
    )  # fmt: skip


def row_of(one: Between, *, looped: bool) -> list[str]:
    """A pair in words."""
    move = one.move
    host = [number(move.host, 3)] if looped else []
    in_loops = [percent(move.scaled_farthest)] if looped else []
    words = [move.metric, move.title, f"{one.first}–{one.second}", number(move.mean, 3), *host, percent(move.farthest)]
    return [*words, *in_loops, percent(move.floored_farthest)]
