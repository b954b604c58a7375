"""How fast the processor is beside a sample, by a fixed loop of Python, and which one the engine's thread runs on.

Where cases launch their kernels one by one the processor is what they wait for, and virtual cores that share a
physical one with a neighbour run at one of two speeds.
"""

from __future__ import annotations

import time
from pathlib import Path

ROUNDS, LAPS = 300, 2


def host_loop_us() -> float:
    """Microseconds of ROUNDS rounds of an empty loop: the quicker of two laps, so that an interrupt tells nothing."""
    return min(lap_us() for _ in range(LAPS))


def lap_us() -> float:
    """Microseconds of one lap."""
    started = time.perf_counter_ns()
    for _ in range(ROUNDS):
        pass
    return (time.perf_counter_ns() - started) / 1e3


def cpu_of(process: int | None) -> int | None:
    """The CPU on which the main thread of a process runs, or last ran; None: of the calling thread. None where the
    process has ended. (proc(5), field `processor` of stat, the 39th; the second is a name in parentheses.)"""
    try:
        stat = Path("/proc/thread-self/stat" if process is None else f"/proc/{process}/stat").read_bytes()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") :].split()[37])
