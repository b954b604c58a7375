"""Every experiment composes to what its name says, and runs through all stages on the tiny model."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from harness.settings.compose import ROOT, compose_raw, to_config
from harness.settings.config import RunConfig
from harness.settings.plan import blocks_of
from harness.settings.validate import check

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml") if path.stem != "smoke")
CPU = ("model=tiny", "device=cpu")


def composed(name: str, *overrides: str) -> RunConfig:
    return to_config(compose_raw([f"experiment={name}", *overrides]))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(name: str, folder: Path, *overrides: str) -> None:
    call = [sys.executable, "-m", "harness", f"experiment={name}", *CPU, f"output={folder}", *overrides]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_names_itself_and_passes_the_checks(name):
    config = composed(name)
    plain = name in ("paper", "engines", "pinning")
    assert config.study == (None if plain else name), "a plain comparison has no section of its own"
    check(config)
    check(composed(name, *CPU))


def test_cases_of_an_experiment_differ_in_what_their_names_say():
    def graphs(name: str) -> dict[str, dict]:
        config = composed(name)
        return {case: config.cases[case].options["graph"] for case in config.run}

    coverage = graphs("capture_coverage")
    assert coverage["shared_pool"] | {"shared_pool": False} == coverage["unshared_pools"]
    assert coverage["shared_pool"] | {"executables": 16} == coverage["few_instantiated"]
    assert [graph["max_graphs"] for graph in graphs("rolling").values()] == [5, 10, 20, 50]
    assert [graph["buckets"] for graph in graphs("coverage_policies").values()] == ["exact", "step", "pow2", "step"]
    ipc = composed("ipc")
    assert [ipc.cases[name].transport for name in ipc.run] == ["inproc", "unix"]
    assert {composed("ablation").cases[name].transport for name in composed("ablation").run} == {"inproc"}


def test_timed_lengths_stay_resident_and_the_others_have_too_few_places():
    config = composed("background_capture")
    graph, beside = config.cases["jit_cuda_graph"].options["graph"], config.sweep.interference
    assert sorted({-(-length // 16) * 16 for length in beside.lengths}) == sorted(graph["pinned"])
    others = {-(-length // 16) * 16 for length in beside.missing}
    assert not others & set(graph["pinned"])
    assert len(others) > graph["max_graphs"] - len(graph["pinned"]) > 0


def test_the_host_bound_cases_of_the_attribution_have_three_processes():
    config = composed("attribution")
    counts = {case: blocks_of(config.cases[case], config.sweep) for case in config.run}
    bound = [case for case in config.run if case.startswith(("baseline_", "stand_in_"))] + ["cuda_graph_published"]
    assert len(bound) == 7
    assert counts == {**dict.fromkeys(config.run, 1), **dict.fromkeys(bound, 3)}


def test_capture_coverage_on_the_tiny_model(tmp_path):
    run("capture_coverage", tmp_path / "run", "sweep.ttft_iterations=2")
    captured = [row for row in rows(tmp_path / "run" / "captures.csv") if row["case"] == "shared_pool"]
    assert sorted(int(row["bucket"]) for row in captured) == list(range(501))
    assert {row["reason"] for row in captured} == {""}
    assert [row["graphs"] for row in rows(tmp_path / "run" / "eviction.csv")] == ["501"] * 3


def test_a_stream_through_a_small_pool_on_the_tiny_model(tmp_path):
    run("rolling", tmp_path / "run", "run=[rolling_5]", "sweep.stream.requests=60", "sweep.pause_ms=0")
    samples = [row for row in rows(tmp_path / "run" / "samples.csv") if row["metric"] == "stream"]
    assert len(samples) == 60
    assert all(int(row["hits"]) + int(row["misses"]) == 1 for row in samples)
    assert sum(int(row["evictions"]) for row in samples) > 0
    readings = rows(tmp_path / "run" / "memory.csv")
    assert [int(row["request"]) for row in readings] == [0, 50, 60]
    assert max(int(row["graphs"]) for row in readings) <= 6


def test_requests_beside_captures_on_the_tiny_model(tmp_path):
    run("background_capture", tmp_path / "run", "sweep.interference.requests=40", "sweep.pause_ms=0")
    samples = rows(tmp_path / "run" / "samples.csv")
    quiet = [row for row in samples if row["metric"] == "quiet"]
    busy = [row for row in samples if row["metric"] == "busy"]
    assert len(quiet) == len(busy) == 40
    assert {row["capturing"] for row in quiet} == {"0"}
    # On a CPU a capture is over in no time, so that a timed request beside one is a matter of luck; that there were
    # captures is not: those of the missing lengths came when requests were under way.
    assert {row["capturing"] for row in busy} <= {"0", "1"}
    config = composed("background_capture")
    missing = {-(-length // 16) * 16 for length in config.sweep.interference.missing}
    assert missing & {int(row["bucket"]) for row in rows(tmp_path / "run" / "captures.csv")}
    assert {row["misses"] for row in quiet + busy} == {"0"}


@pytest.mark.parametrize("name", ["aa", "telemetry"])
def test_a_null_comparison_runs_one_case_under_several_names(name):
    config = composed(name)
    entries = [config.cases[case] for case in config.run]
    alike = {(entry.target, entry.transport, str(entry.options), str(entry.procedure)) for entry in entries}
    assert len(alike) == 1
    assert len({entry.title for entry in entries}) == len(entries)
    assert config.telemetry.paused_in == (["off"] if name == "telemetry" else [])
    assert config.sweep.blocks * config.sweep.ttft_iterations >= 368, "a P99 needs as many"
