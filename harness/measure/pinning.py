"""On which processors a request's threads run: the quickest at hand, found by a loop of Python.

Virtual cores share physical ones with neighbours, who come and go within seconds: a core takes some 1.8 times as long
while its other half is busy, and the scheduler of a virtual machine can't know. A case that launches its kernels one by
one then measures the neighbours. So the thread that launches, and the one that asks where that is another, are kept on
cores that are quick now: every case by the same rule, outside the intervals. No sample is chosen or left out by it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import median

from harness.job import Job
from harness.measure.host import lap_us

LEAST_CPUS = 4
"""Two for the threads of a request, one to step aside to, one for everything else."""
MOST_CPUS = 64
"""Of more, so many are asked, evenly spread: each reading takes some 0.15 ms."""
LAPS = 15
"""Laps of the loop that a reading is the median of, some 2 us each."""
SLACK = 1.25
"""A core is slow above so many times the quickest reading so far; a busy neighbour makes it 1.5 to 2."""
NEW = 0.2
"""Weight of a core's new reading against its earlier ones: those that mostly were quick are asked first."""
SHARE = 20
"""A look for another core is followed by so many times as long without one: they take at most 5 % of the time."""
ENGINE_NS = 100_000_000
"""Between two looks at the core of an engine in another process, which has to step aside for it."""

Move = Callable[[int, Collection[int]], None]
"""Has a thread, by its Linux id (0: the caller), run on these CPUs alone from now on."""


def reading_us() -> float:
    """Microseconds of a lap on this core now: the median, after one that warms the caches."""
    lap_us()
    return median(lap_us() for _ in range(LAPS))


class Pinning:
    """Keeps the calling thread, and the thread `engine` that launches for it where that is another, on quick CPUs.

    `cpus`: those that may be used, LEAST_CPUS or more. `free`: those of each of the two threads before, by its id. The
    engine has the first choice, who asks for it the next one.
    """

    def __init__(
        self, cpus: Sequence[int], free: Mapping[int, Collection[int]], engine: int | None = None, *,
        move: Move = os.sched_setaffinity, reading: Callable[[], float] = reading_us,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:  # fmt: skip
        self._cpus = list(cpus)[:: -(-len(cpus) // MOST_CPUS)]
        self._free, self._engine, self._move, self._reading, self._clock = free, engine, move, reading, clock
        self._there, self._here = self._cpus[:2]  # of the engine, of who asks for it
        self._quickest = float("inf")
        self._usual: dict[int, float] = {}
        self._next_look = self._next_engine = 0
        self.looks = self.moves = 0
        self._stopped = ""

    def __str__(self) -> str:
        """What a table shows."""
        found = f"quickest of {len(self._cpus)} CPUs, {self.moves} moves in {self.looks} looks"
        return found + (f", stopped: {self._stopped}" if self._stopped else "")

    def check(self) -> None:
        """Between two intervals: see whether the cores at hand are still quick, look for others where they are not.

        Where a CPU has gone or moving is refused, the threads are let go for good, and that is said: nothing fails.
        """
        if self._stopped:
            return
        try:
            self._check()
        except OSError as error:
            self._stopped = str(error)
            self.let_go()

    def let_go(self) -> None:
        """Leave both threads to the scheduler; one that has ended, or may not be moved, is left as it is."""
        for thread, cpus in self._free.items():
            with suppress(OSError):
                self._move(thread, cpus)

    def _check(self) -> None:
        if not self.looks:
            self._send(self._there)
            for cpu in self._cpus:
                self._is_quick(cpu, self._read(cpu))
            self._look()
        elif self._clock() >= self._next_look and self._slow():
            self._look()

    def _slow(self) -> bool:
        if not self._is_quick(self._here, self._reading()):
            return True
        if self._engine is None or self._clock() < self._next_engine:
            return False
        self._next_engine = self._clock() + ENGINE_NS
        return not self._is_quick(self._there, self._read(self._there))

    def _look(self) -> None:
        """Take cores that are quick now, the engine first, then who asks: its own other half would slow it down."""
        began, before = self._clock(), (self._there, self._here)
        if self._engine is None:
            self._here = self._choose(self._cpus)
        else:
            if not self._is_quick(self._there, self._read(self._there)):
                self._there = self._choose(self._cpus)
                self._send(self._there)
            self._here = self._choose([cpu for cpu in self._cpus if cpu != self._there])
        self._move(0, {self._here})
        self.moves += self.looks > 0 and before != (self._there, self._here)
        self.looks += 1
        now = self._clock()
        self._next_look, self._next_engine = now + SHARE * (now - began), now + ENGINE_NS

    def _choose(self, cpus: Sequence[int]) -> int:
        """The first that is quick now, beginning with those that mostly were; where none is, the quickest."""
        readings = {}
        for cpu in sorted(cpus, key=self._usual.__getitem__):
            readings[cpu] = self._read(cpu)
            if self._is_quick(cpu, readings[cpu]):
                return cpu
        return min(readings, key=readings.__getitem__)

    def _is_quick(self, cpu: int, found: float) -> bool:
        """Whether a reading is that of a quick core; it is remembered."""
        self._usual[cpu] = (1 - NEW) * self._usual.get(cpu, found) + NEW * found
        self._quickest = min(self._quickest, found)
        return found <= SLACK * self._quickest

    def _read(self, cpu: int) -> float:
        """A reading on this core, where the caller stays; an engine that runs there steps aside meanwhile."""
        aside = self._engine is not None and cpu == self._there
        if aside:
            self._send(self._aside(cpu))
        self._move(0, {cpu})
        found = self._reading()
        if aside:
            self._move(0, {self._here})
            self._send(cpu)
        return found

    def _aside(self, cpu: int) -> int:
        """Where the engine steps aside to: a third of the CPUs away, as no two halves of one core are numbered."""
        far = self._cpus.index(cpu) + len(self._cpus) // 3
        return next(other for other in self._cpus[far:] + self._cpus if other not in (cpu, self._here))

    def _send(self, cpu: int) -> None:
        """Have the engine's thread run there. That it has ended is its next request's to tell."""
        if self._engine is not None:
            with suppress(ProcessLookupError):
                self._move(self._engine, {cpu})


class Unpinned:
    """The scheduler chooses; `why` it does."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __str__(self) -> str:
        """What a table shows."""
        return f"none: {self._why}"

    def check(self) -> None:
        """Nothing to see to."""


@contextmanager
def pinned(job: Job, case: str, engine: int | None, near: Sequence[int]) -> Iterator[Pinning | Unpinned]:
    """Keep this thread and the engine's on quick CPUs of `near` while the context lasts; `check` does it.

    Threads that they start meanwhile would be kept with them: whoever starts some to work beside a request undoes it.
    """
    ours = os.sched_getaffinity(0)
    close = sorted(ours & set(near))
    cpus = close or sorted(ours)
    if job.cases[case].pinning == "none":
        yield Unpinned("the procedure says so")
    elif job.device != "cuda":
        yield Unpinned("on the CPU a request has as many threads as there are cores")
    elif len(cpus) < LEAST_CPUS:
        yield Unpinned(f"{len(cpus)} CPUs are {'near the GPU' if close else 'here'}, and {LEAST_CPUS} are needed")
    else:
        free = {0: ours} if engine is None else {0: ours, engine: os.sched_getaffinity(engine)}
        subject = Pinning(cpus, free, engine)
        try:
            yield subject
        finally:
            subject.let_go()
