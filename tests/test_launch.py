"""Workers that end in every way there is: each is a row with its reason, and the others go on."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import folder, run
from harness.machine import telemetry
from harness.processes import events, launch
from harness.processes.interrupt import Interrupts
from tests.runs import execute_in, samples, status


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run two fake cases with the stub worker; the report is not under test here."""
    real = subprocess.run

    def without_report(call, **rest):
        return subprocess.CompletedProcess(call, 0) if "reports" in call else real(call, **rest)

    monkeypatch.setattr(run.subprocess, "run", without_report)

    return lambda *overrides: execute_in(tmp_path, *overrides)


def test_a_good_run_writes_everything_and_exits_0(execute, tmp_path, capsys):
    assert execute("sweep.blocks=2") == 0
    rows = status(tmp_path)
    assert {(row["state"], row["exit_code"], row["engine"]) for row in rows.values()} == {("ok", "0", "fake 1")}
    assert len(rows) == 4
    assert {row["prompt_length"] for row in samples(tmp_path, "other") if row["metric"] == "ttft"} == {"10"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["smoke"] is True
    assert manifest["gpu"] is None
    assert manifest["finished"] >= manifest["started"]
    assert manifest["config"]["run"] == ["fake", "other"]
    assert manifest["weight_bytes"] == 1000
    assert len(manifest["prompt_digest"]) == 64
    assert (tmp_path / "telemetry.csv").read_text().strip() == ",".join(telemetry.TELEMETRY)
    assert not list(tmp_path.rglob("*.part"))
    assert "4 of 4 blocks done" in capsys.readouterr().out


FAILURES = [
    (["cases.fake.behaviour=forged"], "failed", "no verdict, exit code 0; last line of the log: {"),
    (["cases.fake.behaviour=exit"], "failed", "no verdict, exit code 3; last line of the log: about to leave"),
    (["cases.fake.behaviour=ok_then_exit"], "failed", "said ok, but exit code 5"),
    (["cases.fake.behaviour=unavailable_then_exit"], "failed", "said unavailable, but exit code 4"),
    (["cases.fake.behaviour=no_samples"], "failed", "said ok, but wrote no samples"),
    (["cases.fake.behaviour=header_only"], "failed", "said ok, but wrote no samples"),
    (["cases.fake.behaviour=cold_only"], "failed", "said ok, but wrote 0 of 3 ttft samples, 0 of 10 decode samples"),
    (["cases.fake.fail=unavailable", "cases.fake.fail_at=decode"], "failed", "said unavailable when "),
    (["cases.fake.behaviour=garbage"], "failed", "broke the event protocol: an event is not JSON"),
    (["cases.fake.behaviour=unknown_state"], "failed", "unknown state 'splendid'"),
    (["cases.fake.behaviour=grandchild", "cases.fake.timeout_s=1"], "timeout", "limit of 1 s in stage ttft"),
    (["cases.fake.fail=exit", "cases.fake.fail_at=decode"], "failed", "no verdict, exit code 3"),
]


SAID = {
    "forged": "a forged verdict printed", "exit": "exit code 3 without a verdict",
    "ok_then_exit": "exit code 5 behind ok",
    "unavailable_then_exit": "exit code 4 behind unavailable", "no_samples": "ok without samples",
    "header_only": "ok with a table without rows", "cold_only": "ok with a part of the samples",
    "garbage": "no JSON on the pipe of events", "unknown_state": "a state that there is not",
    "grandchild": "a hang with a child in the group",
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "state", "reason"), FAILURES, ids=lambda value: str(value)[:50])
def test_a_failed_worker_is_a_row_and_the_others_go_on(execute, tmp_path, capsys, fault, overrides, state, reason):
    kind = overrides[0].partition("behaviour=")[2]
    injected = fault("Worker", SAID[kind] if kind else "exit code 3" if "exit" in overrides[0] else "unavailable late")
    assert execute(*overrides) == 1
    rows = status(tmp_path)
    assert rows["fake", "0"]["state"] == state
    assert reason in rows["fake", "0"]["reason"]
    assert rows["other", "0"]["state"] == "ok"
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("failed: fake block 0 (")
    grandchild = tmp_path / "blocks/fake-0/grandchild"
    assert grandchild.exists() == (kind == "grandchild")
    assert not grandchild.exists() or not is_running(int(grandchild.read_text()))
    injected.happened(f"row `{state}`, {reason.partition('; last line')[0].strip()}; the other case ran")


def is_running(pid: int) -> bool:
    """A zombie that nobody reaps (no init in the container) runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("state", ["unavailable", "unsupported"])
def test_an_absent_engine_is_no_failure_and_its_other_blocks_do_not_start(execute, tmp_path, capsys, state):
    assert execute(f"cases.fake.fail={state}", "sweep.blocks=2") == 0
    rows = status(tmp_path)
    assert [rows["fake", block]["state"] for block in "01"] == [state, state]
    assert [rows["fake", block]["block"] for block in "01"] == ["0", "1"]
    assert sum((tmp_path / f"blocks/fake-{block}/log.txt").exists() for block in "01") == 1
    assert f"{state}: fake: the fake engine" in capsys.readouterr().out


def test_the_same_settings_resume_and_skip_what_is_done(execute, tmp_path, capsys):
    failing = ("cases.fake.behaviour=exit", "sweep.blocks=1")
    assert execute(*failing) == 1
    first = samples(tmp_path, "other")
    manifest = (tmp_path / "manifest.json").read_text()
    assert execute(*failing) == 1
    assert samples(tmp_path, "other") == first
    assert "Other 1/1: ok before, skipped" in capsys.readouterr().out
    logs = [tmp_path / "blocks/fake-0" / name for name in ("attempt-1/log.txt", "log.txt")]
    assert [path.read_text().count("about to leave") for path in logs] == [1, 1]
    assert json.loads(manifest)["started"] == json.loads((tmp_path / "manifest.json").read_text())["started"]


def test_a_case_with_more_blocks_than_the_others_runs_and_resumes_them(execute, tmp_path, capsys):
    mixed = ("sweep.blocks=1", "cases.fake.blocks=3")
    assert execute(*mixed) == 0
    assert set(status(tmp_path)) == {("fake", "0"), ("fake", "1"), ("fake", "2"), ("other", "0")}
    said = capsys.readouterr().out
    assert "Fake 3/3: ok (4 of 4 blocks done)" in said
    assert "Other 1/1: ok" in said
    (tmp_path / "blocks/fake-1/verdict.json").unlink()
    assert execute(*mixed) == 0
    said = capsys.readouterr().out
    assert [f"Fake {n}/3: ok before, skipped" in said for n in (1, 2, 3)] == [True, False, True]
    assert "4 of 4 blocks done" in said
    assert (tmp_path / "blocks/fake-1/attempt-1").is_dir()
    with pytest.raises(ValueError, match=r"cases\.fake\.blocks is 3 there and 2 here"):
        execute("sweep.blocks=1", "cases.fake.blocks=2")


def test_all_blocks_of_a_case_are_left_out_when_its_engine_is_absent(execute, tmp_path):
    assert execute("cases.fake.fail=unavailable", "sweep.blocks=1", "cases.fake.blocks=3") == 0
    rows = status(tmp_path)
    assert [rows["fake", block]["state"] for block in "012"] == ["unavailable"] * 3
    assert sum((tmp_path / f"blocks/fake-{block}/log.txt").exists() for block in "012") == 1


def test_other_settings_are_refused_with_the_first_difference(execute, tmp_path):
    assert execute() == 0
    with pytest.raises(ValueError, match="seed is 20260423 there and 1 here"):
        execute("seed=1")
    stored = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**stored, "code": "other"}))
    with pytest.raises(ValueError, match=r"other settings \(the code has the digest other there and "):
        execute()


def test_a_folder_that_holds_no_run_is_refused(execute, tmp_path):
    (tmp_path / "diary.txt").write_text("x")
    with pytest.raises(ValueError, match="exists and holds no run"):
        execute()
    with pytest.raises(ValueError, match="is a file"):
        folder.check_folder(tmp_path / "diary.txt", {})


def test_a_failed_preparation_starts_no_block(execute, tmp_path, capsys):
    assert execute("model.name=unpreparable") == 1
    assert not (tmp_path / "blocks").exists()
    assert "failed: preparation: no such repository" in capsys.readouterr().out.splitlines()[-1]


def test_a_preparation_has_a_limit_of_its_own(execute, tmp_path, capsys, fault):
    injected = fault("Worker", "a hang in the preparation, with a process left in a session of its own")
    assert execute("model.name=endless", "prepare_timeout_s=1.5") == 1
    assert not (tmp_path / "blocks").exists()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("failed: preparation: ended after its limit of 1.5 s in stage checkpoint (log: ")
    assert "harness: ended what outlived this process: python" in (tmp_path / "prepare.log").read_text()
    injected.happened("ended after prepare_timeout_s, exit code 1, with its stage; no block begins; nothing left")


def test_a_length_beyond_the_positions_that_only_the_checkpoint_knows_is_refused(execute, tmp_path, capsys):
    # The stub's checkpoint says 1024 positions.
    code = execute("model.weights=a/b", "model.max_position_embeddings=null", "sweep.prompt_lengths=[2000]")
    assert code == 2
    assert not (tmp_path / "blocks").exists()
    assert "2000 is too long for the model's 1024 positions" in capsys.readouterr().out


def test_a_worker_that_does_not_stop_when_asked_to_is_killed(tmp_path, monkeypatch, fault):
    injected = fault("Parent", "asked to end while a worker takes no notice")
    monkeypatch.setattr(launch, "GRACE_S", 1.0)
    interrupts = Interrupts()
    deaf = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        """os.write(int(sys.argv[2]), b'{"event":"stage","stage":"ttft"}\\n'); time.sleep(3600)"""
    )
    with interrupts.patient():
        outcome = launch.run_child(
            [sys.executable, "-c", deaf], launch.child_environment("cpu", 0), tmp_path / "log.txt", 60,
            lambda event: interrupts.hang_up(), interrupts,
        )  # fmt: skip
    assert (outcome.state, outcome.exit_code) == ("failed", -signal.SIGKILL)
    assert outcome.reason == "ended when it had not stopped 1 s after it was asked to in stage ttft"
    injected.happened("it is killed when its time of grace is over")


def test_a_worker_that_is_killed_while_it_closes_a_broken_case_keeps_its_error(tmp_path, monkeypatch, fault):
    injected = fault("Parent", "asked to end while a worker hangs in the close behind an error")
    monkeypatch.setattr(launch, "GRACE_S", 0.2)
    interrupts = Interrupts()
    deaf = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); end = int(sys.argv[2]);"
        f"""os.write(end, {TOLD!r}); os.write(end, b'{{"event":"stage","stage":"close"}}\\n'); time.sleep(3600)"""
    )

    def hang_up(event: events.Event) -> None:
        if event.get("stage") == "close":
            interrupts.hang_up()

    with interrupts.patient():
        outcome = launch.run_child(
            [sys.executable, "-c", deaf], launch.child_environment("cpu", 0), tmp_path / "log.txt", 60, hang_up,
            interrupts,
        )  # fmt: skip
    assert (outcome.state, outcome.stage, outcome.exit_code) == ("failed", "ttft", -signal.SIGKILL)
    assert outcome.reason == "x; close: ended when it had not stopped 0.2 s after it was asked to"
    injected.happened("it is killed when its time of grace is over; the reason is the error")


def seed_with_last(case: str) -> int:
    """A seed with which this case is the last of two."""
    for seed in range(20):
        names = ["other", "fake"]
        random.Random(seed).shuffle(names)
        if names[-1] == case:
            return seed
    raise AssertionError("a coin that falls on one side")


def test_children_see_the_allowed_environment_only(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("HF_HOME", "/hub")
    monkeypatch.setenv("PYTHONPATH", "/before")
    environment = launch.child_environment("cuda", 3)
    assert "SECRET" not in environment
    assert environment["HF_HOME"] == "/hub"
    assert environment["PYTHONPATH"] == f"{launch.ROOT}{os.pathsep}/before"
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("3", "PCI_BUS_ID")
    assert launch.child_environment("cpu", 3)["CUDA_VISIBLE_DEVICES"] == ""


def test_the_manifest_keeps_what_sways_a_latency_and_no_token(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    assert execute("run=[fake]") == 0
    stored = (tmp_path / "manifest.json").read_text()
    assert json.loads(stored)["environment"]["CUDA_LAUNCH_BLOCKING"] == "1"
    assert "hf_secret" not in stored


def test_an_interpreter_that_vanished_is_a_failure(tmp_path):
    outcome = launch.run_child(["/nowhere/python"], {}, tmp_path / "log.txt", 5, lambda event: None)
    assert outcome.state == "failed"
    assert "did not start" in outcome.reason


def test_that_another_answered_is_not_lost_with_a_worker_that_dies_as_it_closes_its_case(tmp_path):
    said = (
        b'{"event":"outcome","state":"failed","reason":"x","stage":"identity","identity":"contradicted: x"}\n'
        b'{"event":"stage","stage":"close"}\n'
    )
    program = f"import os, sys; os.write(int(sys.argv[2]), {said!r}); os.abort()"
    outcome = launch.run_child([sys.executable, "-c", program], {}, tmp_path / "log.txt", 20, lambda event: None)
    assert (outcome.state, outcome.stage, outcome.exit_code) == ("failed", "identity", -signal.SIGABRT)
    assert outcome.payload == {"identity": "contradicted: x"}


TOLD = b'{"event":"outcome","state":"failed","reason":"x","stage":"ttft"}\n'


@pytest.mark.parametrize("data", [b"[]\n", b'{"event":"x"}\n', b"\xff\n", b"x" * (events.LONGEST_EVENT + 1),
                                  b'{"event":"verdict","state":"ok"}\n{"event":"verdict","state":"ok"}\n',
                                  b'{"event":"outcome","state":"timeout","reason":"","stage":"ttft"}\n',
                                  b'{"event":"outcome","state":["failed"],"reason":"","stage":"ttft"}\n',
                                  b'{"event":"outcome","state":"failed","stage":"ttft"}\n',
                                  b'{"event":"outcome","state":"failed","reason":"x"}\n',
                                  b'{"event":"outcome","state":"failed","reason":1,"stage":"ttft"}\n',
                                  TOLD + TOLD, TOLD + b'{"event":"stage","stage":"decode"}\n',
                                  TOLD + b'{"event":"progress","done":1,"total":2}\n',
                                  TOLD + b'{"event":"verdict","state":"ok"}\n'])  # fmt: skip
def test_malformed_events_are_a_breach(data):
    reader = events.EventReader(lambda event: None)
    reader.feed(data)
    assert reader.breach


def test_events_may_come_in_pieces():
    seen: list[dict] = []
    reader = events.EventReader(seen.append)
    for byte in b'{"event":"stage","stage":"load"}\n{"event":"verdict","state":"ok"}\n':
        reader.feed(bytes([byte]))
    assert (reader.stage, reader.breach, len(seen)) == ("load", "", 2)
