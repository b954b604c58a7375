"""What a step of the measuring loop costs, and how that is spread over time."""

from __future__ import annotations

import pytest

from harness.measure import overhead


@pytest.mark.parametrize(("spread", "slept"), [(False, []), (True, [0.05] * 21)])
def test_a_step_costs_something_and_is_looked_at_over_a_second_where_that_counts(monkeypatch, spread, slept):
    pauses: list[float] = []
    monkeypatch.setattr(overhead.time, "sleep", pauses.append)
    monkeypatch.setattr(overhead, "STEPS", 100)
    assert overhead.loop_overhead_us(spread=spread) > 0
    assert pauses == slept


def test_it_is_the_median_of_what_was_seen(monkeypatch):
    took = iter([5, 1, 2, 90, 3])
    now = [0]

    def clock() -> int:
        return now[0]

    def steps(*_: object):
        now[0] += next(took) * 1000 * overhead.STEPS
        return iter(())

    monkeypatch.setattr(overhead.time, "perf_counter_ns", clock)
    monkeypatch.setattr(overhead, "time_decode", steps)
    assert overhead.loop_overhead_us() == 3.0
