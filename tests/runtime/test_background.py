"""The capturing thread and its gate, by events and never by time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from cases.runtime.background import SWITCH_S, CaptureThread, Gate
from tests.runtime.llamas import load, new_model, prompt, save

LIMIT_S = 20.0


def reached(event: threading.Event) -> None:
    """The event comes; only a test that fails waits for the limit."""
    assert event.wait(LIMIT_S), "it never came"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(new_model(), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def thread() -> Iterator[CaptureThread]:
    made = CaptureThread()
    yield made
    made.stop()


def test_whoever_asks_from_one_cpu_does_not_keep_the_captures_there(thread):
    free = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(free)})
    try:
        assert thread.run(lambda: os.sched_getaffinity(0)) == free
    finally:
        os.sched_setaffinity(0, free)


def test_jobs_run_one_at_a_time_in_order_on_one_other_thread(thread):
    ran: list[tuple[int, int]] = []
    inside = threading.Lock()

    def job(number: int) -> None:
        assert inside.acquire(blocking=False), "two at once"
        ran.append((number, threading.get_ident()))
        inside.release()

    for number in range(20):
        thread.later(number, lambda number=number: job(number))
    thread.drain()
    assert [number for number, _ in ran] == list(range(20))
    assert len({ident for _, ident in ran}) == 1
    assert ran[0][1] != threading.get_ident()
    assert thread.run(threading.get_ident) == ran[0][1]


def test_a_key_that_waits_or_runs_is_not_queued_again(thread):
    begun, go, ran = threading.Event(), threading.Event(), []

    def job() -> None:
        begun.set()
        reached(go)
        ran.append(1)

    thread.later("a", job)
    reached(begun)
    thread.later("a", job)
    thread.later("a", job)
    go.set()
    thread.drain()
    assert ran == [1]
    thread.later("a", job)
    thread.drain()
    assert ran == [1, 1]


def test_run_raises_what_the_job_raised(thread):
    with pytest.raises(ArithmeticError, match="gone"):
        thread.run(lambda: (_ for _ in ()).throw(ArithmeticError("gone")))


def test_what_a_job_in_the_background_died_of_is_raised_at_the_next_or_printed(thread, capfd):
    def die() -> None:
        raise ArithmeticError("unforeseen")

    thread.later("a", die)
    thread.drain()
    with pytest.raises(ArithmeticError, match="unforeseen"):
        thread.later("b", lambda: None)
    thread.later("c", die)
    thread.drain()
    thread.stop()
    assert "ArithmeticError: unforeseen" in capfd.readouterr().err


def test_stop_joins_drops_what_waits_and_may_be_called_again():
    before = set(threading.enumerate())
    thread, begun, go, ran = CaptureThread(), threading.Event(), threading.Event(), []

    def job() -> None:
        begun.set()
        reached(go)
        ran.append("first")

    thread.later(1, job)
    thread.later(2, lambda: ran.append("second"))
    reached(begun)
    thread._pending[2].add_done_callback(lambda _: go.set())
    thread.stop()
    thread.stop()
    assert ran == ["first"]
    assert not [other for other in set(threading.enumerate()) - before if other.name.startswith("capture")]


def test_the_interpreter_is_handed_over_often_while_a_job_runs(thread):
    usual = sys.getswitchinterval()
    seen = []
    thread.later(1, lambda: seen.append(sys.getswitchinterval()))
    thread.drain()
    assert seen == [pytest.approx(SWITCH_S)]
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_an_open_gate_lets_pass_at_once():
    Gate(patience_s=LIMIT_S * 10).wait()


def test_a_closed_gate_holds_until_it_is_left():
    gate, passed = Gate(patience_s=LIMIT_S * 10), threading.Event()
    gate.busy = True
    waiter = threading.Thread(target=lambda: (gate.wait(), passed.set()))
    waiter.start()
    while not gate._waiting:
        assert not passed.is_set()
    gate.leave()
    reached(passed)
    waiter.join()


def test_patience_ends_so_that_no_capture_starves():
    gate = Gate(patience_s=0.001)
    gate.busy = True
    gate.wait()
    assert gate.busy


def test_a_turn_holds_the_launch_and_gives_way_between_layers():
    gate = Gate()
    with gate.turn() as give_way:
        assert gate.launching.locked()
        gate.launching.release()
        gate.launching.acquire()
        give_way()
        assert gate.launching.locked()
    assert not gate.launching.locked()
    with pytest.raises(ArithmeticError), gate.turn():
        raise ArithmeticError
    assert not gate.launching.locked()


def test_a_forward_gives_way_before_each_layer_and_computes_the_same(folder):
    llama, gate, turns = load(folder), Gate(), []
    llama.state.words[:12] = torch.tensor([0, 9, *prompt(10)])
    llama.forward(10)
    expected = llama.state.logits.clone()
    with gate.turn() as give_way:
        llama.forward(10, lambda: (turns.append(gate.launching.locked()), give_way()))
    assert turns == [True] * (llama.shape.num_hidden_layers + 1)
    assert torch.equal(llama.state.logits, expected)


def test_captures_work_where_moving_a_thread_is_refused(monkeypatch):
    def refuse(_thread, _cpus):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert CaptureThread().run(lambda: 7) == 7
