"""status.csv and samples.csv against the plan: every block in its place, every request once, in the planned order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from harness.contract import Capabilities, Case, Footprint, SetUp, Stats
from harness.job import Job
from harness.measure.loop import Block, Place, Timed
from harness.measure.workloads import workload
from harness.stored.check import Check, Row, Sheet, failed, note, ok
from harness.stored.plan import first_order

Pair = tuple[str, int]
PLACE = ("metric", "prompt_length", "context_length", "iteration")
ABSENT = ("unavailable", "unsupported")


class Nothing(Case):
    """A case that answers at once, so that the loop itself says which requests it makes."""

    capabilities = Capabilities()

    def prepare(self, plan: Any) -> SetUp:
        """Nothing to prepare."""
        return SetUp("nothing")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """No token."""
        return 0

    def decode(self) -> int:
        """No token."""
        return 0

    def stats(self) -> Stats:
        """Nothing happened."""
        return Stats()

    def close(self) -> None:
        """Nothing to give back."""


class Places:
    """A sink that keeps where samples belong and drops what they measured."""

    def __init__(self) -> None:
        self.found: list[Place] = []

    def keep(self, samples: Sequence[tuple[Place, Timed]]) -> None:
        """Keep the places."""
        self.found += [place for place, _ in samples]

    def memory(self, request: int, held: Footprint, rss_bytes: int) -> None:
        """No reading."""

    def stage(self, name: str) -> None:
        """No stage."""

    def progress(self, stage: str, prompt_length: int, done: int, total: int) -> None:
        """No progress."""


def planned_places(job: Job, case: str, block: int) -> list[Place]:
    """The samples of a whole block in the order in which the measuring loop takes them."""

    class Unread(workload(job)):  # type: ignore[misc]  # the loop of this job, its prompts left blank
        def ids(self, purpose: str, length: int, index: int) -> list[int]:
            return [0] * length

    sink = Places()
    measured: Block = Unread(job, case, block, Nothing(), sink, clock=lambda: 0, pause=lambda _wait, _rehearse: None)
    measured.measure()
    return sink.found


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

    With p99_iterations=auto the clock had a say in how many there are: then they are counted against p99_stops.csv.
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
    if job.sweep.auto:
        yield check_stops(status, samples, stops)
        return
    faults = list(islice(block_faults(job, samples, states, dict(blocks)), 3))
    yield from (failed("requests", text) for text in faults)
    if not faults:
        yield ok(
            "requests", f"{len(samples.rows)} samples in {len(blocks)} blocks: each of the plan once, in its order"
        )


def check_stops(status: Sheet, samples: Sheet, stops: Sheet | None) -> Check:
    """As many timed requests of each length and block as p99_stops.csv says, in the blocks that ended well."""
    if stops is None and "ok" not in status.column("state"):
        return note(
            "requests", "p99_iterations is auto, and no block ended well: nothing says how many there were to be"
        )
    if stops is None:
        return failed("requests", "p99_iterations is auto, and there is no p99_stops.csv to say how many there are")
    told = {
        (case, int(block), int(length)): int(n)
        for case, block, length, n in zip(
            *(stops.column(name) for name in ("case", "block", "prompt_length", "n")), strict=True
        )
    }
    ended = {pair for pair, state in zip(pairs(status), status.column("state"), strict=True) if state == "ok"}
    timed = zip(pairs(samples), samples.column("metric"), samples.column("prompt_length"), strict=True)
    found = Counter((*pair, int(length)) for pair, metric, length in timed if metric == "ttft" and pair in ended)
    wanted = Counter({place: n for place, n in told.items() if place[:2] in ended})
    if found == wanted:
        return ok("requests", f"{found.total()} timed requests: as many a length and block as p99_stops.csv says")
    case, block, length = next(place for place in {**wanted, **found} if found[place] != wanted[place])
    place = (case, block, length)
    return failed(
        "requests",
        f"{name((case, block))} has {found[place]} requests of {length} tokens, and p99_stops.csv says {wanted[place]}",
    )


def block_faults(job: Job, samples: Sheet, states: dict[Pair, str], blocks: dict[Pair, list[Row]]) -> Iterator[str]:
    """One sentence on each block whose samples are not those of the plan."""
    for pair, state in states.items():
        rows = blocks.get(pair, [])
        if state in ABSENT and rows:
            yield f"{name(pair)} is {state} and has {len(rows)} samples"
        elif state not in ABSENT and (fault := unlike_plan(job, pair, state, places(samples, rows))):
            yield f"{name(pair)} {fault}"


def unlike_plan(job: Job, pair: Pair, state: str, found: list[Place]) -> str:
    """What of a block's samples is not as planned; a block that failed has the first of them."""
    planned = sum(job.planned_samples(*pair).values())
    if len(found) > planned or (state == "ok" and len(found) < planned):
        return f"({state}) has {len(found)} samples, and {planned} are planned"
    if not found:
        return ""
    wanted = planned_places(job, *pair)[: len(found)]
    if found == wanted:
        return ""
    if lost := Counter(wanted) - Counter(found):
        return f"lacks the sample {describe(next(iter(lost)))}"
    place = next(i for i, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
    return f"has as sample {place + 1} {describe(found[place])}, where the plan has {describe(wanted[place])}"


def places(samples: Sheet, rows: list[Row]) -> list[Place]:
    """Where each row of samples.csv belongs."""
    metric, *numbers = (samples.columns.index(column) for column in PLACE)
    return [Place(row[metric], *(int(row[at]) for at in numbers)) for row in rows]  # type: ignore[arg-type]


def describe(place: Place) -> str:
    """A sample in words."""
    return f"{place.metric} of {place.context_length} tokens, iteration {place.iteration}"


def pairs(sheet: Sheet) -> list[Pair]:
    """Case and block of each row."""
    return [(case, int(block)) for case, block in zip(sheet.column("case"), sheet.column("block"), strict=True)]


def name(pair: Pair) -> str:
    """A block in words."""
    return f"block {pair[1]} of {pair[0]}"
