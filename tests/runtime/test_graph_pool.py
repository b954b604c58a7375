"""The rolling pool with an injected capture: no model, no GPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.graph_pool import GraphPool


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


@dataclass
class Capture:
    """Hands out fake graphs and remembers them in order."""

    made: list[FakeGraph] = field(default_factory=list)
    fail: bool = False

    def __call__(self, bucket: int) -> FakeGraph:
        if self.fail:
            raise MemoryError("no room for another graph")
        self.made.append(FakeGraph(bucket))
        return self.made[-1]

    @property
    def alive(self) -> list[int]:
        return [graph.bucket for graph in self.made if not graph.resets]


def pool_of(max_graphs: int) -> tuple[GraphPool, Capture]:
    capture = Capture()
    return GraphPool(capture, max_graphs), capture


def test_fill_captures_the_largest_first():
    pool, capture = pool_of(5)
    pool.fill([32, 16, 64, 48])
    assert [graph.bucket for graph in capture.made] == [64, 48, 32, 16]
    assert (pool.captures, pool.evictions, pool.hits, pool.misses, len(pool)) == (4, 0, 0, 0, 4)


def test_fill_captures_no_more_than_the_cap_and_evicts_nothing():
    pool, capture = pool_of(2)
    pool.fill([16, 32, 48, 64])
    assert [graph.bucket for graph in capture.made] == [32, 16]
    assert (len(pool), pool.evictions, capture.alive) == (2, 0, [32, 16])


def test_the_one_longest_unused_goes_first():
    pool, capture = pool_of(3)
    for bucket in (1, 2, 3, 1, 4):
        pool.get(bucket).replay()
    assert sorted(capture.alive) == [1, 3, 4]
    pool.get(3)
    pool.get(5)
    assert sorted(capture.alive) == [3, 4, 5]
    assert 1 not in pool
    assert 4 in pool


def test_an_evicted_bucket_is_captured_anew():
    pool, capture = pool_of(1)
    first = pool.get(7)
    pool.get(8)
    again = pool.get(7)
    assert again is not first
    assert [graph.resets for graph in capture.made] == [1, 1, 0]
    assert (pool.hits, pool.misses, pool.captures, pool.evictions) == (0, 3, 3, 2)


def test_room_is_made_before_the_capture():
    """So that the new graph finds the memory of the old one."""
    pool = GraphPool(lambda bucket: FakeGraph(bucket) if len(pool) < 2 else pytest.fail("over the cap"), 2)
    for bucket in range(6):
        pool.get(bucket)
    assert len(pool) == 2


def test_a_capture_that_fails_leaves_no_trace():
    pool, capture = pool_of(3)
    pool.get(1)
    capture.fail = True
    with pytest.raises(MemoryError):
        pool.get(2)
    assert (len(pool), pool.captures, 2 in pool) == (1, 1, False)
    pool.get(1).replay()
    assert pool.hits == 1


def test_clear_resets_every_graph_once():
    pool, capture = pool_of(4)
    pool.fill([1, 2, 3])
    pool.clear()
    pool.clear()
    assert [graph.resets for graph in capture.made] == [1, 1, 1]
    assert len(pool) == 0
    pool.get(2).replay()
    assert capture.alive == [2]


@given(max_graphs=st.integers(1, 6), filled=st.sets(st.integers(1, 9)), asked=st.lists(st.integers(1, 9), max_size=60))
def test_the_pool_keeps_its_promises_whatever_is_asked(max_graphs, filled, asked):
    pool, capture = pool_of(max_graphs)
    pool.fill(filled)
    recent = [graph.bucket for graph in capture.made]
    for count, bucket in enumerate(asked, start=1):
        known = bucket in recent
        graph = pool.get(bucket)
        graph.replay()
        assert graph.bucket == bucket
        assert graph.resets == 0, "the graph just asked for was evicted"
        recent = [*(other for other in recent if other != bucket), bucket][-max_graphs:]
        assert sorted(capture.alive) == sorted(recent), "not the least recently used one went"
        assert len(pool) == len(recent) <= max_graphs
        assert pool.hits + pool.misses == count
        assert (pool.hits > 0) or not known
        assert pool.captures - pool.evictions == len(pool)
        assert pool.captures == len(capture.made)
    pool.clear()
    assert Counter(graph.resets for graph in capture.made) == Counter({1: len(capture.made)} if capture.made else {})
