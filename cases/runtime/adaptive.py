"""Bucket edges chosen from the lengths seen: padding costs time in every request, a new edge costs a capture once.

The rule. Edges start at the powers of two from 8 on. Of the lengths seen a histogram is kept that fades: after every
`every` requests its counts shrink by the factor 1 - every / window, so that it speaks of about the last `window`
requests. At the same moment, for each number of edges up to the cap, the exact dynamic programme gives the edges with
the fewest padded tokens; edges are multiples of 8 (a tensor core's tile), pinned edges and the largest always stay.
Of those sets the one wins whose saving over the next `window` requests, at `ms_per_token` a padded token, exceeds
`capture_ms` for each edge that is new by most. Where none has a saving above its captures, the edges stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TILE = 8
FORGOTTEN = 1 / 64

Later = Callable[[Callable[[], None]], None]
"""Has something done when no request waits for it."""


@dataclass(frozen=True)
class Rule:
    """What padding and captures cost, and how long lengths are remembered. See the module."""

    window: int
    every: int
    ms_per_token: float
    capture_ms: float

    @classmethod
    def read(cls, values: Mapping[str, float]) -> Rule:
        """From `graph.adaptive`, checked already."""
        return cls(int(values["window"]), int(values["every"]), values["ms_per_token"], values["capture_ms"])


def padding(weights: Mapping[int, float], edges: Sequence[int]) -> float:
    """Tokens padded over all lengths of a histogram; every length has an edge that holds it."""
    return sum(weight * (edges[bisect_left(edges, length)] - length) for length, weight in weights.items())


def best_edges(weights: Mapping[int, float], fixed: frozenset[int], most: int) -> Iterator[tuple[int, ...]]:
    """For each number of edges up to `most`, those with the least padding that hold all of `fixed`.

    The dynamic programme over the candidates e_1 < ... < e_n, lengths rounded up to TILE:
    least[k][j] = min over i < j of least[k - 1][i] + cost[i][j], where cost[i][j] pads all lengths in (e_i, e_j] to e_j
    and no fixed edge lies strictly between. O(k n^2), a row at a time. Nothing is yielded for numbers that can't hold
    the fixed edges.
    """
    largest = max(fixed)
    rounded = {min(-(-length // TILE) * TILE, largest) for length in weights}
    candidates = [0, *sorted(rounded | fixed)]
    cost = _costs(weights, candidates, fixed)
    least = np.full(len(candidates), np.inf)
    least[0] = 0.0
    choices = []
    for _ in range(min(most, len(candidates) - 1)):
        sums = least[:, None] + cost
        choices.append(sums.argmin(axis=0))
        least = sums.min(axis=0)
        if np.isfinite(least[-1]):
            yield tuple(candidates[place] for place in _path(choices, len(candidates) - 1))


def _costs(weights: Mapping[int, float], candidates: Sequence[int], fixed: frozenset[int]) -> np.ndarray:
    """Tokens padded when e_i and e_j are neighbours: [n + 1, n + 1], infinite where they can't be."""
    edges = np.array(candidates, dtype=np.float64)
    places = np.searchsorted(edges, list(weights))
    counts = np.bincount(places, weights=list(weights.values()), minlength=len(candidates)).cumsum()
    tokens = np.array([length * weight for length, weight in weights.items()])
    sums = np.bincount(places, weights=tokens, minlength=len(candidates)).cumsum()
    cost = edges * (counts - counts[:, None]) - (sums - sums[:, None])
    held = np.cumsum([edge in fixed for edge in candidates])
    between = held - held[:, None] - np.array([edge in fixed for edge in candidates])
    order = np.arange(len(candidates))
    cost[(order[:, None] >= order) | (between > 0)] = np.inf
    return cost


def _path(choices: Sequence[np.ndarray], end: int) -> list[int]:
    """The candidates on the best way to `end`, ascending."""
    path = []
    for choice in reversed(choices):
        path.append(end)
        end = int(choice[end])
    return path[::-1]


def review(
    weights: Mapping[int, float], current: tuple[int, ...], fixed: frozenset[int], most: int, rule: Rule
) -> tuple[int, ...]:
    """The edges to go on with, by the module's rule; of equal gains the fewest edges."""
    scale = rule.window / sum(weights.values())
    now = padding(weights, current)
    best, most_gained = current, 0.0
    for edges in best_edges(weights, fixed, most):
        saved_ms = rule.ms_per_token * scale * (now - padding(weights, edges))
        gained = saved_ms - rule.capture_ms * len(set(edges) - set(current))
        if gained > most_gained:
            best, most_gained = edges, gained
    return best


class AdaptiveBuckets:
    """Edges that follow the lengths asked for. See the module for the rule."""

    def __init__(
        self, edges: tuple[int, ...], fixed: frozenset[int], most: int, rule: Rule, later: Later | None = None
    ) -> None:
        self.edges = edges
        self._fixed, self._most, self._rule, self._later = fixed, most, rule, later
        self._seen: dict[int, float] = {}
        self._since = 0

    def of(self, length: int) -> int | None:
        """See BucketChoice. Counts the length, and has the edges reviewed when that is due."""
        edges = self.edges
        if length > edges[-1]:
            return None
        self._seen[length] = self._seen.get(length, 0.0) + 1.0
        self._since += 1
        if self._since >= self._rule.every:
            self._due()
        return edges[bisect_left(edges, length)]

    def _due(self) -> None:
        """Hand a snapshot to the review, so that counting goes on meanwhile; then let the counts fade."""
        self._since = 0
        seen = dict(self._seen)
        kept = 1.0 - self._rule.every / self._rule.window
        self._seen = {length: weight * kept for length, weight in seen.items() if weight * kept >= FORGOTTEN}

        def adopt() -> None:
            self.edges = review(seen, self.edges, self._fixed, self._most, self._rule)

        if self._later is None:
            adopt()
        else:
            self._later(adopt)
