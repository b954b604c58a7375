"""What the measuring loop itself costs: its steps on a case that does nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import ClassVar

from harness.contract import Capabilities, Case, Plan, SetUp, Stats
from harness.measure.loop import quiet_collector, time_decode

STEPS = 10_000
REPEATS = 5
SPREAD_REPEATS, SPREAD_S = 21, 0.05
"""On a machine that measures: a core that others share runs at one of two speeds, for tenths of seconds each."""


class NoCase(Case):
    """Answers at once."""

    capabilities: ClassVar[Capabilities] = Capabilities()
    _stats = Stats()

    def prepare(self, plan: Plan) -> SetUp:
        """Nothing."""
        return SetUp("none")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """A constant."""
        return 0

    def decode(self) -> int:
        """A constant."""
        return 0

    def stats(self) -> Stats:
        """Nothing has happened."""
        return self._stats

    def close(self) -> None:
        """Nothing."""


def loop_overhead_us(*, spread: bool = False) -> float:
    """Microseconds a step of the loop, everything included that happens between two tokens; median of 5 runs.

    With `spread` of 21, over a second.
    """
    found = []
    with quiet_collector():
        for _ in range(SPREAD_REPEATS if spread else REPEATS):
            if spread:
                time.sleep(SPREAD_S)
            started = time.perf_counter_ns()
            for _ in time_decode(NoCase(), [0], STEPS, time.perf_counter_ns):
                pass
            found.append((time.perf_counter_ns() - started) / STEPS / 1e3)
    return round(median(found), 3)
