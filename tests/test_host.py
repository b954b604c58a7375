"""The processor's speed beside a sample."""

from __future__ import annotations

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
