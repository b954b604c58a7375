"""Streams and requests beside captures, under a clock of the test's own, and the files that blocks leave."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.contract import CaptureRecord, Eviction, Footprint, Stats
from harness.job import Job
from harness.measure.loop import Block
from harness.measure.workloads import Interference, Stream, resident_bytes, workload
from harness.schema import CAPTURES, EVICTION
from harness.worker import write_captures, write_eviction
from tests.fakes import FakeCase

STREAM = {"requests": 250, "lengths": [3, 40], "memory_every": 100}
BESIDE = {"requests": 6, "lengths": [3, 5], "missing": [7, 8, 9]}


class Recorder:
    """A sink that only remembers."""

    def __init__(self) -> None:
        self.samples: list = []
        self.readings: list = []
        self.stages: list[str] = []

    def keep(self, samples) -> None:
        self.samples += samples

    def memory(self, request: int, held: Footprint, rss_bytes: int) -> None:
        self.readings.append((request, held, rss_bytes))

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def progress(self, stage: str, prompt_length: int, done: int, total: int) -> None:
        assert 0 < done <= total


class Listening(FakeCase):
    """Remembers the length of every prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        self.lengths.append(len(prompt))
        return super().prefill(prompt, new_tokens)


def run(kind: type[Block], job: Job) -> tuple[Listening, Recorder]:
    case, sink, ticks = Listening(), Recorder(), itertools.count(0, 1000)
    kind(job, "fake", 0, case, sink, lambda: next(ticks), lambda milliseconds, rehearse: None).measure()
    return case, sink


@pytest.mark.parametrize("rehearse", [True, False])
@pytest.mark.parametrize("kind", [Stream, Interference])
def test_who_rests_rehearses_where_the_procedure_says_so(make_job, kind, rehearse):
    job = with_sweep(make_job(), stream=STREAM, interference=BESIDE)
    job = replace(job, cases={"fake": replace(job.cases["fake"], rehearse=rehearse)})
    played: list[bool] = []

    class Rehearsing(FakeCase):
        def rehearse(self) -> None:
            played.append(True)

    ticks = itertools.count(0, 1000)
    kind(job, "fake", 0, Rehearsing(), Recorder(), lambda: next(ticks), lambda _, play: play()).measure()
    assert bool(played) is rehearse


@pytest.mark.parametrize("kind", [Stream, Interference])
def test_threads_are_settled_before_each_timed_request(make_job, kind):
    job = with_sweep(make_job(), stream=STREAM, interference=BESIDE)
    seen: list[str] = []
    ticks = itertools.count(0, 1000)
    subject = kind(
        job, "fake", 0, FakeCase(), Recorder(), lambda: next(ticks), lambda _wait, _play: seen.append("rest")
    )
    replace(subject, settle=lambda: seen.append("settle")).measure()
    assert seen == ["settle", "rest"] * (len(seen) // 2)
    assert seen


def with_sweep(job: Job, **sweep) -> Job:
    return replace(job, sweep=replace(job.sweep, **sweep))


def test_a_stream_draws_its_lengths_evenly_and_the_same_for_every_case(make_job):
    job = with_sweep(make_job(), workload="stream", stream=STREAM)
    assert workload(job) is Stream
    case, sink = run(Stream, job)
    again, _ = run(Stream, job)
    assert case.lengths == again.lengths
    drawn = case.lengths[1:]
    assert len(drawn) == 250
    assert (min(drawn), max(drawn)) == (3, 40)
    assert sink.stages == ["cold", "stream"]
    assert [place.iteration for place, _ in sink.samples[1:]] == list(range(250))
    assert {place.metric for place, _ in sink.samples[1:]} == {"stream"}
    assert [place.prompt_length for place, _ in sink.samples[1:]] == drawn


def test_a_stream_reads_memory_before_at_each_turn_and_after(make_job):
    _, sink = run(Stream, with_sweep(make_job(), workload="stream", stream=STREAM))
    assert [request for request, _, _ in sink.readings] == [0, 100, 200, 250]
    assert all(held.graphs == 4 and rss > 2**20 for _, held, rss in sink.readings)


def test_timed_requests_are_the_same_in_both_phases_and_only_what_stands_between_differs(make_job):
    job = with_sweep(make_job(), workload="interference", interference=BESIDE)
    assert workload(job) is Interference
    case, sink = run(Interference, job)
    phases = case.lengths[-24:]
    assert phases[:12] == [3, 3, 5, 5, 3, 3, 5, 5, 3, 3, 5, 5]
    assert phases[12:] == [7, 3, 8, 5, 9, 3, 7, 5, 8, 3, 9, 5]
    kept = [(place.metric, place.prompt_length) for place, _ in sink.samples[1:]]
    assert kept == [("quiet", length) for length in [3, 5] * 3] + [("busy", length) for length in [3, 5] * 3]


def test_a_whole_block_has_what_its_workload_plans(make_job):
    job = make_job()
    for changed, kind in (
        ({"workload": "stream", "stream": STREAM}, Stream),
        ({"workload": "interference", "interference": BESIDE}, Interference),
        ({"workload": "latency"}, Block),
    ):
        planned = with_sweep(job, **changed)
        _, sink = run(kind, planned)
        found = dict.fromkeys(planned.planned_samples("fake", 0), 0)
        for place, _ in sink.samples:
            found[place.metric] += 1
        assert found == planned.planned_samples("fake", 0)


def test_without_decode_sequences_nothing_is_decoded(make_job):
    case, sink = run(Block, with_sweep(make_job(), decode_sequences=0))
    assert case.calls.get("decode", 0) == 0
    assert "decode" not in {place.metric for place, _ in sink.samples}


def test_the_memory_of_another_process_is_its_own(make_job):
    class Elsewhere(FakeCase):
        pid = 1

    assert resident_bytes(Elsewhere()) != resident_bytes(FakeCase())


def test_captures_and_eviction_are_tables(tmp_path):
    records = [CaptureRecord(0, 0.5, 3 * 2**20), CaptureRecord(512, 0.25, 0, "out of memory")]
    write_captures(tmp_path / "captures.csv", "fake", 1, records)
    assert (tmp_path / "captures.csv").read_text().splitlines() == [
        ",".join(CAPTURES), "fake,1,0,0,0.5,3.0,", "fake,1,1,512,0.25,0.0,out of memory",
    ]  # fmt: skip
    write_captures(tmp_path / "none.csv", "fake", 1, [])
    assert not (tmp_path / "none.csv").exists()
    write_eviction(tmp_path / "eviction.csv", "fake", 1, Eviction(7, 2**20, 2**21, 2**22))
    assert (tmp_path / "eviction.csv").read_text().splitlines() == [",".join(EVICTION), "fake,1,7,1.0,2.0,4.0"]


@pytest.mark.parametrize(
    ("stats", "going_on"), [(Stats(), False), (Stats(begun=1), True), (Stats(begun=2, captures=1, failures=1), False)]
)
def test_a_capture_goes_on_between_its_beginning_and_its_end(stats, going_on):
    from harness.measure.sink import capturing

    assert capturing(stats) is going_on
