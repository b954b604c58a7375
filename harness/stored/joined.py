"""What a run joined out of two of its files, made again: joules from the telemetry, and who answered from the samples
and the kernels that were seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from harness.machine.telemetry import Reading
from harness.machine.telemetry import energy_j as counter_at
from harness.measure.energy import filled
from harness.stored.check import Check, Sheet, failed, note, ok
from harness.stored.planned import Pair, name, pairs
from harness.stored.summaries import alike

Row = dict[str, str]


def check_energy(energy: Sheet, telemetry: Sheet) -> Check:
    """Each row of energy.csv has what the card's counter, as the telemetry read it, gives for its span."""
    readings = readings_of(telemetry)
    rows = [dict(zip(energy.columns, row, strict=True)) for row in energy.rows]
    for number, row in enumerate(rows, start=2):
        if fault := span_fault(row):
            return failed("energy", f"energy.csv row {number}: {fault}")
    made: list[Row] = []
    for _, block in groupby(rows, key=lambda row: (row["case"], row["block"])):
        made += filled([unread(row) for row in block], lambda time_ns: counter_at(readings, time_ns))
    for number, (old, new) in enumerate(zip(rows, made, strict=True), start=2):
        if wrong := next((key for key in energy.columns if not alike(old[key], new[key])), None):
            said = f"{wrong} is '{old[wrong][:40]}', and telemetry.csv gives '{new[wrong]}'"
            return failed("energy", f"energy.csv row {number}: {said}")
    return ok("energy", f"{len(rows)} spans have the joules of the counter in telemetry.csv")


def readings_of(telemetry: Sheet) -> list[Reading]:
    """The readings by their time and their counter, which is all that joules need."""
    counters = telemetry.column("energy_mj") if "energy_mj" in telemetry.columns else [""] * len(telemetry.rows)
    times = map(int, telemetry.column("time_ns"))
    return [
        Reading(at, "", "", "", "", "", "", energy_mj=int(text) if text.isdecimal() else "")
        for at, text in zip(times, counters, strict=True)
    ]


def unread(row: Row) -> Row:
    """A row as the worker left it, without what the parent filled in."""
    blank = dict.fromkeys(("joules", "joules_per_request", "joules_per_token", "idle_w", "method"), "")
    return {**row, **blank}


def span_fault(row: Row) -> str:
    """What is wrong with a span, empty when nothing is."""
    began, ended, n, tokens = (int(row[key] or -1) for key in ("began_ns", "ended_ns", "n", "tokens"))
    if not 0 <= began < ended:
        return "the span does not end after it began"
    if row["metric"] == "rest":
        return "" if n == tokens == 0 else "requests at rest"
    each = int(row["prompt_length"]) if row["metric"] == "ttft" else 1
    return "" if n > 0 and tokens == n * each else f"{n} of {each} tokens are not {tokens}"


def kernels_of(identity: Sheet | None) -> Counter[Pair]:
    """How many different kernels identity.csv names of each block."""
    if identity is None:
        return Counter()
    return Counter(pair for pair, _ in set(zip(pairs(identity), identity.column("kernel"), strict=True)))


def check_answered(status: Sheet, samples: Sheet, identity: Sheet | None) -> Iterator[Check]:
    """status.csv counts the samples that a graph answered as samples.csv does, and kernels as identity.csv does.

    An older file says nothing of that.
    """
    if "replayed" not in status.columns or "replays" not in samples.columns:
        yield note("answered", "older files, without replayed or replays: who answered is not counted again")
        return
    whose = pairs(samples)
    total = Counter(whose)
    graphs = Counter(pair for pair, count in zip(whose, samples.column("replays"), strict=True) if int(count or 0) > 0)
    seen = kernels_of(identity)
    columns = (status.column(column) for column in ("replayed", "kernels"))
    for pair, replayed, kernels in zip(pairs(status), *columns, strict=True):
        if replayed and replayed != (found := f"{graphs[pair]} of {total[pair]}"):
            yield failed("answered", f"{name(pair)}: replayed is '{replayed[:40]}', and samples.csv gives '{found}'")
            return
        if kernels and int(kernels) != seen[pair]:
            yield failed("answered", f"{name(pair)}: {kernels} kernels in status.csv, {seen[pair]} in identity.csv")
            return
    yield ok("answered", "samples that a graph answered, and kernels seen, are as many as status.csv says")
