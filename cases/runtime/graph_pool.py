"""A rolling pool of captured graphs, keyed by bucket. How one is captured is an argument: the pool is free of torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol


class Graph(Protocol):
    """A captured piece of work."""

    def replay(self) -> None:
        """Run it again on the buffers that it was captured with."""

    def reset(self) -> None:
        """Give its memory back; it can't be replayed any more."""


class GraphPool:
    """At most `max_graphs` graphs; the one longest unused goes first."""

    def __init__(self, capture: Callable[[int], Graph], max_graphs: int) -> None:
        self._capture, self._max_graphs = capture, max_graphs
        self._graphs: OrderedDict[int, Graph] = OrderedDict()
        self.captures = self.evictions = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, bucket: int) -> bool:
        return bucket in self._graphs

    def fill(self, buckets: Iterable[int]) -> None:
        """Capture before serving: as many of the smallest as fit, the largest of them first.

        The largest first, so that every later graph finds its memory in what the shared pool already holds.
        """
        for bucket in sorted(sorted(buckets)[: self._max_graphs], reverse=True):
            self._add(bucket)

    def get(self, bucket: int) -> Graph:
        """The bucket's graph, captured now if it is missing."""
        if bucket in self._graphs:
            self.hits += 1
            self._graphs.move_to_end(bucket)
        else:
            self.misses += 1
            self._add(bucket)
        return self._graphs[bucket]

    def clear(self) -> None:
        """Give every graph back."""
        while self._graphs:
            self._graphs.popitem(last=False)[1].reset()

    def _add(self, bucket: int) -> None:
        while len(self._graphs) >= self._max_graphs:
            self._graphs.popitem(last=False)[1].reset()
            self.evictions += 1
        self._graphs[bucket] = self._capture(bucket)
        self.captures += 1
