"""The end of a request's work: polled for, with the time told to whoever keeps something warm meanwhile."""

from __future__ import annotations

import time

import pytest
import torch

from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime import session as sessions
from cases.runtime.session import GpuTimer
from tests.runtime.llamas import new_model, plan, prompt, save


class FakeEvent:
    """Has ended at the fourth look; 2 ms behind whatever came before."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.looks = 0

    def record(self, stream: str) -> None:
        assert stream == "the requests' stream"
        self.looks = 0

    def synchronize(self) -> None:
        self.looks = 4

    def query(self) -> bool:
        self.looks += 1
        return self.looks > 3

    def elapsed_time(self, end: FakeEvent) -> float:
        if end.looks < 4:
            raise RuntimeError("the end was not waited for")
        return 2.0


def test_the_end_is_polled_for_and_the_time_told_between_two_looks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the requests' stream")
    timer, told = GpuTimer("cuda"), []
    began = time.perf_counter_ns()
    for requests in (1, 2):
        timer.start()
        timer.finish(told.append)
        assert len(told) == 3 * requests
        assert timer.total_ns() == 2_000_000 * requests
    timer.start()
    timer.finish(None)
    assert timer.total_ns() == 6_000_000, "asleep it is told nothing"
    assert len(told) == 6
    assert began < told[0]
    assert told == sorted(told)


def test_an_error_of_the_gpu_ends_the_wait(monkeypatch):
    def broken(event: FakeEvent) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the requests' stream")
    timer = GpuTimer("cuda")
    monkeypatch.setattr(FakeEvent, "query", broken)
    timer.start()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        timer.finish(lambda now: None)
    assert timer.total_ns() == 0


def test_a_case_that_polls_calls_what_its_server_has_set(monkeypatch, tmp_path):
    class Polled(GpuTimer):
        def finish(self, meanwhile) -> None:
            told.append("asleep") if meanwhile is None else meanwhile(7)

    monkeypatch.setattr(sessions, "GpuTimer", Polled)
    case, told = JitCudaGraph(), []
    try:
        case.prepare(plan(save(new_model(), tmp_path)))
        case.prefill(prompt(5), 3)
        case.meanwhile = told.append
        case.prefill(prompt(5), 3)
        case.decode()
        assert told == ["asleep", 7, 7], "nobody listened at first"
        monkeypatch.setattr(type(case._runner), "capturing", True)
        case.decode()
        assert told == ["asleep", 7, 7, "asleep"], "a capture beside it is not kept from the interpreter"
    finally:
        case.close()
