"""A rolling pool of captured graphs, keyed by bucket, capped by count and by bytes. Free of torch.

One thread asks for graphs and replays them, one captures and evicts; there is no lock between them. What makes that
safe is an order: the first writes down which bucket it uses before it looks the graph up, the second takes a graph out
of the table before it reads which one is used. Each step is one operation on a dict or an attribute, hence atomic, so
whichever comes first, a graph that was looked up is never reset before the next one is asked for.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.contract import CaptureRecord

FAILURES = (RuntimeError, MemoryError)
"""What a capture that fails raises; PyTorch's own errors, out of memory included, are RuntimeErrors."""
LONGEST_REASON = 300
MIB = 2**20


class Graph(Protocol):
    """A captured piece of work."""

    def replay(self) -> None:
        """Run it again on the buffers that it was captured with."""

    def reset(self) -> None:
        """Give its memory back; it can't be replayed any more."""


class Captured(NamedTuple):
    """A graph, the seconds of its capture, and device bytes: its own, which go with it, and those by which memory
    that all graphs share grew, which goes with the last of them."""

    graph: Graph
    seconds: float = 0.0
    own_bytes: int = 0
    shared_bytes: int = 0


Capture = Callable[[int], Captured]
"""Captures a bucket's graph."""

Trim = Callable[[bool], None]
"""Hands what graphs that are gone held back to the device; the flag says that none of the pool is left."""


@dataclass(frozen=True)
class Limits:
    """How many graphs and bytes, how often a bucket's capture may fail, and which buckets stay for good."""

    max_graphs: int
    max_bytes: int | None = None
    attempts: int = 2
    pinned: frozenset[int] = frozenset()


class _Entry:
    """A graph of the pool, what it holds, and when it was last asked for."""

    __slots__ = ("graph", "own_bytes", "used")

    def __init__(self, graph: Graph, own_bytes: int, used: int) -> None:
        self.graph, self.own_bytes, self.used = graph, own_bytes, used


RECORDS = 16_384
"""Captures that are remembered, the last ones: a server that evicts and captures for weeks must not grow by them."""


class GraphPool:
    """Graphs up to both caps; the one longest unused goes first, a pinned one and the one in use never.

    Shared memory that a capture made grow stays until the last graph goes, even if that capture was dropped for it:
    with none but pinned graphs and the one in use left, the pool may be above the cap in bytes until the next capture.
    `trim_each`: whether each eviction is handed back at once, for graphs whose memory no other can take over.
    """

    def __init__(self, limits: Limits, trim: Trim | None = None, *, trim_each: bool = False) -> None:
        self._limits, self._trim, self._trim_each = limits, trim, trim_each
        self._graphs: dict[int, _Entry] = {}
        self._failed: Counter[int] = Counter()
        self._using = self._live = self._largest_own = self._own_bytes = self._shared_bytes = 0
        self._full = False
        self.records: deque[CaptureRecord] = deque(maxlen=RECORDS)
        self.hits = self.misses = self.begun = self.captures = self.failures = self.evictions = 0

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, bucket: int) -> bool:
        return bucket in self._graphs

    @property
    def bytes(self) -> int:
        """Device bytes held."""
        return self._own_bytes + self._shared_bytes

    def get(self, bucket: int) -> Graph | None:
        """The bucket's graph if it is there; it is in use until the next call."""
        self._using = bucket
        entry = self._graphs.get(bucket)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        entry.used = self.hits + self.misses
        return entry.graph

    def peek(self, bucket: int) -> Graph | None:
        """The graph, without counting; for the bucket of the last `get`, which is in use."""
        entry = self._graphs.get(bucket)
        return None if entry is None else entry.graph

    def gave_up(self, bucket: int) -> bool:
        """Whether its capture failed as often as is allowed."""
        return self._failed[bucket] >= self._limits.attempts

    def wants(self, bucket: int) -> bool:
        """Whether a capture of it makes sense: not there, not given up, and not all places pinned."""
        if bucket in self._graphs or self.gave_up(bucket):
            return False
        return bucket in self._limits.pinned or len(self._limits.pinned) < self._limits.max_graphs

    def attempt(self, bucket: int, capture: Capture) -> Captured | None:
        """Capture without keeping it here: counted and recorded, None when it failed."""
        found = self._try(bucket, capture)
        if found is not None:
            self._count(bucket, found)
        return found

    def add(self, bucket: int, capture: Capture) -> bool:
        """Capture it, room made first. False when it failed, holds more than the cap, or all others are in use."""
        if not self.wants(bucket) or not self._make_room():
            return False
        found = self._try(bucket, capture)
        if found is None:
            return False
        self._hold(found)
        while self._over() and self._evict_oldest():
            self._hand_back()
        return self._keep_or_drop(bucket, found)

    def fill(self, buckets: Iterable[int], capture: Capture) -> None:
        """Capture before serving: pinned ones, then as many of the smallest others as fit, the largest of them first.

        The largest first, so that every later graph finds its memory in what the shared pool already holds. Nothing
        is evicted for another. Raises ValueError when the pinned ones hold more than the cap.
        """
        pinned = sorted(self._limits.pinned, reverse=True)
        for bucket in pinned:
            if not self._fill_one(bucket, capture) and self._full:
                raise ValueError(
                    f"the graphs of graph.pinned hold more than graph.max_mib={(self._limits.max_bytes or 0) / MIB:g}: "
                    "pin fewer, or raise the cap"
                )
        others = sorted(set(buckets) - self._limits.pinned)[: self._limits.max_graphs - len(pinned)]
        for bucket in reversed(others):
            if self._over(self._largest_own) or (not self._fill_one(bucket, capture) and self._full and self._live):
                break

    def clear(self) -> None:
        """Reset every graph, pinned ones too, and trim nothing; buckets that were given up may be tried again."""
        for bucket in list(self._graphs):
            self._graphs.pop(bucket).graph.reset()
        self._live = self._own_bytes = self._shared_bytes = 0
        self._failed.clear()

    def _try(self, bucket: int, capture: Capture) -> Captured | None:
        self.begun += 1
        started = time.perf_counter()
        try:
            return capture(bucket)
        except FAILURES as error:
            self._fail(bucket, time.perf_counter() - started, 0, f"{type(error).__name__}: {error}")
            return None

    def _fill_one(self, bucket: int, capture: Capture) -> bool:
        self._full = False
        found = self._try(bucket, capture)
        if found is None:
            return False
        self._hold(found)
        self._full = self._over()
        return self._keep_or_drop(bucket, found)

    def _count(self, bucket: int, found: Captured) -> None:
        self.captures += 1
        self.records.append(CaptureRecord(bucket, found.seconds, found.own_bytes + found.shared_bytes))

    def _fail(self, bucket: int, seconds: float, grown: int, reason: str) -> None:
        self._failed[bucket] += 1
        self.failures += 1
        self.records.append(CaptureRecord(bucket, seconds, grown, " ".join(reason.split())[:LONGEST_REASON]))

    def _hold(self, found: Captured) -> None:
        self._live += 1
        self._own_bytes += found.own_bytes
        self._shared_bytes += found.shared_bytes

    def _over(self, more: int = 0) -> bool:
        """Whether `more` bytes would be above the cap."""
        return self._limits.max_bytes is not None and self.bytes + more > self._limits.max_bytes

    def _make_room(self) -> bool:
        """Room for one more graph, as large as the largest so far; False when all others are pinned or in use."""
        while len(self._graphs) >= self._limits.max_graphs:
            if not self._evict_oldest():
                return False
            self._hand_back()
        while self._over(self._largest_own) and self._evict_oldest():
            self._hand_back()
        return True

    def _evict_oldest(self) -> bool:
        """Reset the graph longest unused, but none that is pinned or in use; False when there is no other."""
        for bucket, entry in sorted(self._graphs.items(), key=lambda item: item[1].used):
            if bucket in self._limits.pinned:
                continue
            del self._graphs[bucket]
            if bucket == self._using:
                self._graphs[bucket] = entry
                continue
            self._let_go(entry.graph, entry.own_bytes)
            self.evictions += 1
            return True
        return False

    def _keep_or_drop(self, bucket: int, found: Captured) -> bool:
        """Let it be asked for; but drop what is above the cap with all others gone: as good as a failure."""
        if not self._over():
            self._graphs[bucket] = _Entry(found.graph, found.own_bytes, self.hits + self.misses)
            self._largest_own = max(self._largest_own, found.own_bytes)
            self._count(bucket, found)
            return True
        reason = f"graphs would hold {self.bytes / MIB:.1f} MiB, above {(self._limits.max_bytes or 0) / MIB:.1f} MiB"
        self._let_go(found.graph, found.own_bytes)
        self._fail(bucket, found.seconds, found.own_bytes + found.shared_bytes, reason)
        self._hand_back()
        return False

    def _let_go(self, graph: Graph, own_bytes: int) -> None:
        graph.reset()
        self._live -= 1
        self._own_bytes -= own_bytes

    def _hand_back(self) -> None:
        """After an eviction. Memory that graphs share goes only with the last, and only where a cap asks for it."""
        emptied = not self._live and self._limits.max_bytes is not None
        if self._trim is not None and (self._trim_each or emptied):
            self._trim(not self._live)
        if emptied:
            self._shared_bytes = 0
