"""What a request takes of energy: requests back to back, long enough for the card's counter, behind everything timed.

The counter moves every some tens of milliseconds, so no request of a few milliseconds can be measured by itself. A
span holds requests of one kind only, so that nothing must be subtracted: with pauses in between, a part of the joules
would be those of a card at rest, which draws more or less by how long ago it worked. Requests of the same kind run
before and behind the span, so that what the counter lags behind is the same at both ends. The worker marks the spans,
and the parent, which reads the card, fills in the joules.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from harness.contract import Case
from harness.job import Job
from harness.measure.loop import Clock, quiet_collector
from harness.measure.prompts import prompt_for
from harness.schema import ENERGY

LEAD_S = 0.4
TAIL_S = 0.2
PROMPTS = 16
"""Different prompts that take turns: made before the span, in which the host shall do nothing else."""
METHOD = "back to back, NVML energy counter of the whole card, nothing subtracted"
NOT_READ = "not measured: the energy counter was not read around this span"
Work = Callable[[], object]
Row = dict[str, str]


class Span(NamedTuple):
    """`n` requests (or decode steps) of one kind, from `began_ns` to `ended_ns`, and the tokens that they read in
    prefills or made in decode steps; none at rest."""

    metric: str
    prompt_length: int
    n: int
    tokens: int
    began_ns: int
    ended_ns: int


def planned(job: Job, block: int) -> bool:
    """Whether a block measures energy."""
    return job.energy_s > 0 and block < job.energy_blocks and job.sweep.workload == "latency"


def spans(job: Job, name: str, case: Case, clock: Clock = time.perf_counter_ns) -> list[Span]:
    """The card at rest with the case loaded, then requests of a few prompt lengths, then decode steps."""
    with quiet_collector():
        _, began, ended = span(job.energy_s, clock, lambda: time.sleep(LEAD_S / 8))
        found = [Span("rest", 0, 0, 0, began, ended)]
        for length in few(job.sweep.prompt_lengths):
            n, began, ended = span(job.energy_s, clock, prefills(job, name, case, length))
            found.append(Span("ttft", length, n, n * length, began, ended))
        if job.sweep.decode_sequences:
            n, began, ended = span(job.energy_s, clock, steps(job, name, case))
            found.append(Span("decode", job.sweep.decode_prompt_length, n, n, began, ended))
    return found


def few(lengths: Sequence[int]) -> list[int]:
    """The shortest, the middle and the longest: each takes seconds, and what lies between them can be read off."""
    ordered = sorted(set(lengths))
    return sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]})


def span(seconds: float, clock: Clock, work: Work) -> tuple[int, int, int]:
    """`work` again and again: how often within the span, and when that began and ended."""
    repeat(LEAD_S, clock, work)
    began = clock()
    n = repeat(seconds, clock, work)
    ended = clock()
    repeat(TAIL_S, clock, work)
    return n, began, ended


def repeat(seconds: float, clock: Clock, work: Work) -> int:
    """Do `work` at least once, until the time is over; how often."""
    end = clock() + round(seconds * 1e9)
    for n in itertools.count(1):
        work()
        if clock() >= end:
            return n
    raise AssertionError("count has no end")


def prefills(job: Job, name: str, case: Case, length: int) -> Work:
    """Requests of one new token, by prompts that take turns."""
    prompts = itertools.cycle([prompt_for(job, name, "energy", length, index) for index in range(PROMPTS)])
    return lambda: case.prefill(next(prompts))


def steps(job: Job, name: str, case: Case) -> Work:
    """Decode steps; where a sequence ends the next begins, and its prefill is inside the step."""
    ids = prompt_for(job, name, "energy", job.sweep.decode_prompt_length, 0)

    def tokens() -> Iterator[int]:
        while True:
            case.prefill(ids, job.sweep.decode_steps + 1)
            for _ in range(job.sweep.decode_steps):
                yield case.decode()

    made = tokens()
    return lambda: next(made)


def rows_of(name: str, block: int, found: list[Span]) -> list[list[object]]:
    """Rows of a block's energy.csv, without what the parent knows."""
    return [
        [name, block, one.metric, one.prompt_length, one.n, one.tokens, one.began_ns, one.ended_ns,
         *[""] * (len(ENERGY) - 8)]
        for one in found
    ]  # fmt: skip


def filled(rows: list[Row], energy_j: Callable[[int], float | None]) -> list[Row]:
    """The rows with their joules; those of a span around which the counter was not read say so."""
    for row in rows:
        ends = [energy_j(int(row[key])) for key in ("began_ns", "ended_ns")]
        row["method"] = NOT_READ if None in ends else METHOD
        if ends[0] is not None and ends[1] is not None:
            joules, n, tokens = ends[1] - ends[0], int(row["n"]), int(row["tokens"])
            row["joules"] = f"{joules:.6g}"
            row["joules_per_request"] = f"{joules / n:.6g}" if row["metric"] == "ttft" else ""
            row["joules_per_token"] = f"{joules / tokens:.6g}" if tokens else ""
    idle = [watts(row) for row in rows if row["metric"] == "rest" and row["joules"]]
    return [{**row, "idle_w": f"{idle[0]:.4g}" if idle else ""} for row in rows]


def watts(row: Row) -> float:
    """Mean power of a span."""
    return float(row["joules"]) / ((int(row["ended_ns"]) - int(row["began_ns"])) / 1e9)
