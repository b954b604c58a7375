"""The rolling pool with an injected capture: no model, no GPU."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.runtime.buckets import GraphOptions
from cases.runtime.graph_pool import MIB, Captured, GraphPool, Limits
from tests.runtime.llamas import GRAPH


@dataclass
class FakeGraph:
    """Counts what is done to it."""

    bucket: int
    resets: int = 0
    replays: int = 0

    def replay(self) -> None:
        assert not self.resets, "an evicted graph is replayed"
        self.replays += 1

    def reset(self) -> None:
        self.resets += 1


def no_bytes(bucket: int) -> tuple[int, int]:
    return 0, 0


@dataclass
class Capture:
    """Hands out fake graphs and remembers them in order; `size` gives own and shared bytes of a bucket."""

    made: list[FakeGraph] = field(default_factory=list)
    tried: Counter[int] = field(default_factory=Counter)
    failing: set[int] = field(default_factory=set)
    size: Callable[[int], tuple[int, int]] = no_bytes

    def __call__(self, bucket: int) -> Captured:
        self.tried[bucket] += 1
        if bucket in self.failing:
            raise MemoryError("no room\n  for another graph")
        self.made.append(FakeGraph(bucket))
        return Captured(self.made[-1], 0.5, *self.size(bucket))

    @property
    def alive(self) -> list[int]:
        return [graph.bucket for graph in self.made if not graph.resets]


def pool_of(max_graphs: int, max_bytes: int | None = None, **limits: Any) -> GraphPool:
    return GraphPool(Limits(max_graphs, max_bytes, **limits))


def ask(pool: GraphPool, capture: Capture, bucket: int) -> bool:
    """A request: replayed, or served without a graph that is captured afterwards; whether it was replayed."""
    graph = pool.get(bucket)
    if graph is None:
        pool.add(bucket, capture)
        return False
    graph.replay()
    return True


def test_fill_captures_the_largest_first():
    pool, capture = pool_of(5), Capture()
    pool.fill([32, 16, 64, 48], capture)
    assert [graph.bucket for graph in capture.made] == [64, 48, 32, 16]
    assert (pool.captures, pool.evictions, pool.hits, pool.misses, len(pool)) == (4, 0, 0, 0, 4)


def test_fill_captures_pinned_ones_first_and_no_more_than_the_cap_and_evicts_nothing():
    pool, capture = pool_of(3, pinned=frozenset({48, 32})), Capture()
    pool.fill([16, 32, 48, 64, 80], capture)
    assert [graph.bucket for graph in capture.made] == [48, 32, 16]
    assert (len(pool), pool.evictions, capture.alive) == (3, 0, [48, 32, 16])


def test_fill_stops_at_the_cap_in_bytes():
    pool, capture = pool_of(9, 35), Capture(size=lambda bucket: (10, 0))
    pool.fill([1, 2, 3, 4, 5], capture)
    assert (capture.alive, pool.bytes, pool.evictions, pool.failures) == ([5, 4, 3], 30, 0, 0)


def test_fill_goes_on_to_what_fits_where_the_largest_do_not():
    trims: list[bool] = []
    pool = GraphPool(Limits(9, 35), trims.append)
    capture = Capture(size=lambda bucket: (1, max(0, bucket * 10 - pool.bytes)))
    pool.fill([1, 2, 3, 4, 5], capture)
    assert (capture.alive, pool.bytes, pool.failures, trims) == ([3, 2, 1], 33, 2, [True, True])


def test_fill_goes_on_behind_a_capture_that_fails():
    pool, capture = pool_of(9), Capture(failing={5, 3})
    pool.fill([1, 2, 3, 4, 5], capture)
    assert capture.alive == [4, 2, 1]
    assert (pool.begun, pool.captures, pool.failures) == (5, 3, 2)


def test_pinned_graphs_above_the_cap_in_bytes_are_refused():
    pool = pool_of(9, 3 * MIB, pinned=frozenset({1, 2}))
    with pytest.raises(ValueError, match=r"^the graphs of graph\.pinned hold more than graph\.max_mib=3: pin fewer"):
        pool.fill([], Capture(size=lambda bucket: (2 * MIB, 0)))


def test_a_pinned_graph_whose_capture_fails_is_counted_like_any_other():
    pool, capture = pool_of(2, 100, pinned=frozenset({7})), Capture(failing={7})
    pool.fill([1], capture)
    assert (capture.alive, pool.failures) == ([1], 1)
    capture.failing.clear()
    assert not ask(pool, capture, 7)
    assert ask(pool, capture, 7)


def test_the_one_longest_unused_goes_first():
    pool, capture = pool_of(3), Capture()
    for bucket in (1, 2, 3, 1, 4):
        ask(pool, capture, bucket)
    assert sorted(capture.alive) == [1, 3, 4]
    ask(pool, capture, 3)
    ask(pool, capture, 5)
    assert sorted(capture.alive) == [3, 4, 5]
    assert 1 not in pool
    assert 4 in pool


def test_an_evicted_bucket_is_captured_anew():
    pool, capture = pool_of(1), Capture()
    assert [ask(pool, capture, bucket) for bucket in (7, 7, 8, 7, 7)] == [False, True, False, False, True]
    assert [graph.resets for graph in capture.made] == [1, 1, 0]
    assert (pool.hits, pool.misses, pool.captures, pool.evictions) == (2, 3, 3, 2)


def test_room_is_made_before_the_capture():
    """So that the new graph finds the memory of the old one."""
    pool, capture = pool_of(2), Capture(size=lambda bucket: (len(pool) < 2 or pytest.fail("over the cap"), 0))
    for bucket in range(6):
        ask(pool, capture, bucket)
    assert len(pool) == 2


def test_the_graph_in_use_stays_though_it_is_the_oldest():
    """Another bucket's capture comes late, when the last of the others is being replayed."""
    pool, capture = pool_of(1), Capture()
    ask(pool, capture, 1)
    assert pool.get(2) is None
    in_use = pool.get(1)
    assert not pool.add(2, capture)
    assert in_use is not None
    in_use.replay()
    assert (capture.alive, pool.begun, pool.evictions) == ([1], 1, 0)
    assert pool.get(2) is None
    assert pool.add(2, capture)
    assert capture.alive == [2]


def test_where_all_places_are_pinned_nothing_else_is_tried():
    pool, capture = pool_of(2, pinned=frozenset({1, 2})), Capture()
    pool.fill([1, 2, 3], capture)
    assert not pool.wants(3)
    assert not ask(pool, capture, 3)
    assert (capture.alive, pool.begun, pool.misses) == ([2, 1], 2, 1)


def test_a_capture_that_fails_is_counted_with_its_reason_and_not_tried_for_ever():
    pool, capture = pool_of(3, attempts=2), Capture(failing={2})
    for _ in range(5):
        ask(pool, capture, 1)
        ask(pool, capture, 2)
    assert capture.tried == {1: 1, 2: 2}
    assert (len(pool), pool.begun, pool.captures, pool.failures, pool.hits, pool.misses) == (1, 3, 1, 2, 4, 6)
    assert [(record.bucket, record.reason) for record in pool.records] == [
        (1, ""),
        (2, "MemoryError: no room for another graph"),
        (2, "MemoryError: no room for another graph"),
    ]
    assert pool.gave_up(2)


def test_an_error_that_no_capture_raises_is_not_swallowed():
    with pytest.raises(TypeError):
        pool_of(1).add(1, lambda bucket: None + bucket)  # type: ignore[operator]


def test_bytes_evict_by_age_and_shared_ones_go_with_the_last_graph():
    trims: list[bool] = []
    sizes = {1: (10, 30), 2: (10, 0), 3: (10, 0), 4: (35, 40)}
    pool = GraphPool(Limits(9, 65), trims.append)
    capture = Capture(size=sizes.__getitem__)
    for bucket in (1, 2, 3):
        ask(pool, capture, bucket)
    assert (pool.bytes, capture.alive, trims) == (60, [1, 2, 3], [])
    ask(pool, capture, 4)
    assert (pool.bytes, capture.alive, trims) == (0, [], [True])
    assert pool.records[-1].reason == "graphs would hold 0.0 MiB, above 0.0 MiB"
    assert (pool.captures, pool.failures, pool.evictions) == (3, 1, 3)
    ask(pool, capture, 1)
    assert (pool.bytes, capture.alive) == (40, [1])


def test_unshared_memory_is_handed_back_at_each_eviction():
    trims: list[bool] = []
    pool, capture = GraphPool(Limits(2), trims.append, trim_each=True), Capture()
    for bucket in (1, 2, 3, 4):
        ask(pool, capture, bucket)
    assert trims == [False, False]


def test_clear_resets_every_graph_once_and_forgets_failures():
    pool, capture = pool_of(4, pinned=frozenset({2})), Capture(failing={9}, size=lambda bucket: (4, 1))
    pool.fill([1, 2, 3, 9], capture)
    pool.add(9, capture)
    assert pool.gave_up(9)
    pool.clear()
    pool.clear()
    assert [graph.resets for graph in capture.made] == [1, 1, 1]
    assert (len(pool), pool.bytes, pool.gave_up(9)) == (0, 0, False)
    ask(pool, capture, 2)
    assert capture.alive == [2]


POLICIES: list[Any] = ["step", "exact", "pow2", "adaptive", [3, 10, 24, 40]]


@settings(max_examples=80, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    max_graphs=st.integers(1, 6),
    max_bytes=st.none() | st.integers(1, 200),
    pins=st.integers(0, 2),
    initial=st.sampled_from(["all", "none"]),
    failing=st.sets(st.integers(1, 40), max_size=12),
    seed=st.integers(0, 99),
)
def test_the_pool_keeps_its_promises_whatever_is_asked(policy, max_graphs, max_bytes, pins, initial, failing, seed):
    """Never above either cap, never evicts the graph in use or a pinned one, serves every length, counts add up."""
    rule = {"window": 32, "every": 16, "ms_per_token": 1.0, "capture_ms": 5.0}
    asked = GraphOptions(
        **GRAPH
        | {"buckets": policy, "step": 7, "largest": 40, "max_graphs": max_graphs, "initial": initial, "adaptive": rule}
    )
    buckets = asked.make(40)
    pinned = frozenset(buckets.edges[-min(pins, max_graphs) :] if pins else ())
    pool = GraphPool(Limits(max_graphs, max_bytes, 2, pinned))
    capture = Capture(failing=failing, size=lambda bucket: (5 + bucket % 7, bucket // 3))
    try:
        pool.fill(asked.initial_edges(40), capture)
    except ValueError:
        assert max_bytes is not None
        assert pinned
        return
    held = {graph.bucket for graph in capture.made if not graph.resets and graph.bucket in pinned}
    draw = random.Random(seed)
    lengths = [draw.randint(1, 42) for _ in range(80)]
    for count, length in enumerate(filter(lambda length: length <= 40, lengths), start=1):
        bucket = buckets.of(length)
        assert bucket is not None
        assert bucket >= length
        graph = pool.get(bucket)
        begun = pool.begun
        pool.add(bucket if graph is None else draw.choice(buckets.edges), capture)
        if graph is not None:
            graph.replay()
        assert len(pool) == len(capture.alive) <= max_graphs
        if max_bytes is not None and pool.bytes > max_bytes:
            assert pool.begun == begun or set(capture.alive) <= pinned | {bucket}, "others could have gone"
        assert held <= set(capture.alive), "a pinned graph was evicted"
        assert pool.hits + pool.misses == count
        assert pool.begun == pool.captures + pool.failures == len(pool.records) == sum(capture.tried.values())
        assert pool.captures - pool.evictions == len(pool)
        assert pool.failures == sum(record.reason != "" for record in pool.records)
    assert all(capture.tried[bucket] <= 2 for bucket in failing)
    pool.clear()
    assert set(Counter(graph.resets for graph in capture.made)) <= {1}


def test_of_very_many_captures_the_last_are_remembered(monkeypatch):
    monkeypatch.setattr("cases.runtime.graph_pool.RECORDS", 4)
    pool, capture = pool_of(1), Capture()
    for bucket in range(1, 8):
        ask(pool, capture, bucket)
    assert (pool.captures, [record.bucket for record in pool.records]) == (7, [4, 5, 6, 7])
