"""The measuring loop under a fake clock: every interval is known to the nanosecond."""

from __future__ import annotations

import gc
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from harness.contract import Capabilities, Case, Plan, SetUp, Stats
from harness.measure import prompts
from harness.measure.loop import PART_NS, Block, Place, Timed, quiet_collector, stay_awake, time_decode, time_prefill

STATS_NS = 10_000_000_000
"""What `stats` takes: if it were inside an interval, every figure would show it."""


class TimedCase(Case):
    """Moves the clock: prefill by 1000 ns a prompt token, decode by 7 ns, `stats` by STATS_NS."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self) -> None:
        self.now = 5
        self.calls: list[tuple[str, int]] = []
        self.prompts: list[tuple[int, ...]] = []
        self.collector: set[bool] = set()
        self.fail_at_decode: int | None = None
        self.counters = Stats()

    def clock(self) -> int:
        return self.now

    def prepare(self, plan: Plan) -> SetUp:
        return SetUp("timed")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        self._called("prefill", new_tokens)
        self.prompts.append(tuple(prompt))
        self.now += 1000 * len(prompt)
        return len(prompt)

    def decode(self) -> int:
        self._called("decode", 1)
        if sum(name == "decode" for name, _ in self.calls) == self.fail_at_decode:
            raise ArithmeticError("mid-sequence")
        self.now += 7
        return 7

    def stats(self) -> Stats:
        self.now += STATS_NS
        return self.counters

    def close(self) -> None:
        self.calls.append(("close", 0))

    def _called(self, name: str, count: int) -> None:
        self.calls.append((name, count))
        self.collector.add(gc.isenabled())
        self.counters = self.counters._replace(gpu_ns=self.counters.gpu_ns + 3, replays=self.counters.replays + 1)


class Kept:
    """A sink that keeps everything, and how many calls the case had seen when a stage began."""

    def __init__(self, case: TimedCase) -> None:
        self.case = case
        self.samples: list[tuple[Place, Timed]] = []
        self.stages: list[tuple[str, int]] = []
        self.steps: list[tuple[str, int, int, int]] = []

    def keep(self, samples: Sequence[tuple[Place, Timed]]) -> None:
        self.samples.extend(samples)

    def stage(self, name: str) -> None:
        self.stages.append((name, len(self.case.calls)))

    def progress(self, stage: str, prompt_length: int, done: int, total: int) -> None:
        self.steps.append((stage, prompt_length, done, total))

    def of(self, metric: str) -> list[tuple[Place, Timed]]:
        return [(place, timed) for place, timed in self.samples if place.metric == metric]

    def rounds(self, lengths: int) -> list[list[int]]:
        """The order of lengths in each round of TTFT."""
        order = [place.prompt_length for place, _ in self.of("ttft")]
        return [order[start : start + lengths] for start in range(0, len(order), lengths)]


def block(job, number=0, case=None):
    case = case or TimedCase()
    kept = Kept(case)
    return Block(job, "fake", number, case, kept, case.clock), case, kept


def measured(job, number=0):
    one, case, kept = block(job, number)
    one.measure()
    return case, kept


def duration(timed: Timed) -> int:
    return timed.ended_ns - timed.started_ns


def test_one_prefill_is_timed_exactly_and_its_counters_lie_outside():
    case = TimedCase()
    timed = time_prefill(case, [1, 2, 3], case.clock)
    assert timed == Timed(5 + STATS_NS, 5 + STATS_NS + 3000, 3, Stats(), Stats(gpu_ns=3, replays=1))
    assert case.now == 5 + 2 * STATS_NS + 3000


def test_decode_steps_are_timed_exactly_and_told_how_many_follow():
    case = TimedCase()
    found = list(time_decode(case, [1, 2], 4, case.clock))
    assert [duration(timed) for timed in found] == [7] * 4
    assert [timed.token_id for timed in found] == [7] * 4
    assert case.calls == [("prefill", 5), *[("decode", 1)] * 4]
    assert [timed.after.gpu_ns - timed.before.gpu_ns for timed in found] == [3] * 4
    assert found[0].before.gpu_ns == 3, "the prefill's own work belongs to no decode sample"
    assert all(before.after == after.before for before, after in itertools.pairwise(found))
    assert [timed.given_id for timed in found] == [2, 7, 7, 7], "the first token has no sample, and is known"


def test_every_interval_is_the_engines_time_and_nothing_else(make_job):
    _, kept = measured(make_job())
    assert len(kept.samples) == 1 + 3 * 4 + 2 * 5
    for place, timed in kept.samples:
        assert duration(timed) == (7 if place.metric == "decode" else 1000 * place.prompt_length), place


def test_no_two_intervals_overlap(make_job):
    _, kept = measured(make_job())
    ends = [(timed.started_ns, timed.ended_ns) for _, timed in kept.samples]
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ends))


def test_stages_follow_in_their_order_and_cold_is_the_very_first_call(make_job):
    job = make_job()
    case, kept = measured(job, number=1)
    assert [name for name, _ in kept.stages] == ["cold", "warmup", "ttft", "decode"]
    assert dict(kept.stages) == {"cold": 0, "warmup": 1, "ttft": 1 + 3 + 6, "decode": 1 + 3 + 6 + 12}
    (place, timed), *rest = kept.samples
    assert place == Place("cold", place.prompt_length, place.prompt_length, 0)
    assert duration(timed) == 1000 * place.prompt_length
    assert case.prompts[0] == tuple(prompts.prompt(job, "cold", place.prompt_length, 1))
    assert [later.metric for later, _ in rest] == ["ttft"] * 12 + ["decode"] * 10


def test_the_cold_length_turns_with_the_block(make_job):
    job = make_job()
    lengths = [measured(job, number)[1].of("cold")[0][0].prompt_length for number in range(4)]
    assert sorted(lengths[:3]) == job.sweep.prompt_lengths
    assert lengths[3] == lengths[0]


def test_warm_up_reaches_every_length_and_one_whole_sequence_and_keeps_no_sample(make_job):
    job = make_job(warmup_iterations=2)
    one, case, kept = block(job)
    one.warm_up()
    assert [len(ids) for ids in case.prompts] == [3, 5, 8, 3, 5, 8, 4]
    assert [name for name, _ in case.calls].count("decode") == job.sweep.decode_steps
    assert kept.samples == []


def test_no_warm_up_means_no_call(make_job):
    one, case, kept = block(make_job(warmup_iterations=0))
    one.warm_up()
    assert (case.calls, kept.stages) == ([], [("warmup", 0)])


def test_every_length_and_iteration_is_timed_once(make_job):
    job = make_job()
    _, kept = measured(job)
    places = Counter((place.prompt_length, place.iteration) for place, _ in kept.of("ttft"))
    assert places == Counter(itertools.product(job.sweep.prompt_lengths, range(job.sweep.iterations("apart"))))
    assert all(place.context_length == place.prompt_length for place, _ in kept.of("ttft"))


def test_the_larger_of_the_two_counts_is_what_is_measured(make_job):
    _, kept = measured(make_job(ttft_iterations=2, p99_iterations=6))
    assert len(kept.of("ttft")) == 3 * 6


def test_every_round_holds_all_lengths_in_an_order_of_its_own(make_job):
    job = make_job(prompt_lengths=[1, 2, 3, 4, 5, 6], ttft_iterations=8)
    _, kept = measured(job)
    rounds = kept.rounds(6)
    assert all(sorted(order) == job.sweep.prompt_lengths for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1


def test_order_and_prompts_follow_from_the_seed(make_job):
    (one, kept), (same, kept_again) = measured(make_job()), measured(make_job())
    assert [place for place, _ in kept.samples] == [place for place, _ in kept_again.samples]
    assert one.prompts == same.prompts
    lengths = list(range(1, 9))
    orders = [measured(make_job(seed=seed, prompt_lengths=lengths))[1].rounds(8) for seed in (1, 2)]
    assert orders[0] != orders[1]


def test_two_blocks_send_different_prompts_in_different_orders(make_job):
    job = make_job(prompt_lengths=list(range(6, 14)))
    runs = []
    for number in (0, 1):
        one, case, kept = block(job, number)
        one.ttft()
        runs.append((set(case.prompts), kept.rounds(8)))
    assert not runs[0][0] & runs[1][0]
    assert runs[0][1] != runs[1][1]


def test_decode_samples_carry_what_the_cache_holds_before_the_step(make_job):
    """The default sweep: from a prompt of 10 tokens to a context of 407."""
    _, kept = measured(make_job(decode_prompt_length=10, decode_context=407, decode_sequences=1))
    assert [place.context_length for place, _ in kept.of("decode")] == list(range(10, 407))
    assert {(place.prompt_length, place.iteration) for place, _ in kept.of("decode")} == {(10, 0)}


def test_every_decode_sequence_has_a_number_and_a_prompt_of_its_own(make_job):
    job = make_job(decode_sequences=3)
    one, case, kept = block(job)
    one.decode()
    assert Counter(place.iteration for place, _ in kept.samples) == {0: 5, 1: 5, 2: 5}
    assert len(set(case.prompts)) == 3


def test_samples_of_a_sequence_that_fails_midway_are_kept(make_job):
    one, case, kept = block(make_job())
    case.fail_at_decode = 8
    with pytest.raises(ArithmeticError):
        one.decode()
    assert [(place.iteration, place.context_length) for place, _ in kept.samples] == [
        *((0, context) for context in range(4, 9)), (1, 4), (1, 5),
    ]  # fmt: skip


def test_progress_counts_up_to_the_total(make_job):
    _, kept = measured(make_job())
    assert [done for stage, _, done, _ in kept.steps if stage == "ttft"] == list(range(1, 13))
    assert {total for stage, _, _, total in kept.steps if stage == "ttft"} == {12}
    assert [step for step in kept.steps if step[0] == "decode"] == [("decode", 4, 1, 2), ("decode", 4, 2, 2)]


def test_the_collector_is_off_while_the_case_is_called_and_on_again_behind(make_job):
    frozen = gc.get_freeze_count()
    case, _ = measured(make_job())
    assert case.collector == {False}
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen


def test_the_collector_is_restored_after_a_failure(make_job):
    one, case, _ = block(make_job())
    case.fail_at_decode = 1
    with pytest.raises(ArithmeticError):
        one.measure()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_collector_finds_nothing_to_walk_through_inside():
    with quiet_collector():
        assert gc.get_freeze_count() > 0
        assert not gc.isenabled()


def as_published(make_job, **sweep):
    """A job whose case has no warm-up apart."""
    job = make_job(**sweep)
    return replace(job, cases={"fake": replace(job.cases["fake"], warmup="none")})


def test_as_published_the_first_requests_count_and_lengths_ascend(make_job):
    job = as_published(make_job, prompt_lengths=[9, 3], ttft_iterations=2, p99_iterations=3)
    case, kept = measured(job)
    places = [(place.prompt_length, place.iteration) for place, _ in kept.of("ttft")]
    ttft = [(3, 0), (3, 1), (9, 0), (9, 1)]
    assert places == [*ttft, *((length, iteration) for length in (3, 9) for iteration in (2, 3, 4))]
    assert kept.of("cold") == []
    assert len(case.prompts[0]) == 3, "the very first request of the process is the first sample"
    assert job.planned_samples("fake", 0)["ttft"] == len(places)
    assert job.planned_samples("fake", 0)["cold"] == 0


def test_a_case_rehearses_while_it_rests_and_never_inside_an_interval(make_job):
    rested = []

    class Rehearsing(TimedCase):
        def rehearse(self) -> None:
            self.now += STATS_NS
            self.calls.append(("rehearse", 0))

    def rest(milliseconds: float, rehearse: Callable[[], None]) -> None:
        rested.append(milliseconds)
        rehearse()

    job = make_job(pause_ms=7)
    subject, case, kept = block(job, case=Rehearsing())
    replace(subject, pause=rest).ttft()
    assert [name for name, _ in case.calls] == ["rehearse", "prefill"] * (len(case.calls) // 2)
    assert rested == [7] * (len(case.calls) // 2)
    assert all(duration(timed) == 1000 * place.prompt_length for place, timed in kept.of("ttft"))


def test_without_rehearsals_a_case_rests_cold(make_job):
    rested = []

    class Rehearsing(TimedCase):
        def rehearse(self) -> None:
            raise AssertionError("not wanted")

    job = make_job(pause_ms=7)
    job = replace(job, cases={"fake": replace(job.cases["fake"], rehearse=False)})
    subject, _, _ = block(job, case=Rehearsing())
    replace(subject, pause=lambda milliseconds, rehearse: rested.append(rehearse())).ttft()
    assert rested


def test_threads_are_settled_before_each_rest_and_behind_each_decode_step_outside_the_intervals(make_job):
    subject, case, kept = block(make_job(pause_ms=7))

    def settle() -> None:
        case.now += STATS_NS
        case.calls.append(("settle", 0))

    subject = replace(subject, settle=settle, pause=lambda _wait, _rehearse: case.calls.append(("rest", 0)))
    subject.warm_up()
    assert ("settle", 0) not in case.calls, "what is not timed is not settled for"
    case.calls.clear()
    subject.ttft()
    assert [name for name, _ in case.calls] == ["settle", "rest", "prefill"] * (len(case.calls) // 3)
    case.calls.clear()
    subject.decode()
    steps = subject.job.sweep.decode_steps
    assert [name for name, _ in case.calls] == 2 * ["settle", "prefill", *["decode", "settle"] * steps]
    for place, timed in kept.samples:
        assert duration(timed) == (7 if place.metric == "decode" else 1000 * place.prompt_length), place


def test_nothing_is_settled_between_the_tokens_of_an_engine_that_runs_ahead(make_job):
    class Ahead(TimedCase):
        capabilities: ClassVar[Capabilities] = Capabilities(pacing="push")

    subject, case, _ = block(make_job(), case=Ahead())
    replace(subject, settle=lambda: case.calls.append(("settle", 0))).decode()
    steps = subject.job.sweep.decode_steps
    assert [name for name, _ in case.calls] == 2 * ["settle", "prefill", *["decode"] * steps]


def test_resting_passes_the_time_and_rehearses_now_and_then():
    calls = []
    begun = time.perf_counter_ns()
    stay_awake(3, lambda: calls.append(time.perf_counter_ns()))
    assert time.perf_counter_ns() - begun >= 3_000_000
    assert calls, "at least the first falls due however slow the machine is"
    assert calls[0] - begun >= PART_NS
    stay_awake(0, lambda: calls.clear())
    assert calls, "no rest, no rehearsal"
