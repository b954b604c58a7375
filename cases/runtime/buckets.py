"""Which prompt lengths get a graph: bucket edges, chosen without looking at the sweep. Free of torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cases.runtime.adaptive import Later

POLICIES = ("step", "pow2", "exact", "adaptive")
CAPTURES = ("background", "blocking")
BEYOND = ("chunks", "ungraphed")
INITIAL = ("all", "none")
RULE = ("window", "every", "ms_per_token", "capture_ms")


class BucketChoice(Protocol):
    """Ascending edges, and the one that a prompt is padded to."""

    @property
    def edges(self) -> tuple[int, ...]:
        """The edges now; the last never changes."""

    def of(self, length: int) -> int | None:
        """The bucket of a prompt of `length` tokens, or None when it is longer than the largest."""


@dataclass(frozen=True)
class Buckets:
    """Edges that never change."""

    edges: tuple[int, ...]

    def of(self, length: int) -> int | None:
        """See BucketChoice."""
        place = bisect_left(self.edges, length)
        return self.edges[place] if place < len(self.edges) else None


@dataclass(frozen=True)
class GraphOptions:
    """The `graph` part of a case's configuration; conf/case/cuda_graph.yaml says a line on each."""

    buckets: str | Sequence[int]
    step: int
    largest: int
    max_graphs: int
    max_mib: float | None
    pinned: Sequence[int]
    initial: str | Sequence[int]
    capture: str
    capture_attempts: int
    beyond: str
    shared_pool: bool
    executables: int | None
    adaptive: Mapping[str, float]

    def __post_init__(self) -> None:
        for name in ("step", "largest", "max_graphs", "capture_attempts"):
            _whole(name, getattr(self, name))
        if self.max_mib is not None and not _positive(self.max_mib):
            raise ValueError(f"graph.max_mib must be a number above 0, or null for no cap, not {self.max_mib!r}")
        if self.executables is not None:
            _whole("executables", self.executables)
        _one_of("capture", self.capture, CAPTURES)
        _one_of("beyond", self.beyond, BEYOND)
        if not isinstance(self.shared_pool, bool):
            raise ValueError(f"graph.shared_pool must be true or false, not {self.shared_pool!r}")
        self._check_buckets()
        self._check_rule()
        self._check_chosen("pinned", self.pinned)
        if isinstance(self.initial, str):
            _one_of("initial", self.initial, INITIAL, " or a list of bucket edges")
        else:
            self._check_chosen("initial", self.initial)
        if len(set(self.pinned)) > self.max_graphs:
            raise ValueError(
                f"graph.pinned holds {len(set(self.pinned))} lengths but graph.max_graphs is {self.max_graphs}: "
                "pin fewer, or raise the cap"
            )

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> GraphOptions:
        """From a case's options. Raises ValueError with one sentence."""
        try:
            return cls(**options["graph"])
        except TypeError as error:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"graph has the keys {names} ({error})") from error

    @property
    def max_bytes(self) -> int | None:
        """The cap in bytes."""
        return None if self.max_mib is None else int(self.max_mib * 2**20)

    def make(self, capacity: int, later: Later | None = None) -> BucketChoice:
        """The edges for a KV cache of `capacity` positions; an edge beyond it is lowered to it.

        `later` is where adaptive buckets have their edges chosen; without it the request that is due waits for it.
        """
        largest = min(self.largest, capacity)
        if self.buckets == "adaptive":
            from cases.runtime.adaptive import AdaptiveBuckets, Rule  # it loads numpy, which reading options needs not

            fixed = frozenset(self.pinned_edges(capacity)) | {largest}
            return AdaptiveBuckets(self._edges(largest), fixed, self.max_graphs, Rule.read(self.adaptive), later)
        return Buckets(self._edges(largest))

    def pinned_edges(self, capacity: int) -> tuple[int, ...]:
        """The edges whose graphs never leave."""
        return _lowered(self.pinned, min(self.largest, capacity))

    def initial_edges(self, capacity: int) -> tuple[int, ...]:
        """The edges to capture before the first request, pinned ones included."""
        largest = min(self.largest, capacity)
        if not isinstance(self.initial, str):
            return _lowered([*self.initial, *self.pinned], largest)
        return self._edges(largest) if self.initial == "all" else self.pinned_edges(capacity)

    def _edges(self, largest: int) -> tuple[int, ...]:
        if self.buckets == "step":
            return (*range(self.step, largest, self.step), largest)
        if self.buckets == "exact":
            return tuple(range(1, largest + 1))
        if self.buckets == "pow2":
            return (*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest)
        if self.buckets == "adaptive":
            powers = (2**power for power in range(3, largest.bit_length()) if 2**power < largest)
            return _lowered([*powers, *self.pinned, largest], largest)
        assert not isinstance(self.buckets, str), "_check_buckets lets no other policy pass"  # noqa: S101  for the type checker
        return _lowered(self.buckets, largest)

    def _check_buckets(self) -> None:
        if isinstance(self.buckets, str) or not isinstance(self.buckets, Sequence):
            return _one_of("buckets", self.buckets, POLICIES, " or a list of lengths")
        _lengths("buckets", self.buckets, least=1)
        highest = max(int(edge) for edge in self.buckets)
        if highest > self.largest:
            raise ValueError(
                f"graph.buckets holds {highest}, above graph.largest={self.largest}: raise graph.largest, or "
                "leave that edge out"
            )
        return None

    def _check_chosen(self, name: str, chosen: Any) -> None:
        """Refuse a list of edges that holds what is no edge."""
        _lengths(name, chosen, least=0)
        if self.buckets == "adaptive" and name == "pinned":
            strange = [length for length in chosen if length > self.largest]
        else:
            strange = sorted(set(chosen) - set(self._edges(self.largest)))
        if strange:
            raise ValueError(
                f"graph.{name} holds {strange[0]}, which is no bucket edge up to graph.largest={self.largest}: name "
                "edges that graph.buckets gives"
            )

    def _check_rule(self) -> None:
        if not isinstance(self.adaptive, Mapping) or sorted(self.adaptive) != sorted(RULE):
            raise ValueError(f"graph.adaptive has the keys {', '.join(RULE)}, not {self.adaptive!r}")
        for name in ("window", "every"):
            _whole(f"adaptive.{name}", self.adaptive[name])
        for name in ("ms_per_token", "capture_ms"):
            if not _positive(self.adaptive[name]):
                raise ValueError(f"graph.adaptive.{name} must be a number above 0, not {self.adaptive[name]!r}")
        if self.adaptive["every"] > self.adaptive["window"]:
            raise ValueError(
                f"graph.adaptive.every is {self.adaptive['every']} but must not be above graph.adaptive.window="
                f"{self.adaptive['window']}"
            )


def _lowered(lengths: Sequence[int], largest: int) -> tuple[int, ...]:
    """Ascending, each once, none above `largest`."""
    return tuple(sorted({min(length, largest) for length in lengths}))


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"graph.{name} must be a whole number of at least 1, not {value!r}")


def _one_of(name: str, value: object, allowed: Sequence[str], more: str = "") -> None:
    if not isinstance(value, str) or value not in allowed:
        listed = ", ".join(allowed) if more else " or ".join(allowed)
        raise ValueError(f"graph.{name} must be {listed}{more}, not {value!r}")


def _lengths(name: str, value: Any, least: int) -> None:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or len(value) < least or any(type(length) is not int or length < 1 for length in value):
        shown = list(value) if is_list else value
        raise ValueError(f"graph.{name} as a list must hold lengths of at least 1, not {shown!r}")
