"""What a worker measures: the sweep of latencies, a stream of random lengths, or requests beside captures."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

from harness.contract import Case
from harness.job import Job
from harness.measure.loop import Block, Place, quiet_collector, time_prefill
from harness.schema import Metric

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
COLLECT_EVERY = 100
"""Requests between two collections of garbage, outside the intervals."""


class Stream(Block):
    """Requests of random lengths one after the other: what a pool of graphs makes of lengths it does not know."""

    def measure(self) -> None:
        """The cold request, then the stream."""
        with quiet_collector():
            self.cold()
            self.stream()

    def stream(self) -> None:
        """Lengths are drawn evenly by a seed of their own, the same for every case; memory is read now and then."""
        self.sink.stage("stream")
        plan = self.job.sweep.stream
        low, high = plan["lengths"]
        draw = random.Random(f"{self.job.seed}/stream/{self.block}")
        for request in range(plan["requests"]):
            if request % plan["memory_every"] == 0:
                self.sink.memory(request, self.case.footprint(), resident_bytes(self.case))
            if request % COLLECT_EVERY == 0:
                gc.collect()
            length = draw.randint(low, high)
            self.rest()
            timed = time_prefill(self.case, self.ids("stream", length, request), self.clock)
            self.sink.keep([(Place("stream", length, length, request), timed)])
            self.sink.progress("stream", length, request + 1, plan["requests"])
        self.sink.memory(plan["requests"], self.case.footprint(), resident_bytes(self.case))


class Interference(Block):
    """The same timed requests twice: with nothing beside them, and with captures going on."""

    def measure(self) -> None:
        """The cold request, warm-up, then both phases."""
        with quiet_collector():
            self.cold()
            self.warm_up()
            self.phase("quiet", self.job.sweep.interference["lengths"])
            self.phase("busy", self.job.sweep.interference["missing"])

    def warm_up(self) -> None:
        """Untimed requests at every timed length."""
        self.sink.stage("warmup")
        for iteration in range(max(2, self.job.sweep.warmup_iterations)):
            for length in self.job.sweep.interference["lengths"]:
                self.case.prefill(self.ids("warmup", length, iteration))

    def phase(self, name: Metric, between: list[int]) -> None:
        """Before each timed request stands an untimed one of the lengths `between`, in turns.

        Where their graphs are missing, each has one captured, and the timed request runs beside that capture.
        """
        self.sink.stage(name)
        plan = self.job.sweep.interference
        for request in range(plan["requests"]):
            if request % COLLECT_EVERY == 0:
                gc.collect()
            length = plan["lengths"][request % len(plan["lengths"])]
            other = between[request % len(between)]
            self.rest()
            self.case.prefill(self.ids(f"{name}/between", other, request))
            timed = time_prefill(self.case, self.ids(name, length, request), self.clock)
            self.sink.keep([(Place(name, length, length, request), timed)])
            self.sink.progress(name, length, request + 1, plan["requests"])


WORKLOADS: dict[str, type[Block]] = {"latency": Block, "stream": Stream, "interference": Interference}


def workload(job: Job) -> type[Block]:
    """What a worker of this job measures."""
    return WORKLOADS[job.sweep.workload]


def resident_bytes(case: Case) -> int:
    """Host memory of the process that holds the engine (Linux: resident pages of /proc/PID/statm)."""
    pid = getattr(case, "pid", None) or os.getpid()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
