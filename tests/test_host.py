"""The processor's speed beside a sample, and which one it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from harness.measure import host


def test_the_loop_has_all_its_rounds(monkeypatch):
    """One a hundred times as long takes tens of times as long, whatever else the machine does."""
    short = min(host.host_loop_us() for _ in range(20))
    monkeypatch.setattr(host, "ROUNDS", 100 * host.ROUNDS)
    assert min(host.host_loop_us() for _ in range(20)) > 20 * short


@pytest.mark.parametrize(("laps", "found"), [((4000, 4500), 4.0), ((90_000, 4200), 4.2)])
def test_the_quicker_of_two_laps_counts_so_that_an_interrupt_tells_nothing(monkeypatch, laps, found):
    ends = [0, laps[0], 10**6, 10**6 + laps[1]]
    monkeypatch.setattr(host.time, "perf_counter_ns", iter(ends).__next__)
    assert host.host_loop_us() == found


@pytest.fixture
def one_cpu():
    """This thread on one CPU, which it is."""
    before = os.sched_getaffinity(0)
    one = max(before)
    os.sched_setaffinity(0, {one})
    yield one
    os.sched_setaffinity(0, before)


def test_the_cpu_is_that_of_the_calling_thread_and_not_of_the_process(one_cpu):
    assert host.cpu_of(None) == one_cpu
    found = []

    def elsewhere() -> None:
        os.sched_setaffinity(0, {0})
        found.append(host.cpu_of(None))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [0]


def test_the_cpu_of_another_process_is_that_of_its_main_thread_whatever_its_name(one_cpu):
    renamed = "open('/proc/self/comm', 'w').write('a) R 1 (b'); print(flush=True); input()"
    call = [sys.executable, "-c", renamed]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert host.cpu_of(process.pid) == one_cpu
        process.stdin.close()
    assert host.cpu_of(process.pid) is None, "it has ended"
