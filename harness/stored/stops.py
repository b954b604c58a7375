"""p99_stops.csv, and the timed requests where p99_iterations=auto gave the clock a say in how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from harness.job import MOST_ITERATIONS, Job
from harness.measure.loop import Place
from harness.stored.check import Sheet
from harness.stored.planned import ABSENT, Pair, name, pairs, timed_places, unlike

Stops = dict[Pair, dict[int, int]]
"""How many timed requests of each length a block has."""


class Row(NamedTuple):
    """What of a row of p99_stops.csv is held against the samples."""

    pair: Pair
    length: int
    n: int


def clocked(job: Job) -> bool:
    """Whether the clock had a say: other workloads count their requests."""
    return job.sweep.auto and job.sweep.workload == "latency"


def rows_of(stops: Sheet) -> Iterator[Row]:
    """The rows of p99_stops.csv."""
    lengths, counts = (map(int, stops.column(column)) for column in ("prompt_length", "n"))
    return (Row(*row) for row in zip(pairs(stops), lengths, counts, strict=True))


def stops_of(stops: Sheet) -> Stops:
    """The same by block."""
    found: Stops = {}
    for row in rows_of(stops):
        found.setdefault(row.pair, {})[row.length] = row.n
    return found


def stops_fault(job: Job, states: Mapping[Pair, str], stops: Sheet | None) -> str:
    """What is wrong with p99_stops.csv itself, empty when nothing is."""
    if stops is None:
        lost = "ok" in states.values()
        return "p99_iterations is auto, and there is no p99_stops.csv to say how many there are" if lost else ""
    least, most = job.sweep.ttft_iterations, max(job.sweep.ttft_iterations, MOST_ITERATIONS)
    seen: set[tuple[Pair, int]] = set()
    for number, (pair, length, n) in enumerate(rows_of(stops), start=2):
        said = f"p99_stops.csv row {number} has {name(pair)}"
        if states.get(pair, ABSENT[0]) in ABSENT:
            return f"{said}, which by status.csv measured nothing"
        if length not in job.sweep.prompt_lengths:
            return f"{said} with {length} tokens, which are not in the plan"
        if (pair, length) in seen:
            return f"{said} with {length} tokens a second time"
        if not least <= n <= most:
            return f"{said} with {n} requests of {length} tokens, and the plan has from {least} to {most}"
        seen.add((pair, length))
    return ""


def unlike_stops(job: Job, pair: Pair, state: str, found: list[Place], told: Mapping[int, int]) -> str:
    """What of a block's samples is not as planned, with as many timed requests of each length as p99_stops.csv told.

    A block that failed has the first of them. Where nothing is told of a length its requests were not over: then
    there may be as many as are found, and no decode step came behind them.
    """
    ended, lengths = state == "ok", job.sweep.prompt_lengths
    counts = Counter(place.prompt_length for place in found if place.metric == "ttft")
    for length in lengths:
        if ended and length not in told:
            return f"({state}) has no row of {length} tokens in p99_stops.csv"
        if length in told and (counts[length] > told[length] or (ended and counts[length] < told[length])):
            return f"has {counts[length]} requests of {length} tokens, and p99_stops.csv says {told[length]}"
    enough = max(counts.values(), default=0) + 1  # a round beyond those found is never needed
    asked = {length: told.get(length, max(counts[length], job.sweep.ttft_iterations)) for length in lengths}
    wanted = timed_places(job, *pair, {length: min(n, enough) for length, n in asked.items()})
    if any(length not in told for length in lengths):
        wanted = [place for place in wanted if place.metric != "decode"]
    if len(found) > len(wanted) or (ended and len(found) < len(wanted)):
        return f"({state}) has {len(found)} samples, and {len(wanted)} are planned"
    return unlike(found, wanted[: len(found)])
