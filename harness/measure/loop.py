"""The measuring loop: host integers in, time stamps out. It never sees a tensor and aggregates nothing.

Between two readings of the clock stands one call of the case and nothing else. Counters are read outside.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.contract import REHEARSE_NS, Case, Footprint, Stats
from harness.job import Job
from harness.measure.adaptive import Rule, Stop, extra_rounds
from harness.measure.earlier import Earlier, before
from harness.measure.prompts import prompt_for, timed_index
from harness.schema import Metric

PART_NS = REHEARSE_NS // 2
"""Between two calls of a case's `rehearse`: a whole rehearsal of the cases here has two parts."""

Pause = Callable[[float, Callable[[], None]], None]
"""Lets so many milliseconds go by."""

Clock = Callable[[], int]
"""Returns nanoseconds on a clock that all processes of the machine share and that never goes back."""


class Timed(NamedTuple):
    """One interval: host nanoseconds at its ends, the token that ended it, the counters around it; for a decode step
    the token that it was given, which ended the one before."""

    started_ns: int
    ended_ns: int
    token_id: int
    before: Stats
    after: Stats
    given_id: int | None = None


def latency_ns(timed: Timed, by_server: bool) -> int:
    """By the server's clock where it counts and there is one, else by the client's."""
    server_ns = timed.after.server_ns - timed.before.server_ns
    return server_ns if by_server and server_ns else timed.ended_ns - timed.started_ns


class Place(NamedTuple):
    """Where a sample belongs."""

    metric: Metric
    prompt_length: int
    context_length: int
    iteration: int


class Sink(Protocol):
    """Takes what the loop measures, outside the intervals."""

    def keep(self, samples: Sequence[tuple[Place, Timed]]) -> None:
        """Store samples for good."""

    def memory(self, request: int, held: Footprint, rss_bytes: int) -> None:
        """Store a reading of memory for good."""

    def stops(self, found: Sequence[Stop]) -> None:
        """Store why each length got no more requests."""

    def stage(self, name: str) -> None:
        """A new stage begins."""

    def progress(self, stage: str, prompt_length: int, done: int, total: int) -> None:
        """So much of the stage is done."""


def time_prefill(case: Case, ids: Sequence[int], clock: Clock) -> Timed:
    """From the prompt's ids in host memory to the first new id in host memory."""
    before = case.stats()
    started = clock()
    token = case.prefill(ids)
    ended = clock()
    return Timed(started, ended, token, before, case.stats())


def time_decode(case: Case, ids: Sequence[int], steps: int, clock: Clock) -> Iterator[Timed]:
    """One interval a new token after the first, `steps` of them."""
    token = case.prefill(ids, steps + 1)
    after = case.stats()
    for _ in range(steps):
        before, given = after, token
        started = clock()
        token = case.decode()
        ended = clock()
        after = case.stats()
        yield Timed(started, ended, token, before, after, given)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection inside an interval: what lives is frozen, the rest is collected between rounds."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def stay_awake(milliseconds: float, rehearse: Callable[[], None]) -> None:
    """Pass time without sleeping, as a server that polls for the next request does; the GPU all but rests."""
    now = time.perf_counter_ns()
    end, due = now + round(milliseconds * 1e6), now + PART_NS
    while (now := time.perf_counter_ns()) < end:
        if now >= due:
            rehearse()
            due = now + PART_NS


@dataclass(frozen=True)
class Block:
    """All that one worker measures for one case."""

    job: Job
    case_name: str
    block: int
    case: Case
    sink: Sink
    clock: Clock = time.perf_counter_ns
    pause: Pause = stay_awake
    heed: Callable[[], None] = lambda: None
    """Called before each request is begun; what it raises ends the block between two requests."""
    settle: Callable[[], None] = lambda: None
    """Called before each timed request rests, and behind each decode step; see harness.measure.pinning."""

    def measure(self) -> None:
        """Cold, then warm-up, then the timed requests; or, as published, timed ones from the first on."""
        with quiet_collector():
            if self.warmup == "none":
                self.ascending()
            else:
                self.cold()
                self.warm_up()
                self.ttft()
            self.decode()

    def rehearse(self) -> None:
        """Keep the case's path of a request warm, where its procedure has that."""
        if self.job.cases[self.case_name].rehearse:
            self.case.rehearse()

    def rest(self) -> None:
        """Before a timed request."""
        self.settle()
        self.pause(self.job.sweep.pause_ms, self.rehearse)

    @property
    def warmup(self) -> str:
        """Whether warm-up stands apart from the samples."""
        return self.job.cases[self.case_name].warmup

    def ids(self, purpose: str, length: int, index: int) -> list[int]:
        """The prompt of the next request."""
        self.heed()
        return prompt_for(self.job, self.case_name, purpose, length, index)

    def cold(self) -> None:
        """The very first request of the process; the length turns with the block, the same for every case."""
        self.sink.stage("cold")
        lengths = self._shuffled("cold")
        length = lengths[self.block % len(lengths)]
        ids = self.ids("cold", length, self.block)
        self.sink.keep([(Place("cold", length, length, 0), time_prefill(self.case, ids, self.clock))])

    def warm_up(self) -> None:
        """Untimed requests at every length, and one whole decode sequence.

        A whole one, because some engines prepare something for each context length the first time they meet it.
        """
        self.sink.stage("warmup")
        sweep = self.job.sweep
        if sweep.warmup_iterations == 0:
            return
        for iteration in range(sweep.warmup_iterations):
            for length in sweep.prompt_lengths:
                self.case.prefill(self.ids("warmup", length, iteration))
        if sweep.decode_sequences == 0:
            return
        ids = self.ids("warmup", sweep.decode_prompt_length, 0)
        for _ in time_decode(self.case, ids, sweep.decode_steps, self.clock):
            pass

    def ttft(self) -> None:
        """Rounds over all lengths, each in an order of its own: drift and heat fall on every length alike.

        Between requests the GPU rests. Back to back, the engine that keeps it busiest would be the one whose clock
        the card's power cap lowers most, and the cases would no longer differ in their names alone.
        """
        self.sink.stage("ttft")
        sweep = self.job.sweep
        iterations = sweep.iterations(self.warmup)
        total = iterations * len(sweep.prompt_lengths)
        earlier = before(self.job, self.case_name, self.block) if sweep.auto else Earlier({}, 1)
        rule = Rule(sweep.prompt_lengths, earlier.left, sweep.p99_width, earlier.latencies)
        done = 0

        def measure(iteration: int, lengths: Sequence[int]) -> None:
            nonlocal done
            gc.collect()
            for length in self._shuffled(f"ttft/{self.block}/{iteration}"):
                if length in lengths:
                    done += 1
                    timed = self.request(length, iteration, done, max(total, done))
                    rule.add(length, latency_ns(timed, self.job.cases[self.case_name].clock == "server"))

        for iteration in range(iterations):
            measure(iteration, sweep.prompt_lengths)
        if sweep.auto:
            end = self.clock() + round(sweep.p99_budget_s * 1e9)
            self.sink.stops(extra_rounds(rule, iterations, lambda: self.clock() >= end, measure))

    def ascending(self) -> None:
        """As published: length after length, those of TTFT and then those of P99, the process's first among them."""
        self.sink.stage("ttft")
        sweep = self.job.sweep
        first, end = sweep.p99_window(self.warmup)
        total = end * len(sweep.prompt_lengths)
        done = 0
        for window in (range(first), range(first, end)):
            for length in sorted(sweep.prompt_lengths):
                gc.collect()
                for iteration in window:
                    done += 1
                    self.request(length, iteration, done, total)

    def request(self, length: int, iteration: int, done: int, total: int) -> Timed:
        """One timed request, number `done` of `total`."""
        ids = self.ids("ttft", length, timed_index(self.job, self.warmup, self.block, iteration))
        self.rest()
        timed = time_prefill(self.case, ids, self.clock)
        self.sink.keep([(Place("ttft", length, length, iteration), timed)])
        self.sink.progress("ttft", length, done, total)
        return timed

    def decode(self) -> None:
        """Whole sequences; a sample's context length is what the cache holds before the step.

        Samples go to the file after each step, between two intervals: a killed worker has lost none. An engine that
        runs ahead of its client would work on while this thread settles, and the next interval would come out short.
        """
        self.sink.stage("decode")
        sweep = self.job.sweep
        for sequence in range(sweep.decode_sequences):
            gc.collect()
            ids = self.ids("decode", sweep.decode_prompt_length, sequence)
            self.settle()
            for step, timed in enumerate(time_decode(self.case, ids, sweep.decode_steps, self.clock)):
                self.sink.keep([(Place("decode", len(ids), len(ids) + step, sequence), timed)])
                if self.case.capabilities.pacing == "pull":
                    self.settle()
            self.sink.progress("decode", len(ids), sequence + 1, sweep.decode_sequences)

    def _shuffled(self, purpose: str) -> list[int]:
        lengths = list(self.job.sweep.prompt_lengths)
        random.Random(f"{self.job.seed}/{purpose}").shuffle(lengths)
        return lengths
