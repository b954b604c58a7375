"""Cores for runs beside each other: whole physical cores, near each run's GPU, no core twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def physical(topology: Path = TOPOLOGY) -> list[frozenset[int]]:
    """The physical cores that this process may use, each with its hardware threads, in order."""
    allowed = os.sched_getaffinity(0)
    cores = {frozenset(_threads(topology, core)) & allowed for core in allowed}
    return sorted(cores, key=min)


def _threads(topology: Path, core: int) -> set[int]:
    """The hardware threads of a core, of which `core` is one; that alone where Linux does not say."""
    path = topology / f"cpu{core}" / "topology" / "thread_siblings_list"
    return parse(path.read_text(encoding="utf-8")) | {core} if path.is_file() else {core}


def parse(text: str) -> set[int]:
    """Linux's list of numbers: `0-3,8` is 0, 1, 2, 3 and 8."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def shares(cores: Sequence[frozenset[int]], near: Sequence[set[int] | None]) -> list[list[int]]:
    """For each run its cores: an equal part of those near its GPU, neighbouring ones, sorted.

    `near`: for each run what NVML says; None, or no core that we may use, is any. Runs with the same near cores divide
    those between them.

    Raises:
        ValueError: a run would have none.
    """
    places = [tuple(core for core in cores if wanted is None or core & wanted) or tuple(cores) for wanted in near]
    free = set(cores)
    given: list[list[int]] = [[] for _ in near]
    for place in sorted(set(places), key=len):  # whoever may choose least goes first
        runs = [index for index, own in enumerate(places) if own == place]
        left = [core for core in place if core in free]
        if len(left) < len(runs):
            raise ValueError(f"{len(near)} runs at a time need a core each and {len(cores)} are here: name fewer GPUs")
        size = len(left) // len(runs)
        for order, run in enumerate(runs):
            own = left[order * size : (order + 1) * size]
            free.difference_update(own)
            given[run] = sorted(set().union(*own))
    return given
