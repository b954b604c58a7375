"""status.csv and samples.csv against the plan: every block in its place, every request once, in the planned order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, islice

from harness.job import Job
from harness.measure.loop import Place
from harness.stored.check import Check, Row, Sheet, failed, note, ok
from harness.stored.plan import first_order
from harness.stored.planned import ABSENT, Pair, name, pairs, places, planned_places, unlike
from harness.stored.stops import Stops, clocked, stops_fault, stops_of, unlike_stops


def check_status(job: Job, status: Sheet, whole: bool) -> Check:
    """The rows of status.csv are blocks of the plan, each once, in the order drawn from the seed."""
    rows, title = pairs(status), "blocks"
    if stray := [pair for pair in rows if pair not in set(job.order)]:
        return failed(title, f"status.csv has {name(stray[0])}, which is not in the plan")
    if twice := [pair for pair, count in Counter(rows).items() if count > 1]:
        return failed(title, f"status.csv has {name(twice[0])} twice")
    rules = {"": job.order, ", by the rule of early runs": first_order(job)}
    fits = [rule for rule, order in rules.items() if rows == [pair for pair in order if pair in set(rows)]]
    if not fits:
        wanted = [pair for pair in job.order if pair in set(rows)]
        place = next(i for i, pair in enumerate(wanted) if rows[i] != pair)
        return failed(title, f"row {place + 2} of status.csv is {name(rows[place])}: not the order drawn from the seed")
    said = ", ".join(f"{count} {state}" for state, count in Counter(status.column("state")).items()) or "none"
    if len(rows) == len(job.order):
        return ok(title, f"all {len(rows)} of the plan, in the order drawn from the seed{fits[0]} ({said})")
    if whole:
        lost = next(pair for pair in job.order if pair not in set(rows))
        return failed(title, f"the run is marked finished, and status.csv lacks {name(lost)}")
    return note(title, f"{len(rows)} of {len(job.order)} planned: the run is marked unfinished ({said})")


def check_requests(job: Job, status: Sheet, samples: Sheet, stops: Sheet | None = None) -> Iterator[Check]:
    """Every block of samples.csv has the requests of the plan, each once, in the order of the plan.

    With p99_iterations=auto the clock had a say in how many timed ones there are: as many as p99_stops.csv says.
    """
    states = dict(zip(pairs(status), status.column("state"), strict=True))
    grouped = groupby(zip(pairs(samples), samples.rows, strict=True), key=lambda item: item[0])
    blocks = [(pair, [row for _, row in group]) for pair, group in grouped]
    found = [pair for pair, _ in blocks]
    expected = [pair for pair in states if pair in set(found)]
    if stray := [pair for pair in found if pair not in states]:
        yield failed("requests", f"samples.csv has {name(stray[0])}, and status.csv does not")
        return
    if found != expected:
        yield failed("requests", "the blocks of samples.csv do not follow each other as those of status.csv")
        return
    if clocked(job) and (fault := stops_fault(job, states, stops)):
        yield failed("requests", fault)
        return
    told = stops_of(stops) if clocked(job) and stops is not None else {}
    faults = list(islice(block_faults(job, samples, states, dict(blocks), told), 3))
    yield from (failed("requests", text) for text in faults)
    if not faults and clocked(job) and stops is None:
        yield note(
            "requests", "p99_iterations is auto, and no block ended well: nothing says how many there were to be"
        )
    elif not faults:
        count = ", as many timed ones as p99_stops.csv says" if clocked(job) else ""
        text = f"{len(samples.rows)} samples in {len(blocks)} blocks: each of the plan once, in its order{count}"
        yield ok("requests", text)


def block_faults(
    job: Job, samples: Sheet, states: Mapping[Pair, str], blocks: Mapping[Pair, list[Row]], stops: Stops
) -> Iterator[str]:
    """One sentence on each block whose samples are not those of the plan; one beyond it is left to `check_status`."""
    planned = set(job.order)
    for pair, state in states.items():
        found = places(samples, blocks.get(pair, []))
        if state in ABSENT and found:
            yield f"{name(pair)} is {state} and has {len(found)} samples"
        if state in ABSENT or pair not in planned:
            continue
        if clocked(job):
            fault = unlike_stops(job, pair, state, found, stops.get(pair, {}))
        else:
            fault = unlike_plan(job, pair, state, found)
        if fault:
            yield f"{name(pair)} {fault}"


def unlike_plan(job: Job, pair: Pair, state: str, found: list[Place]) -> str:
    """What of a block's samples is not as planned; a block that failed has the first of them."""
    planned = sum(job.planned_samples(*pair).values())
    if len(found) > planned or (state == "ok" and len(found) < planned):
        return f"({state}) has {len(found)} samples, and {planned} are planned"
    if not found:
        return ""
    return unlike(found, planned_places(job, *pair)[: len(found)])
