"""`sweep.p99_iterations=auto`: requests until the interval of P99 is narrow, or a budget is used up.

Standard library only: workers decide this in their own interpreters. A block knows what those before it measured, and
asks how wide the pooled interval would be if those to come were like itself. The last one knows all there is: it goes
on until the interval is narrow, and not only expected to be.
"""

from __future__ import annotations

import csv
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from harness.job import MOST_ITERATIONS

Reason = Literal["width", "budget", "most"]
P, TAIL = 0.99, 0.025
CHECK_EVERY = 16
"""Rounds between two looks: an interval that is looked at after every request would stop at its luckiest."""

MARGIN = 0.9
"""Who stops when an interval looks narrow stops at a lucky look: pooled with blocks to come, it comes out about a tenth
wider. A last block has none to come, and needs no margin for the width. The 95 % of the interval are nominal all the
same: results/coverage/adaptive.md has how often it holds."""


class Stop(NamedTuple):
    """Why a length of a block got no more requests: `width` reached, `budget` used up, or the `most` there may be."""

    prompt_length: int
    n: int
    relative_width: float
    reason: Reason


@lru_cache(maxsize=4096)
def ranks_from_the_top(n: int) -> tuple[int, int] | None:
    """How many of n samples lie above the upper and the lower end of the exact 95 % interval of P99; None without.

    The number of samples above P99 is J ~ Binomial(n, 0.01). The upper end is the sample with `a` above it, a the
    largest with P(J <= a) <= 2.5 %; the lower end that with `b` above it, b + 1 the smallest with P(J > b) <= 2.5 %.
    The same ranks as harness.output.statistics.interval_ranks.
    """
    odds = (1.0 - P) / P
    term, below, above, count = n * math.log(P), 0.0, -1, 0
    while True:
        below += math.exp(term)  # P(J <= count); P**n itself is 0 to a float from 75,000 samples on
        if below <= TAIL:
            above = count
        if 1.0 - below <= TAIL:
            break
        term += math.log((n - count) / (count + 1) * odds)
        count += 1
    return (above, count) if above >= 0 and count < n else None


def expected_width(ordered: Sequence[int], blocks: int, earlier: Sequence[int] = ()) -> float:
    """Width over value of the interval of P99 over what `earlier` blocks measured and `blocks` like this one, itself
    among them; infinite where those are too few. Both are sorted. It looks at the tail alone: a request waits for it.
    """
    n = len(earlier) + len(ordered) * blocks
    ends = ranks_from_the_top(n)
    if ends is None:
        return math.inf
    above, below = ends
    own = ordered[-math.ceil((below + 1) / blocks) :]
    tail = sorted([*earlier[-below - 1 :], *(value for value in own for _ in range(blocks))], reverse=True)
    return (tail[above] - tail[below]) / tail[n - max(1, math.ceil(n * P - 1e-9))]


class Rule:
    """Which lengths of a block still want requests. `blocks`: this one and those to come; `earlier`: the latencies of
    those before it, by length."""

    def __init__(
        self, lengths: Iterable[int], blocks: int, width: float, earlier: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        self._open = list(lengths)
        self._blocks = blocks
        self._earlier = {length: sorted(latencies) for length, latencies in (earlier or {}).items()}
        self._width = width if blocks == 1 else MARGIN * width
        self._latencies: dict[int, list[int]] = defaultdict(list)
        self.stops: list[Stop] = []

    def add(self, length: int, latency_ns: int) -> None:
        """Take a request's latency."""
        insort(self._latencies[length], latency_ns)

    def still_open(self, rounds: int, spent: bool) -> list[int]:
        """The lengths that go on after so many rounds; `spent`: the budget is used up, so none does."""
        if not spent and rounds < MOST_ITERATIONS and rounds % CHECK_EVERY:
            return self._open
        for length in list(self._open):
            width = expected_width(self._latencies[length], self._blocks, self._earlier.get(length, ()))
            reached = width <= self._width
            if reached or spent or rounds >= MOST_ITERATIONS:
                reason: Reason = "width" if reached else "budget" if spent else "most"
                self.stops.append(Stop(length, len(self._latencies[length]), width, reason))
                self._open.remove(length)
        return self._open


def extra_rounds(
    rule: Rule, first: int, spent: Callable[[], bool], measure: Callable[[int, Sequence[int]], None]
) -> list[Stop]:
    """Rounds from `first` on over the lengths that are still open; returns why each ended."""
    rounds = first
    while lengths := rule.still_open(rounds, spent()):
        measure(rounds, tuple(lengths))
        rounds += 1
    return rule.stops


def stopped(path: Path) -> dict[tuple[str, int, int], int]:
    """From case, block and prompt length to the timed requests there, of a p99_stops.csv; empty without a file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["case"], int(row["block"]), int(row["prompt_length"])): int(row["n"]) for row in rows}
