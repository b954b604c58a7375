"""The samples of a whole block, in the order in which the measuring loop itself takes them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.contract import Capabilities, Case, Footprint, SetUp, Stats
from harness.job import Job
from harness.measure.loop import Block, Place, Timed
from harness.measure.workloads import workload
from harness.stored.check import Row, Sheet

Pair = tuple[str, int]
"""A case and the number of its block."""
ABSENT = ("unavailable", "unsupported")
"""States of a block that has no samples."""
PLACE = ("metric", "prompt_length", "context_length", "iteration")


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
        """Keep the places, out of reach of the collector, which the loop calls before every round."""
        self.found += [place for place, _ in samples]
        gc.freeze()

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
    try:
        measured.measure()
    finally:
        gc.unfreeze()
    return sink.found


def timed_places(job: Job, case: str, block: int, counts: Mapping[int, int]) -> list[Place]:
    """The same with p99_iterations=auto, where the clock had a say: with so many timed requests of each length."""
    rounds = max(counts.values(), default=0)
    fixed = replace(job, sweep=replace(job.sweep, ttft_iterations=rounds, p99_iterations=0))
    every = planned_places(fixed, case, block)
    return [place for place in every if place.metric != "ttft" or place.iteration < counts[place.prompt_length]]


def places(samples: Sheet, rows: list[Row]) -> list[Place]:
    """Where each row of samples.csv belongs."""
    metric, *numbers = (samples.columns.index(column) for column in PLACE)
    return [Place(row[metric], *(int(row[at]) for at in numbers)) for row in rows]  # type: ignore[arg-type]


def describe(place: Place) -> str:
    """A sample in words."""
    return f"{place.metric} of {place.context_length} tokens, iteration {place.iteration}"


def unlike(found: Sequence[Place], wanted: Sequence[Place]) -> str:
    """The first place in which as many samples are not those wanted, empty when there is none."""
    if found == wanted:
        return ""
    if lost := Counter(wanted) - Counter(found):
        return f"lacks the sample {describe(next(iter(lost)))}"
    place = next(i for i, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
    return f"has as sample {place + 1} {describe(found[place])}, where the plan has {describe(wanted[place])}"


def pairs(sheet: Sheet) -> list[Pair]:
    """Case and block of each row."""
    return [(case, int(block)) for case, block in zip(sheet.column("case"), sheet.column("block"), strict=True)]


def name(pair: Pair) -> str:
    """A block in words."""
    return f"block {pair[1]} of {pair[0]}"
