"""The worker's files and its one verdict, as a process of its own with a pipe."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import worker
from harness.job import write_job
from harness.measure import pinning
from harness.measure.sink import Events
from harness.processes.heed import Heed
from tests.fakes import FORGED, VOCABULARY, next_token

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 30
BUG = "ArithmeticError: the fake case failed in "


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_block(job, block: int = 0) -> tuple[int, list[dict[str, Any]], str]:
    return run_worker(job, "block", "fake", str(block))


def run_worker(job, mode: str, *rest: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the worker as the parent does: exit code, events, and what it printed."""
    folder = Path(job.run_dir)
    folder.mkdir(exist_ok=True)
    if not (folder / "job.json").exists():
        write_job(job, folder / "job.json")
    reading, writing = os.pipe()
    call = [sys.executable, "-m", "harness.worker", mode, str(folder / "job.json"), *rest]
    process = subprocess.Popen(
        [*call, "--events", str(writing)], cwd=ROOT, pass_fds=[writing], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as file:
        events = [json.loads(line) for line in file]
    output, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, events, output


def verdicts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "verdict"]


def test_a_good_block_ends_with_its_verdict_and_leaves_samples_and_scores(make_job):
    job = make_job()
    code, events, _ = run_block(job)
    assert code == 0
    assert verdicts(events) == [events[-1]]
    verdict = events[-1]
    assert verdict.pop("ready_s") > 0
    assert verdict.pop("wall_s") >= 0
    assert verdict == {
        "event": "verdict", "state": "ok", "reason": "", "stage": "", "engine": "fake 1",
        "load_s": 0.25, "compile_s": 0.125, "capture_s": 0.5,
        "peak_memory_gib": 3.0, "graph_pool_mib": 1.0, "graphs": 4, "replays": 1 + 3 + 6 + 12 + 12, "ungraphed": 0,
        "identity": "not proven: this engine has no way to show its kernels", "modules": "", "sampler": "",
        "kernels": None, "graph_launches": None, "replayed": "23 of 23", "pinning": "none: the procedure says so",
    }  # fmt: skip
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages == ["load", "compile", "capture", "cold", "warmup", "ttft", "decode", "identity", "score", "close"]
    folder = job.block_dir("fake", 0)
    assert [row["metric"] for row in rows(folder / "samples.csv")] == ["cold"] + ["ttft"] * 12 + ["decode"] * 10
    scores = array("f", (folder / "scores.f32").read_bytes())
    assert len(scores) == 3 * (job.sweep.forced_tokens + 1) * VOCABULARY


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is nothing to choose from")
@pytest.mark.parametrize(
    ("options", "state"), [({}, "ok"), ({"fail": "error", "fail_at": "decode", "fail_after": 5 + 5 + 3}, "failed")]
)
def test_threads_are_kept_from_the_first_timed_request_on_and_let_go_whatever_happens(
    make_job, monkeypatch, tmp_path, options, state
):
    monkeypatch.setattr(pinning, "LEAST_CPUS", 2)
    free = os.sched_getaffinity(0)
    job = make_job(options=options)
    entry = replace(job.cases["fake"], pinning="quickest")
    job = replace(job, device="cuda", cases={"fake": entry})
    with (tmp_path / "events").open("w") as file:
        events = Events(os.dup(file.fileno()))
        found = worker.measure_block(job, "fake", 0, events, time.monotonic_ns(), Heed(), sorted(free))
    assert found["state"] == state
    looks = re.fullmatch(rf"quickest of {len(free)} CPUs, \d+ moves in (\d+) looks", found["pinning"])
    assert looks
    assert int(looks[1]) >= 1
    assert os.sched_getaffinity(0) == free


def test_the_hosts_loop_is_timed_beside_each_sample(make_job):
    job = make_job()
    run_block(job)
    found = rows(job.block_dir("fake", 0) / "samples.csv")
    assert len({row["host_loop_us"] for row in found}) > 1
    assert all(float(row["host_loop_us"]) > 0 for row in found)


def test_scores_are_of_the_first_timed_prompts(make_job):
    """So that the parent can hold the timed tokens against them."""
    job = make_job(decode_sequences=1)
    run_block(job)
    folder = job.block_dir("fake", 0)
    first = {row["prompt_length"]: row["token_id"] for row in rows(folder / "samples.csv")
             if row["metric"] == "ttft" and row["iteration"] == "0"}  # fmt: skip
    scores = array("f", (folder / "scores.f32").read_bytes())
    for number, length in enumerate(job.sweep.prompt_lengths):
        start = number * (job.sweep.forced_tokens + 1) * VOCABULARY
        logits = scores[start : start + VOCABULARY]
        assert logits.index(max(logits)) == int(first[str(length)]) == next_token(worker.prompt(job, "ttft", length, 0))


def judging(make_job, **options: Any):
    """A job whose reference is the fake, and a sequence of two steps that another case answered."""
    job = make_job(vocab_size=VOCABULARY)
    fake = job.cases["fake"]
    job = replace(job, cases={"baseline": replace(fake, options=options), "fake": fake})
    folder = Path(job.run_dir)
    folder.mkdir()
    lines = ["case,block,metric,prompt_length,context_length,iteration,token_id,given_token_id"]
    lines += [f"fake,0,decode,4,{context},0,{token},{given}" for context, token, given in ((4, 5, 6), (5, 7, 5))]
    (folder / "samples.csv").write_text("\n".join([*lines, ""]))
    return job, folder / "referee.csv"


def test_the_referee_writes_its_table_and_says_how_far_it_is(make_job):
    job, path = judging(make_job)
    code, events, _ = run_worker(job, "judge")
    assert (code, events[-1]["state"], events[-1]["texts"]) == (0, "ok", 1)
    assert [event["stage"] for event in events if event["event"] == "stage"] == ["load", "compile", "capture", "judge"]
    assert [(event["done"], event["total"]) for event in events if event["event"] == "progress"] == [(1, 1)]
    (row,) = rows(path)
    assert (row["case"], row["metric"], row["prompt_length"], row["judged"]) == ("fake", "decode", "4", "2")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fail": "error", "fail_at": "judge"}, BUG + "judge"),
        ({"fail": "error", "fail_at": "close"}, BUG + "close"),
        ({"fail": "unavailable"}, "the fake engine is missing in prepare: pip install it"),
    ],
)
def test_a_referee_that_fails_says_why_and_writes_nothing(make_job, options, reason):
    job, path = judging(make_job, **options)
    code, events, _ = run_worker(job, "judge")
    assert (code, events[-1]["state"], events[-1]["reason"]) == (1, "failed", reason)
    assert not path.exists()


def test_only_the_first_block_scores(make_job):
    job = make_job()
    code, events, _ = run_block(job, block=1)
    assert (code, events[-1]["state"]) == (0, "ok")
    assert not (job.block_dir("fake", 1) / "scores.f32").exists()
    assert {row["block"] for row in rows(job.block_dir("fake", 1) / "samples.csv")} == {"1"}


@pytest.mark.parametrize(
    ("options", "code", "state", "stage", "reason"),
    [
        ({"fail": "unavailable"}, 0, "unavailable", "load", "the fake engine is missing in prepare: pip install it"),
        ({"fail": "unsupported"}, 0, "unsupported", "load", "the fake engine does not do prepare"),
        ({"fail": "error"}, 1, "failed", "load", BUG + "prepare"),
        ({"fail": "error", "fail_at": "prefill"}, 1, "failed", "cold", BUG + "prefill"),
        ({"fail": "error", "fail_at": "decode"}, 1, "failed", "warmup", BUG + "decode"),
        ({"fail": "error", "fail_at": "score"}, 1, "failed", "score", BUG + "score"),
        ({"nonsense": 1}, 1, "failed", "load", "ValueError: the fake case has no option nonsense"),
    ],
)  # fmt: skip
def test_every_end_has_its_verdict(make_job, options, code, state, stage, reason):
    found_code, events, output = run_block(make_job(options=options))
    verdict = events[-1]
    assert (found_code, verdict["state"], verdict["stage"]) == (code, state, stage)
    assert verdict["reason"].startswith(reason)
    assert len(verdicts(events)) == 1
    (told,) = (event for event in events if event["event"] == "outcome")
    assert {key: verdict[key] for key in ("state", "stage", "reason")}.items() <= told.items()
    assert events.index(told) < events.index({"event": "stage", "stage": "close"})
    assert ("Traceback" in output) == (state == "failed")


def test_an_unsupported_sampler_is_refused_before_the_case_is_opened(make_job):
    job = make_job(options={"fail": "exit"})
    job.sampling["strategy"] = "sample"
    code, events, _ = run_block(job)
    assert (code, events[-1]["state"]) == (0, "unsupported")
    assert events[-1]["reason"] == "Fake has no sampler 'sample', only greedy"


def test_samples_before_a_failure_are_kept(make_job):
    job = make_job(options={"fail": "error", "fail_at": "decode", "fail_after": 5 + 5 + 3})
    code, events, _ = run_block(job)
    assert (code, events[-1]["state"], events[-1]["stage"]) == (1, "failed", "decode")
    metrics = [row["metric"] for row in rows(job.block_dir("fake", 0) / "samples.csv")]
    assert metrics == ["cold"] + ["ttft"] * 12 + ["decode"] * 8


def test_a_second_worker_overwrites_nothing(make_job):
    job = make_job(options={"fail": "error", "fail_at": "decode"})
    run_block(job)
    run_block(job)
    folder = job.block_dir("fake", 0)
    assert len(rows(folder / "samples.interrupted-0.csv")) == len(rows(folder / "samples.csv")) == 1


def test_a_worker_that_dies_gives_no_verdict_and_keeps_its_samples(make_job):
    job = make_job(options={"fail": "kill", "fail_at": "decode", "fail_after": 8})
    code, events, _ = run_block(job)
    assert code == -signal.SIGKILL
    assert verdicts(events) == []
    assert len(rows(job.block_dir("fake", 0) / "samples.csv")) == 16


def test_what_a_case_prints_is_no_verdict(make_job):
    """Even the exact line of one: it goes to the log, not to the parent."""
    job = make_job()
    job.cases["fake"] = job.cases["fake"].__class__("Fake", "tests.fakes.Forging", "inproc", None, 60, {})
    code, events, output = run_block(job)
    assert (code, verdicts(events)) == (1, [events[-1]])
    assert events[-1]["state"] == "failed"
    assert FORGED in output


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(what: Callable[[], bool], said: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
def test_a_worker_ends_with_its_parent(make_job, tmp_path):
    """A parent of its own starts a worker that hangs, and is then killed."""
    job = make_job(options={"fail": "hang", "fail_at": "prefill"})
    Path(job.run_dir).mkdir()
    path = Path(job.run_dir) / "job.json"
    write_job(job, path)
    code = (
        "import os, subprocess, sys; reading, writing = os.pipe();"
        "call = [sys.executable, '-m', 'harness.worker', 'block', sys.argv[1], 'fake', '0', '--events', str(writing)];"
        "child = subprocess.Popen([*call, '--parent', str(os.getpid())], pass_fds=[writing]);"
        "open(sys.argv[2], 'w').write(f'{child.pid}\\n'); child.wait()"
    )
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", code, str(path), str(pid_file)], cwd=ROOT)
    try:
        samples = job.block_dir("fake", 0) / "samples.csv"
        wait_until(lambda: samples.exists() and pid_file.exists() and pid_file.read_text().endswith("\n"), "no worker")
        pid = int(pid_file.read_text())
        assert alive(pid)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(pid), f"worker {pid} outlives its parent")


def test_a_child_whose_parent_is_gone_already_does_not_begin():
    code = "from harness.processes.orphan import die_with_parent; die_with_parent(1 << 22); print('went on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the parent process 4194304 is gone" in done.stderr


def test_a_reason_is_one_short_line():
    assert worker.one_line(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(worker.one_line(ValueError("x" * 1000))) == 500


def prepare(spec: dict[str, Any], tmp_path: Path) -> tuple[int, list[dict[str, Any]]]:
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    reading, writing = os.pipe()
    call = [sys.executable, "-m", "harness.worker", "prepare", str(tmp_path / "spec.json"), "--events", str(writing)]
    with subprocess.Popen(call, cwd=ROOT, pass_fds=[writing], stdout=subprocess.DEVNULL) as process:
        os.close(writing)
        with os.fdopen(reading) as file:
            events = [json.loads(line) for line in file]
    return process.returncode, events


def test_preparation_makes_the_checkpoint_and_calibrates(tiny_model, tmp_path):
    spec = {"model": tiny_model, "device": "cpu", "cache": str(tmp_path / "cache"), "seed": 3}
    code, events = prepare(spec, tmp_path)
    assert code == 0
    assert [event["stage"] for event in events[:-1]] == ["checkpoint", "digest", "calibrate"]
    verdict = events[-1]
    assert verdict["state"] == "ok"
    assert Path(verdict["checkpoint"]).is_dir()
    assert len(verdict["digest"]) == 64
    assert verdict["vocab_size"] == 1024
    assert verdict["read_bandwidth_tb_s"] > 0
    assert verdict["matmul_tflop_s"] > 0
    assert verdict["versions"]["torch"]
    assert verdict["versions"]["cuda"] == cuda_of_torch()


def cuda_of_torch() -> str:
    """The CUDA that PyTorch was built with, empty for a build without."""
    call = [sys.executable, "-c", "import torch; print(torch.version.cuda or '', end='')"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


def test_a_preparation_that_can_not_be_says_so_in_one_sentence(tiny_model, tmp_path):
    spec = {"model": {**tiny_model, "weights": str(tmp_path)}, "device": "cpu", "cache": str(tmp_path), "seed": 3}
    code, events = prepare(spec, tmp_path)
    assert (code, events[-1]["state"]) == (1, "failed")
    assert events[-1]["reason"] == f"{tmp_path} has no config.json: give a folder in the Hugging Face layout"
