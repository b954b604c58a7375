"""p99_iterations=auto: when it stops, that it says why, and that what follows counts with what it did."""

from __future__ import annotations

import csv
import math
import random
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from harness.attempt import planned_samples
from harness.job import MOST_ITERATIONS, read_job, write_job
from harness.measure import loop, prompts
from harness.measure.adaptive import CHECK_EVERY, Rule, Stop, expected_width, extra_rounds, ranks_from_the_top, stopped
from harness.measure.earlier import Earlier, before
from harness.measure.loop import Block
from harness.measure.sink import BlockSink, Events
from harness.output.statistics import interval_ranks, quantile
from harness.output.summary import p99_rows
from harness.schema import P99_STOPS
from harness.settings.compose import compose_raw, to_config
from harness.settings.plan import expected_seconds
from harness.settings.validate import check
from tests.runs import execute_in, samples
from tests.test_loop import STATS_NS, Kept, TimedCase


def configure(*overrides):
    return to_config(compose_raw(list(overrides)))


ROUND_S = 2 * STATS_NS / 1e9
"""Seconds that a request of the timed case takes, its counters included."""


@pytest.mark.parametrize("n", [1, 100, 367, 368, 369, 380, 381, 500, 1588, 5000, 30_000, 80_000, 500_000])
def test_the_ranks_are_those_of_the_tables(n):
    low, high = interval_ranks(n, 0.99)
    found = ranks_from_the_top(n)
    assert found == (None if low is None or high is None else (n - high, n - low))


def test_a_block_alone_expects_the_width_that_its_samples_have():
    draw = random.Random(3)
    ordered = sorted(round(1e6 * draw.lognormvariate(0, 0.1)) for _ in range(2000))
    found = quantile(ordered, 0.99)
    assert expected_width(ordered, 1) == pytest.approx((found.high - found.low) / found.value)
    assert expected_width(ordered, 4) < expected_width(ordered, 1)
    assert expected_width(ordered[:367], 1) == math.inf
    assert expected_width(ordered[:92], 4) < math.inf


def run_rule(rule: Rule, latencies, first=0, budget=math.inf):
    rounds = Counter()

    def measure(iteration, lengths):
        for length in lengths:
            rounds[length] += 1
            rule.add(length, latencies(length))

    return extra_rounds(rule, first, lambda: sum(rounds.values()) >= budget, measure), rounds


def test_a_steady_length_stops_before_a_scattered_one():
    draw = random.Random(1)
    rule = Rule([10, 20], 3, 0.002)
    stops, rounds = run_rule(rule, lambda length: 10_000 if length == 10 else round(10_000 * draw.uniform(1, 1.5)))
    assert [stop.prompt_length for stop in stops] == [10, 20]
    assert [stop.reason for stop in stops] == ["width", "width"]
    assert rounds == {10: stops[0].n, 20: stops[1].n}
    assert stops[0].n == math.ceil(368 / 3 / CHECK_EVERY) * CHECK_EVERY < stops[1].n
    assert stops[1].relative_width <= 0.002


def test_the_last_block_goes_on_until_the_pooled_interval_is_as_narrow_as_asked():
    """Not until it expects so: whoever stops at an expectation alone is wide of the mark in one run of three."""
    draw = random.Random(5)
    for _ in range(20):
        pooled: list[int] = []
        for left in (5, 4, 3, 2, 1):
            taken = iter([round(1e6 * draw.lognormvariate(0, 0.03)) for _ in range(MOST_ITERATIONS)])
            own: list[int] = []

            def latency(_: int, taken=taken, own=own) -> int:
                own.append(next(taken))
                return own[-1]

            (stop,), _ = run_rule(Rule([10], left, 0.02, {10: pooled}), latency)
            assert len(own) == stop.n
            pooled += own
        assert stop.reason == "width"
        found = quantile(sorted(pooled), 0.99)
        assert stop.relative_width == pytest.approx((found.high - found.low) / found.value)
        assert stop.relative_width <= 0.02


def test_what_is_known_already_shortens_a_block():
    draw = random.Random(6)
    values = [round(1e6 * draw.lognormvariate(0, 0.03)) for _ in range(4000)]
    alone, after = iter(values), iter(values)
    (whole,), _ = run_rule(Rule([10], 1, 0.02), lambda _: next(alone))
    (rest,), _ = run_rule(Rule([10], 1, 0.02, {10: values[2000:]}), lambda _: next(after))
    assert rest.n < whole.n


@pytest.mark.parametrize("blocks", [1, 3, 5])
@pytest.mark.parametrize("known", [0, 77, 400])
def test_the_width_expected_is_that_of_the_pooled_latencies(blocks, known):
    draw = random.Random(blocks)
    ordered, earlier = (sorted(round(1e6 * draw.lognormvariate(0, 0.3)) for _ in range(n)) for n in (400, known))
    found = quantile(sorted([*earlier, *(ordered * blocks)]), 0.99)
    assert expected_width(ordered, blocks, earlier) == pytest.approx((found.high - found.low) / found.value)


def test_a_block_finds_what_the_others_measured(make_job):
    job = replace(make_job(p99_iterations="auto"), order=[("fake", 1), ("fake", 3), ("fake", 0), ("fake", 2)])
    assert before(job, "fake", 1) == Earlier({}, 4)
    for block, whole in ((1, True), (3, False)):
        folder = job.block_dir("fake", block)
        folder.mkdir(parents=True)
        lines = [
            "case,block,metric,prompt_length,host_ms,server_ms",
            f"fake,{block},cold,3,9,",
            f"fake,{block},decode,3,8,",
        ]
        lines += [f"fake,{block},ttft,{length},{ms},{server}" for length, ms, server in ((3, 1.5, 1.25), (5, 2, ""))]
        (folder / "samples.csv").write_text("\n".join(lines) + "\n")
        if whole:
            (folder / "p99_stops.csv").touch()
            (folder / "verdict.json").touch()
    assert before(job, "fake", 0) == Earlier({3: [1_500_000], 5: [2_000_000]}, 2), "block 3 failed, and had its turn"
    assert before(job, "fake", 1) == Earlier({}, 4), "its own are those of an earlier attempt"
    assert before(job, "fake", 2).left == 1
    status = job.block_dir("fake", 0).parents[1] / "status.csv"
    status.write_text("case,block,identity\nfake,1,contradicted: kernels of JIT answered\nother,0,proven: 3 kernels\n")
    assert before(job, "fake", 0) == Earlier({}, 2), "what another engine answered is nobody's"
    status.unlink()
    verdict = job.block_dir("fake", 1) / "verdict.json"
    verdict.unlink()
    assert before(job, "fake", 0).latencies == {}, "stopped behind its requests, block 1 is measured anew"
    verdict.touch()
    by_server = replace(job, cases={**job.cases, "fake": replace(job.cases["fake"], clock="server")})
    assert before(by_server, "fake", 0).latencies == {3: [1_250_000], 5: [2_000_000]}, (
        "without a server's, the client's"
    )


def test_the_budget_ends_every_length_and_says_so():
    draw = random.Random(2)
    stops, _ = run_rule(Rule([10, 20], 1, 0.001), lambda _: round(1e6 * draw.uniform(1, 9)), budget=1000)
    assert {(stop.n, stop.reason) for stop in stops} == {(500, "budget")}
    assert all(0.001 < stop.relative_width < math.inf for stop in stops)


def test_there_is_a_most():
    rule = Rule([10], 1, 1e-9)
    for index in range(5000):
        rule.add(10, index)
    assert rule.still_open(MOST_ITERATIONS - 1, spent=False) == [10]
    assert rule.still_open(MOST_ITERATIONS, spent=False) == []
    assert rule.stops[0].reason == "most"


class Stopped(Kept):
    def stops(self, found):
        self.found = list(found)


def auto_block(make_job, **sweep):
    job = make_job(p99_iterations="auto", **sweep)
    case = TimedCase()
    kept = Stopped(case)
    Block(job, "fake", 0, case, kept, case.clock).ttft()
    return job, kept


def test_the_loop_goes_on_until_p99_is_known(make_job, monkeypatch):
    monkeypatch.setattr(loop.gc, "collect", lambda: 0)  # between rounds, over all that the tests have imported
    job, kept = auto_block(make_job, p99_budget_s=1e6)
    wanted = math.ceil(184 / CHECK_EVERY) * CHECK_EVERY  # 2 blocks of 184 are 368
    assert kept.found == [Stop(length, wanted, 0.0, "width") for length in job.sweep.prompt_lengths]
    counted = Counter(place.prompt_length for place, _ in kept.of("ttft"))
    assert counted == dict.fromkeys(job.sweep.prompt_lengths, wanted)
    assert {place.iteration for place, _ in kept.of("ttft")} == set(range(wanted))


def test_the_loop_stops_when_the_budget_is_used_up(make_job):
    job, kept = auto_block(make_job, p99_budget_s=2 * 3 * ROUND_S)
    assert {(stop.n, stop.reason) for stop in kept.found} == {(job.sweep.ttft_iterations + 2, "budget")}
    assert all(stop.relative_width == math.inf for stop in kept.found)


def test_a_number_writes_no_stops(make_job):
    case = TimedCase()
    kept = Kept(case)
    Block(make_job(), "fake", 0, case, kept, case.clock).ttft()
    assert not hasattr(kept, "found")


def test_prompts_of_two_blocks_never_meet(make_job):
    job = make_job(p99_iterations="auto")
    indices = [prompts.timed_index(job, "apart", block, iteration) for block, iteration in ((0, 9999), (1, 0), (1, 9))]
    assert len(set(indices)) == 3
    assert prompts.digest(job) == prompts.digest(make_job(p99_iterations="auto", p99_budget_s=5.0))


def test_the_job_says_auto_and_old_ones_are_read(make_job, tmp_path):
    job = make_job(p99_iterations="auto", p99_width=0.05)
    write_job(job, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job
    assert job.sweep.p99_window("apart") == (0, MOST_ITERATIONS)


def test_stops_are_written_and_planned_samples_follow_them(make_job, tmp_path):
    job = make_job(p99_iterations="auto")
    folder = job.block_dir("fake", 1)
    folder.mkdir(parents=True)
    assert planned_samples(job, "fake", 1)["ttft"] == 3 * 4, "without stops the least, which more samples contradict"
    with (tmp_path / "events").open("w") as file:
        sink = BlockSink(folder, "fake", 1, Events(file.fileno()))
        sink.stops([Stop(3, 40, 0.01, "width"), Stop(5, 50, math.inf, "budget"), Stop(8, 60, 0.5, "most")])
        sink.close()
    with (folder / "p99_stops.csv").open() as written:
        assert tuple(next(csv.reader(written))) == P99_STOPS
    assert stopped(folder / "p99_stops.csv") == {("fake", 1, 3): 40, ("fake", 1, 5): 50, ("fake", 1, 8): 60}
    assert planned_samples(job, "fake", 1)["ttft"] == 150


AUTO = ("sweep.p99_iterations=auto", "sweep.p99_budget_s=30", "sweep.p99_width=0.9", "sweep.pause_ms=0")


def test_a_run_with_auto_records_its_stops_and_has_a_p99(tmp_path):
    assert execute_in(tmp_path / "run", *AUTO) == 0
    stops = stopped(tmp_path / "run" / "p99_stops.csv")
    assert set(stops) == {("fake", 0, 10), ("other", 0, 10)}
    for (case, _, _), n in stops.items():
        assert n >= 368
        assert sum(row["metric"] == "ttft" for row in samples(tmp_path / "run", case)) == n
    with (tmp_path / "run" / "p99.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert {case: int(row["n"]) for case, row in rows.items()} == {case: n for (case, _, _), n in stops.items()}
    assert all(row["supported"] == "True" for row in rows.values())
    with (tmp_path / "run" / "ttft.csv").open() as file:
        assert {row["n"] for row in csv.DictReader(file)} == {"3"}, "TTFT keeps its own number"


def test_a_budget_too_small_for_a_p99_leaves_it_refused(make_job):
    frame = pd.DataFrame({
        "case": "fake", "block": 0, "metric": "ttft", "prompt_length": 3, "iteration": range(300), "latency_ms": 1.0,
    })  # fmt: skip
    row = next(iter(p99_rows(make_job(p99_iterations="auto"), frame)))
    assert (row["n"], row["supported"], row["max_ms"]) == (300, False, 1.0)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sweep.p99_iterations=many"], "sweep.p99_iterations=many is neither a whole number nor auto"),
        (["sweep.p99_width=0"], "sweep.p99_width=0.0 must lie between 0 and 1"),
        (["sweep.p99_budget_s=0"], "sweep.p99_budget_s=0.0 must be a finite number above 0"),
        (["protocol=paper", "sweep.p99_iterations=auto"], "follows a procedure without warm-up"),
        (["sweep.p99_iterations=auto", "sweep.p99_budget_s=900"], "must be below cases."),
    ],
)
def test_mistakes_are_one_sentence(overrides, sentence):
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")) as found:
        check(configure("run=[baseline,jit]", *overrides))
    assert str(found.value).count("\n") == 0


def test_the_estimate_holds_the_budget():
    config = configure("run=[baseline,jit]", "sweep.p99_iterations=auto", "sweep.p99_budget_s=77")
    fixed = replace(config.sweep, p99_iterations=config.sweep.ttft_iterations)
    case = config.cases["jit"]
    assert expected_seconds(case, config.sweep, 0) - expected_seconds(case, fixed, 0) == pytest.approx(77)
