"""Joules a request: spans of one kind of request, and the counter at their ends."""

from __future__ import annotations

import csv
import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness import run, start
from harness.contract import Plan
from harness.job import read_job
from harness.machine import telemetry
from harness.machine.gpu import Gpu
from harness.measure import energy
from harness.output import record
from harness.schema import ENERGY
from harness.settings.compose import compose_raw, to_config
from harness.settings.plan import energy_seconds
from harness.stored.command import validate
from tests.fakes import FakeCase
from tests.quick_run import without_report
from tests.runs import execute_in, samples, status


@pytest.fixture
def fake():
    case = FakeCase()
    case.prepare(Plan("fake", "nowhere", "cpu", "float32", 512))
    return case


@pytest.fixture
def clock(monkeypatch):
    """Each look at it takes a tenth of a second, and sleeping none."""
    now = [0]

    def look() -> int:
        now[0] += 100_000_000
        return now[0]

    monkeypatch.setattr(energy.time, "sleep", lambda _: None)
    return look


def test_each_kind_of_request_has_a_span_of_its_own(make_job, fake, clock):
    job = replace(make_job(), energy_s=1.0, energy_blocks=1)
    found = energy.spans(job, "fake", fake, clock)
    assert [(one.metric, one.prompt_length) for one in found] == [
        ("rest", 0), ("ttft", 3), ("ttft", 5), ("ttft", 8), ("decode", 4)
    ]  # fmt: skip
    assert [one.n for one in found] == [0, *[10] * 4], "looks within a second, the rest apart"
    assert [one.tokens for one in found] == [0, 30, 50, 80, 10]
    assert all(one.ended_ns - one.began_ns >= 1e9 for one in found)
    assert all(before.ended_ns + energy.TAIL_S * 1e9 <= after.began_ns - energy.LEAD_S * 1e9
               for before, after in itertools.pairwise(found))  # fmt: skip


def test_of_many_lengths_three_are_measured():
    assert energy.few([400, 10, 50, 100, 150, 200, 250, 300, 350]) == [10, 200, 400]
    assert energy.few([7]) == [7]


def test_a_sequence_that_ends_is_followed_by_the_next(make_job, fake):
    step = energy.steps(make_job(), "fake", fake)
    tokens = [step() for _ in range(10)]
    assert fake.calls["prefill"] == 2
    assert fake.calls["decode"] == 10
    assert tokens[:5] == tokens[5:]


def test_without_decode_there_is_no_span_of_it(make_job, fake, clock):
    job = replace(make_job(decode_sequences=0), energy_s=0.1, energy_blocks=1)
    assert "decode" not in {one.metric for one in energy.spans(job, "fake", fake, clock)}


@pytest.mark.parametrize(
    ("seconds", "blocks", "block", "wanted"), [(1, 1, 0, True), (1, 1, 1, False), (0, 1, 0, False)]
)
def test_the_first_blocks_measure_energy(make_job, seconds, blocks, block, wanted):
    assert energy.planned(replace(make_job(), energy_s=seconds, energy_blocks=blocks), block) == wanted


def rows(*spans: energy.Span) -> list[dict[str, str]]:
    return [dict(zip(ENERGY, map(str, row), strict=True)) for row in energy.rows_of("fake", 0, list(spans))]


REST = energy.Span("rest", 0, 0, 0, 0, 2 * 10**9)
TTFT = energy.Span("ttft", 100, 500, 50_000, 3 * 10**9, 5 * 10**9)
DECODE = energy.Span("decode", 10, 400, 400, 6 * 10**9, 7 * 10**9)


def test_joules_are_the_counters_difference_over_requests_and_tokens():
    counter = {0: 10.0, 2 * 10**9: 250.0, 3 * 10**9: 400.0, 5 * 10**9: 1400.0, 6 * 10**9: 2000.0, 7 * 10**9: 2600.0}
    rest, ttft, decode = energy.filled(rows(REST, TTFT, DECODE), counter.get)
    assert {row["idle_w"] for row in (rest, ttft, decode)} == {"120"}
    assert (rest["joules"], rest["joules_per_request"], rest["joules_per_token"]) == ("240", "", "")
    assert (ttft["joules"], ttft["joules_per_request"], ttft["joules_per_token"]) == ("1000", "2", "0.02")
    assert (decode["joules"], decode["joules_per_request"], decode["joules_per_token"]) == ("600", "", "1.5")
    assert decode["method"] == energy.METHOD


def test_a_span_without_readings_says_so():
    rest, ttft = energy.filled(rows(REST, TTFT), {3 * 10**9: 400.0}.get)
    assert (rest["idle_w"], ttft["joules"], ttft["method"]) == ("", "", energy.NOT_READ)


def test_a_run_keeps_its_spans_and_says_why_there_are_none(tmp_path, monkeypatch):
    spans = ",".join(ENERGY) + "\n" + ",".join(map(str, energy.rows_of("fake", 0, [TTFT])[0])) + "\nfake,0,unfin"
    path = tmp_path / "energy.csv"
    path.write_text(spans)
    record.join_energy(path, {3 * 10**9: 400.0, 5 * 10**9: 1400.0}.get)
    (row,) = csv.DictReader(path.open(newline=""))
    assert row["joules_per_request"] == "2"
    assert execute_in(tmp_path / "run", "run=[fake]") == 0
    assert not (tmp_path / "run" / "energy.csv").exists()
    manifest = record.read_json(tmp_path / "run" / "manifest.json")
    assert manifest["no_energy"] == "the run is on the CPU, and the counter is the GPU's"


def test_the_worker_measures_energy_behind_everything_timed(make_job, tmp_path):
    from tests.test_worker import run_block

    job = replace(make_job(prompt_lengths=[3], decode_sequences=0, forced_tokens=0), energy_s=0.01, energy_blocks=1)
    _, events, _ = run_block(job)
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages == [
        "load",
        "compile",
        "capture",
        "cold",
        "warmup",
        "ttft",
        "decode",
        "energy",
        "identity",
        "score",
        "close",
    ]
    found = list(csv.DictReader((job.block_dir("fake", 0) / "energy.csv").open(newline="")))
    assert [row["metric"] for row in found] == ["rest", "ttft"]
    assert int(found[1]["n"]) >= 1
    assert events[-1]["replays"] == 1 + 1 + 4, "energy is in no counter of what was timed"


WATTS = 120


@pytest.fixture
def card(monkeypatch):
    """NVML is a fake that draws 120 W and lists one process of somebody else; all else is a real run."""
    card = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, (1,), (2,), persistence=True, energy_counter=True)
    answers = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetCurrentClocksThrottleReasons": 4, "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 << 20),
        "nvmlDeviceGetClockInfo": 1980, "nvmlDeviceGetTemperature": 40, "nvmlDeviceGetPowerUsage": 120_000,
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=1, usedGpuMemory=2 << 20)],
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(telemetry.pynvml, name, lambda *_, answer=answer: answer)
    counter = lambda handle: time.perf_counter_ns() * WATTS // 1_000_000  # noqa: E731
    monkeypatch.setattr(telemetry.pynvml, "nvmlDeviceGetTotalEnergyConsumption", counter)
    monkeypatch.setattr(start, "check_machine", lambda config: card)


def test_a_run_beside_a_card_has_its_state_and_its_joules(tmp_path, card):
    assert execute_in(tmp_path, "run=[fake]", "energy.seconds=0.2", "telemetry.hz=50") == 0
    spans = list(csv.DictReader((tmp_path / "energy.csv").open(newline="")))
    assert [row["metric"] for row in spans] == ["rest", "ttft", "decode"]
    assert [energy.watts(row) for row in spans] == pytest.approx([WATTS] * 3, rel=0.1)
    assert {row["co_tenants"] + "/" + row["co_tenant_mib"] for row in samples(tmp_path, "fake")} == {"1/2"}
    assert {row["throttle"] for row in samples(tmp_path, "fake")} == {"sw_power_cap"}
    manifest = record.read_json(tmp_path / "manifest.json")
    assert (manifest["no_energy"], manifest["gpu"]["persistence"]) == ("", True)
    assert manifest["warnings"] == ["GPU 0 is also used by process 1 (2 MiB)"]
    assert [line for line in validate(tmp_path) if line.state == "FAILED"] == []
    path = tmp_path / "energy.csv"
    path.write_text(path.read_text().replace(",rest,", ",cold,"))
    (said,) = [line.text for line in validate(tmp_path) if line.state == "FAILED" and line.name == "energy.csv"]
    assert said == "energy.csv row 2: metric is 'cold', not one of rest, ttft, decode"


def test_a_hang_in_energy_is_a_row_and_keeps_what_was_timed(tmp_path, card, monkeypatch, fault):
    injected = fault("Worker", "a hang in energy")
    monkeypatch.setattr(run.subprocess, "run", without_report)
    # Behind one cold request, two of warm-up, three timed ones and one that is decoded.
    hang = ("cases.fake.fail=hang", "cases.fake.fail_at=prefill", "cases.fake.fail_after=30", "cases.fake.timeout_s=4")
    assert execute_in(tmp_path, "run=[fake]", "energy.seconds=0.05", *hang) == 1
    row = status(tmp_path)["fake", "0"]
    assert (row["state"], row["stage"], row["reason"]) == (
        "timeout", "energy", "ended after its limit of 4 s in stage energy"
    )  # fmt: skip
    kept = [sample["metric"] for sample in samples(tmp_path, "fake")]
    assert {metric: kept.count(metric) for metric in set(kept)} == {"cold": 1, "ttft": 3, "decode": 10}
    injected.happened("row `timeout`, stage energy; 14 samples kept")


def test_nothing_is_read_beside_a_case_that_the_telemetry_is_paused_in(tmp_path, monkeypatch):
    seen: list[bool] = []
    monkeypatch.setattr(telemetry.Telemetry, "pause", lambda self, paused: seen.append(paused))
    assert execute_in(tmp_path, "telemetry.paused_in=[other]") == 0
    order = [case for case, _ in read_job(tmp_path / "job.json").order]
    assert seen == [case == "other" for case in order]


def test_the_plans_estimate_holds_the_energy_of_the_blocks_that_read_it():
    asked = ["sweep.prompt_lengths=[10,50,100,150]", "energy.seconds=2", "energy.blocks=1", "device=cuda"]
    config = to_config(compose_raw(asked))
    at_rest_three_lengths_and_decode = 5 * (0.4 + 2 + 0.2)
    assert energy_seconds(config, 0) == pytest.approx(at_rest_three_lengths_and_decode)
    assert energy_seconds(config, 1) == 0
    assert energy_seconds(to_config(compose_raw([*asked[:-1], "device=cpu"])), 0) == 0
