"""Which prompt lengths get a graph: bucket edges, chosen without looking at the sweep. Free of torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POLICIES = ("step", "pow2", "exact")


@dataclass(frozen=True)
class Buckets:
    """Ascending edges: a prompt is padded to the first edge that holds it."""

    edges: tuple[int, ...]

    def of(self, length: int) -> int | None:
        """The bucket of a prompt of `length` tokens, or None when it is longer than the largest."""
        place = bisect_left(self.edges, length)
        return self.edges[place] if place < len(self.edges) else None


@dataclass(frozen=True)
class GraphOptions:
    """The `graph` part of a case's configuration."""

    buckets: str | Sequence[int]
    step: int
    largest: int
    max_graphs: int

    def __post_init__(self) -> None:
        for name in ("step", "largest", "max_graphs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"graph.{name} must be a whole number of at least 1, not {value!r}")
        if isinstance(self.buckets, str) or not isinstance(self.buckets, Sequence):
            if self.buckets not in POLICIES:
                allowed = ", ".join(POLICIES)
                raise ValueError(f"graph.buckets must be {allowed} or a list of lengths, not {self.buckets!r}")
        elif not self.buckets or any(type(edge) is not int or edge < 1 for edge in self.buckets):
            raise ValueError(f"graph.buckets as a list must hold lengths of at least 1, not {list(self.buckets)!r}")

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> GraphOptions:
        """From a case's options. Raises ValueError with one sentence."""
        try:
            return cls(**options["graph"])
        except TypeError as error:
            raise ValueError(f"graph has keys buckets, step, largest and max_graphs ({error})") from error

    def make(self, capacity: int) -> Buckets:
        """The edges, none beyond `largest` and what the KV cache holds. Raises ValueError when that leaves none."""
        largest = min(self.largest, capacity)
        if self.buckets == "step":
            edges = [*range(self.step, largest, self.step), largest]
        elif self.buckets == "exact":
            edges = list(range(1, largest + 1))
        elif self.buckets == "pow2":
            edges = [2**power for power in range(largest.bit_length()) if 2**power < largest]
            edges.append(largest)
        else:
            edges = sorted({int(edge) for edge in self.buckets if int(edge) <= largest})
            if not edges:
                raise ValueError(f"graph.buckets holds no length up to {largest}: add one, or raise graph.largest")
        return Buckets(tuple(edges))
