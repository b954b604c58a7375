"""When and how long: the order of samples in time, latencies by the clock that counts, and the card's state beside."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from harness.job import Job
from harness.machine.telemetry import TOLERANCE_NS
from harness.schema import SAMPLES_STATE
from harness.stored.check import Check, Sheet, failed, note, ok, real

ROUNDING_NS = 1
"""A latency is printed to the nanosecond."""


class Sample(NamedTuple):
    """What of a sample is checked here; times in ns, latencies in ms, NaN where there is none."""

    row: int
    case: str
    block: str
    started_ns: int
    host_ms: float
    gpu_ms: float
    server_ms: float
    latency_ms: float
    token_id: int
    state: tuple[str, ...]


def samples_of(sheet: Sheet) -> list[Sample]:
    """The samples of samples.csv; where an older file has no latency_ms it is host_ms."""
    latency = "latency_ms" if "latency_ms" in sheet.columns else "host_ms"
    texts = ("case", "block", "started_ns", "host_ms", "gpu_ms", "server_ms", latency, "token_id")
    columns = [sheet.column(name) for name in (*texts, *stated(sheet))]
    return [
        Sample(row, case, block, int(started), real(host), real(gpu), real(server), real(by), int(token), tuple(state))
        for row, (case, block, started, host, gpu, server, by, token, *state) in enumerate(
            zip(*columns, strict=True), start=2
        )
    ]


def stated(sheet: Sheet) -> list[str]:
    """The columns of the card's state that a file has: older ones lack the last."""
    return [column for column in SAMPLES_STATE if column in sheet.columns]


def check_latencies(job: Job, samples: list[Sample]) -> Check:
    """Latencies are positive, count by the clock that the case's procedure names, and tokens are in the vocabulary."""
    for sample in samples:
        if fault := latency_fault(job, sample):
            return failed("latencies", f"samples.csv row {sample.row}: {fault}")
    return ok("latencies", f"{len(samples)} finite and positive, by the clock of each case's procedure")


def latency_fault(job: Job, sample: Sample) -> str:
    """What is wrong with a sample's figures, empty when nothing is."""
    given = [value for value in (sample.host_ms, sample.gpu_ms, sample.server_ms) if not math.isnan(value)]
    if min(given) <= 0:
        return "a latency is not positive"
    served = job.cases[sample.case].clock == "server" and not math.isnan(sample.server_ms)
    if sample.latency_ms != (sample.server_ms if served else sample.host_ms):
        return f"latency_ms is not {'server_ms' if served else 'host_ms'}, whose clock counts in this case"
    if sample.token_id < 0 or (job.vocab_size and sample.token_id >= job.vocab_size):
        return f"token_id {sample.token_id} is outside the vocabulary"
    return ""


def check_order(samples: list[Sample], manifest: Mapping[str, Any]) -> Check:
    """One request after the other: within a block each starts when the one before is over, and blocks do not overlap.

    A run that was resumed may have its blocks in another order in time.
    """
    ends: list[tuple[int, int, Sample]] = []
    for _, group in groupby(samples, key=lambda sample: (sample.case, sample.block)):
        rows = list(group)
        for before, after in pairwise(rows):
            if after.started_ns < ended_ns(before):
                return failed("order", f"samples.csv row {after.row} starts before the one above it is over")
        ends.append((rows[0].started_ns, ended_ns(rows[-1]), rows[0]))
    if manifest.get("resumed"):
        return note("order", "requests of each block one after the other; the run was resumed, so blocks are not held")
    for (_, end, _), (start, _, first) in pairwise(ends):
        if start < end:
            return failed("order", f"samples.csv row {first.row}: the block starts before the one above it is over")
    return ok("order", f"requests one after the other in {len(ends)} blocks, and these one after the other")


def ended_ns(sample: Sample) -> int:
    """When a request was over, by the client's clock."""
    return sample.started_ns + round(sample.host_ms * 1e6) - ROUNDING_NS


def check_telemetry(samples: list[Sample], telemetry: Sheet, manifest: Mapping[str, Any]) -> Iterator[Check]:
    """Readings go forward in time, and each sample has the clock and the reasons of a reading beside it."""
    times = [int(text) for text in telemetry.column("time_ns")]
    if not times:
        yield note("telemetry", "no readings: the run had no GPU to read")
        return
    back = next((row for row, (one, other) in enumerate(pairwise(times), start=3) if other <= one), None)
    if back is not None and not manifest.get("resumed"):
        yield failed("telemetry", f"telemetry.csv row {back} is not later than the one above it")
        return
    if back is not None:
        yield note("telemetry", "the run was resumed, and its clock began anew: samples are not joined to readings")
        return
    yield joined(samples, times, telemetry)


def joined(samples: list[Sample], times: list[int], telemetry: Sheet) -> Check:
    """Whether each sample's state, all that both files have of it, is that of the reading before or after it.

    Which of the two is nearer is not asked: the later one may have come after the block was put on record.
    """
    alone = 0
    columns = stated(telemetry)[: len(samples[0].state) if samples else 0]
    states = list(zip(*map(telemetry.column, columns), strict=True))
    unread = ("",) * len(columns)
    for sample in samples:
        after = bisect_left(times, sample.started_ns)
        around = [at for at in (after - 1, after) if 0 <= at < len(times)]
        near = {states[at] for at in around if abs(times[at] - sample.started_ns) <= TOLERANCE_NS}
        alone += not near
        if (own := sample.state[: len(columns)]) not in (near or {unread}):
            said = ", ".join(f"{column} '{text[:20]}'" for column, text in zip(columns, own, strict=True))
            return failed("telemetry", f"samples.csv row {sample.row} has {said}, and no reading beside it does")
    whose = f"{alone} of {len(samples)} samples had none beside them, the others have" if alone else "every sample has"
    return ok("telemetry", f"{len(times)} readings forward in time; {whose} the state of one beside it")
