"""Requests beside captures that are held up, fail or are dropped: the whole case, by events and never by time."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.runtime.capture import EagerCapture, Work
from cases.runtime.graph_pool import Captured
from harness.contract import CaptureRecord, Case
from tests.runtime.llamas import GRAPH, new_model, plan, prompt, save

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(new_model(), tmp_path_factory.mktemp("checkpoint"))


class HeldCapture(EagerCapture):
    """A capture amid requests begins, says so, and ends when it is let go; `failing` buckets of rows fail."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.inside, self.most, self.failing = 0, 0, False

    def __call__(self, work: Work, politely: Work | None = None, *, alone: bool = False) -> Captured:
        if politely is None:
            return super().__call__(work, alone=alone)
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.begun.release()
        assert self.go.acquire(timeout=LIMIT_S)
        self.inside -= 1
        if self.failing:
            raise RuntimeError("out of\nmemory")
        return super().__call__(work, politely, alone=alone)

    def let_go(self, count: int) -> None:
        self.go.release(count)


def held_case(folder: Any, monkeypatch: Any, **graph: Any) -> tuple[CudaGraph, HeldCapture]:
    capture = HeldCapture()
    monkeypatch.setattr("cases.runtime.capture.EagerCapture", lambda **_: capture)
    case = CudaGraph()
    case.prepare(plan(folder, graph={**GRAPH, "initial": "none", **graph}))
    return case, capture


def generate(case: Case, ids: list[int], count: int = 4) -> list[int]:
    return [case.prefill(ids, count), *(case.decode() for _ in range(count - 1))]


@pytest.fixture(scope="module")
def expected(folder) -> dict[int, list[int]]:
    case = Eager()
    case.prepare(plan(folder))
    found = {length: generate(case, prompt(length)) for length in (5, 20, 21, 40, 60)}
    case.close()
    return found


def test_requests_are_served_while_a_capture_is_held_up_and_by_it_afterwards(folder, expected, monkeypatch):
    case, capture = held_case(folder, monkeypatch)
    assert case.stats().captures == 1, "the decode graph alone"
    for length in (5, 20, 21, 40, 60, 5):
        assert generate(case, prompt(length)) == expected[length]
    assert capture.begun.acquire(timeout=LIMIT_S)
    stats = case.stats()
    assert (stats.begun - stats.captures - stats.failures, stats.misses, stats.hits) == (1, 6, 0)
    assert stats.ungraphed == 6
    capture.let_go(4)
    case._runner.drain()  # type: ignore[union-attr]
    assert capture.most == 1, "two captures at once"
    for length in (5, 20, 21, 40, 60):
        assert generate(case, prompt(length)) == expected[length]
    after = case.stats()
    assert (after.captures, after.begun, after.hits, after.misses, after.ungraphed) == (5, 5, 5, 6, 6)
    assert [record.bucket for record in case.captured()] == [0, 16, 32, 48, 64]
    case.close()


def test_a_forward_that_a_request_launches_itself_holds_the_launch_and_a_replay_does_not(folder, monkeypatch):
    """A capture beside it would meet the switches of PyTorch that the forward turns; see Gate."""
    case, _ = held_case(folder, monkeypatch, capture="blocking")
    runner: Any = case._runner
    forward, held = runner._model.forward, []

    def seen(count: int, between: Any = None) -> None:
        held.append(runner.gate.launching.locked())
        forward(count, between)

    monkeypatch.setattr(runner._model, "forward", seen)
    runner.prefill(16)
    held.clear()
    runner.prefill(16)
    assert held == [False], "replayed"
    monkeypatch.setattr(runner._pool, "get", lambda bucket: None)
    monkeypatch.setattr(runner._pool, "peek", lambda bucket: None)
    held.clear()
    runner.prefill(16)
    assert held == [True], "without a graph"
    case.close()


def test_a_failed_capture_is_counted_with_its_reason_and_given_up(folder, expected, monkeypatch):
    case, capture = held_case(folder, monkeypatch, capture_attempts=2)
    capture.failing = True
    for tried in (1, 2, 2, 2):
        assert generate(case, prompt(20)) == expected[20]
        capture.let_go(1)
        case._runner.drain()  # type: ignore[union-attr]
        assert case.stats().failures == tried
    stats = case.stats()
    assert (stats.captures, stats.begun, stats.misses, stats.ungraphed, stats.hits) == (1, 3, 4, 4, 0)
    records = case.captured()[1:]
    assert [type(record) for record in records] == [CaptureRecord] * 2
    assert [(record.bucket, record.reason) for record in records] == [(32, "RuntimeError: out of memory")] * 2
    case.close()


def test_close_in_the_middle_of_a_capture_joins(folder, expected, monkeypatch):
    before = set(threading.enumerate())
    case, capture = held_case(folder, monkeypatch)
    for length in (5, 20, 40):
        case.prefill(prompt(length))
    assert capture.begun.acquire(timeout=LIMIT_S)
    last = case._runner._thread._pending[48]  # type: ignore[union-attr]
    last.add_done_callback(lambda _: capture.let_go(1))
    case.close()
    case.close()
    assert last.cancelled()
    assert capture.inside == 0
    assert not capture.begun.acquire(blocking=False), "what waited was dropped"
    assert not [other for other in set(threading.enumerate()) - before if other.name.startswith("capture")]


def test_the_least_recently_used_graph_makes_room_in_the_background(folder, expected, monkeypatch):
    case, capture = held_case(folder, monkeypatch, max_graphs=2)
    capture.let_go(100)
    for length in (5, 20, 40, 5, 20, 60, 40, 40, 5):
        assert generate(case, prompt(length)) == expected[length]
        case._runner.drain()  # type: ignore[union-attr]
        assert case.footprint().graphs <= 3
    stats = case.stats()
    assert stats.captures - 1 - stats.evictions == 2
    assert stats.hits + stats.misses == 9
    assert stats.ungraphed == stats.misses
    case.close()


@pytest.mark.parametrize("capture", ["background", "blocking"])
def test_an_eviction_of_all_is_measured_and_requests_go_on(folder, expected, capture):
    case = CudaGraph()
    case.prepare(plan(folder, graph={**GRAPH, "capture": capture}))
    assert generate(case, prompt(20)) == expected[20]
    assert case.evict() == (5, 0, 0, 0)
    assert case.footprint().graphs == 0
    for _ in range(2):
        for length in (20, 40):
            assert generate(case, prompt(length)) == expected[length]
        case._runner.drain()  # type: ignore[union-attr]
    assert case.footprint().graphs == 3
    assert case.stats().captures == 5 + 3
    assert case.stats().ungraphed == (0 if capture == "blocking" else case.stats().ungraphed)
    case.close()


def test_an_initial_capture_that_fails_is_survived_but_for_the_decode_graph(folder, expected, monkeypatch):
    class Failing(EagerCapture):
        def __init__(self, decode: bool) -> None:
            super().__init__()
            self.decode = decode

        def __call__(self, work: Work, politely: Work | None = None, *, alone: bool = False) -> Captured:
            if alone == self.decode:
                raise MemoryError("no room")
            return super().__call__(work, politely, alone=alone)

    monkeypatch.setattr("cases.runtime.capture.EagerCapture", lambda **_: Failing(decode=False))
    case = CudaGraph()
    case.prepare(plan(folder, graph={**GRAPH, "capture": "blocking"}))
    for _ in range(3):
        assert generate(case, prompt(20)) == expected[20]
    stats = case.stats()
    assert (stats.captures, stats.failures, stats.hits, stats.misses, stats.ungraphed) == (1, 4 + 1, 0, 3, 3)
    case.close()
    monkeypatch.setattr("cases.runtime.capture.EagerCapture", lambda **_: Failing(decode=True))
    case = CudaGraph()
    with pytest.raises(RuntimeError, match=r"^the decode graph could not be captured: MemoryError: no room$"):
        case.prepare(plan(folder))
    case.close()


def test_rehearsals_change_no_token_and_stand_back_while_a_capture_is_under_way(folder, expected, monkeypatch):
    case, capture = held_case(folder, monkeypatch)
    blanks: list[bool] = []

    def rehearsed(token: int) -> int:
        blanks.append(case._runner.blank() is not None)
        case.rehearse()
        return token

    assert [rehearsed(case.prefill(prompt(20), 4)), *(rehearsed(case.decode()) for _ in range(3))] == expected[20]
    assert blanks == [False] * 4, "the capture that the request asked for is held up"
    capture.let_go(9)
    case._runner.drain()
    before = case.stats()
    for _ in range(3):
        case.rehearse()
    assert case._runner.blank() is not None
    assert case.stats() == before, "a rehearsal is no request"
    assert [rehearsed(token) for token in generate(case, prompt(20))] == expected[20]
    case.close()
    assert case.rehearse() is None
