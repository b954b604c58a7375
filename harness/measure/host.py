"""How fast the processor is beside a sample: a fixed loop of Python, timed by who asked for it.

Where cases launch their kernels one by one the processor is what they wait for, and virtual cores that share a
physical one with a neighbour run at one of two speeds.
"""

from __future__ import annotations

import time

ROUNDS, LAPS = 300, 2


def host_loop_us() -> float:
    """Microseconds of ROUNDS rounds of an empty loop: the quicker of two laps, so that an interrupt tells nothing."""
    quickest = min(_lap_ns() for _ in range(LAPS))
    return quickest / 1e3


def _lap_ns() -> int:
    started = time.perf_counter_ns()
    for _ in range(ROUNDS):
        pass
    return time.perf_counter_ns() - started
