"""What ends a run from outside: signals, the end of its terminal, its own sudden death. Real runs, real processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.processes.leftovers import marked
from tests.begun import DEADLINE_S, Begun, finish
from tests.runs import ROOT

END_S = 5.0
"""Within this long after the death of a run's own process everything that it started has ended."""
SWEEP = ("sweep.ttft_iterations=60", "sweep.p99_iterations=1", "sweep.warmup_iterations=1", "sweep.pause_ms=0")
WARM_UP = 2
FAKE = ("run=[fake]", "cases.fake.tell=true", *SWEEP)


@pytest.fixture
def begin(tmp_path) -> Iterator[Callable[..., Begun]]:
    """Begin a run in tmp_path/run; what is left of it at the end is ended."""
    begun: list[Begun] = []

    def make(*overrides: str, **how: Any) -> Begun:
        (tmp_path / "run").mkdir()
        begun.append(Begun(tmp_path / "run", *overrides, **how))
        return begun[-1]

    yield make
    for run in begun:
        finish(run)


def stopped_cleanly(run: Begun, code: int, heard: bool = True) -> None:
    """Whole files, how to go on, and nothing left."""
    assert run.end() == code
    assert (f"resume={run.folder}" in run.said) == heard, "a closed terminal is told nothing"
    assert not (run.block / "verdict.json").exists(), "what was stopped on the way is no result"
    assert not list(run.folder.rglob("*.part"))
    assert (run.block / "samples.csv").read_bytes().endswith(b"\n")
    assert run.left() == []


@pytest.mark.parametrize("transport", ["inproc", "unix"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_asked_once_the_request_in_hand_is_finished(begin, fault, number, code, transport):
    where = "in process" if transport == "inproc" else "behind the socket"
    injected = fault("Parent", f"{number.name} once in a request {where}")
    run = begin(*FAKE, "cases.fake.prefill_s=0.5", f"cases.fake.transport={transport}")
    run.until(lambda: run.kept()["ttft"] >= 2)
    run.process.send_signal(number)
    stopped_cleanly(run, code)
    kept = run.kept()
    assert 3 <= kept["ttft"] < 60
    assert run.requests() == kept.total() + WARM_UP, "each request that was begun has its sample"
    assert "stopping behind the request in hand" in run.said
    assert (run.folder / "manifest.json").is_file()
    injected.happened(f"the request is finished, its sample kept, exit code {code}; says how to go on; nothing left")


def test_a_sequence_in_hand_is_finished_too(begin, fault):
    injected = fault("Parent", "SIGINT once in a sequence of decode steps")
    run = begin(*FAKE, "cases.fake.decode_s=0.2", "sweep.ttft_iterations=1", "sweep.decode.sequences=3")
    run.until(lambda: run.kept()["decode"] >= 2)
    run.process.send_signal(signal.SIGINT)
    stopped_cleanly(run, 130)
    assert run.kept()["decode"] == 10, "one sequence of three, whole"
    injected.happened("the sequence is finished, its samples kept, exit code 130; says how to go on; nothing left")


@pytest.mark.parametrize("transport", ["inproc", "unix"])
def test_asked_twice_it_stops_at_once(begin, fault, transport):
    injected = fault("Parent", "SIGINT twice in a request that hangs")
    run = begin(*FAKE, "cases.fake.fail=escape_and_hang", "cases.fake.fail_at=decode", "cases.fake.fail_after=13",
                f"cases.fake.transport={transport}")  # fmt: skip
    run.until(lambda: run.kept()["decode"] == 3)
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: "once more stops at once" in run.said)
    run.process.send_signal(signal.SIGINT)
    stopped_cleanly(run, 130)
    assert run.kept() == {"cold": 1, "ttft": 60, "decode": 3}
    injected.happened("worker, server and what left its session are killed; samples kept, files whole; exit code 130")


def test_asked_while_it_loads_it_does_not_wait_for_that(begin, fault):
    injected = fault("Parent", "SIGTERM once while the case loads")
    run = begin(*FAKE, "cases.fake.fail=hang", "cases.fake.fail_at=prepare")
    run.until(lambda: "Fake 1/1: load" in run.said and (run.block / "samples.csv").is_file())
    time.sleep(0.5)  # into the load itself; before it, the same holds
    run.process.send_signal(signal.SIGTERM)
    stopped_cleanly(run, 143)
    injected.happened("the load is given up, exit code 143; says how to go on; nothing left")


DEATHS = {
    "prepare": ("model.name=endless",),
    "load": ("cases.fake.transport=unix", "cases.fake.fail_at=prepare"),
    "cold": ("cases.fake.fail_at=prefill",),
    "ttft": ("cases.fake.transport=unix", "cases.fake.fail_at=prefill", "cases.fake.fail_after=20"),
    "decode": ("cases.fake.fail_at=decode", "cases.fake.fail_after=13"),
    "score": ("cases.fake.transport=unix", "cases.fake.fail_at=score"),
    "close": ("cases.fake.transport=unix", "cases.fake.fail_at=close"),
}


@pytest.fixture(scope="module")
def doomed(tmp_path_factory) -> Iterator[dict[str, Begun]]:
    """Runs that hang, each in a stage of its own, with a process in a session of its own; all begun at once."""
    folder = tmp_path_factory.mktemp("doomed")
    begun = {}
    for stage, overrides in DEATHS.items():
        (folder / stage).mkdir()
        begun[stage] = Begun(folder / stage, *FAKE, "cases.fake.fail=escape_and_hang", *overrides)
    yield begun
    for run in begun.values():
        finish(run)


def ages(mark: str) -> list[str]:
    """Which commands carry the mark."""
    found = []
    for pid in marked(mark):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
    return found


def both_there(commands: list[str]) -> bool:
    """The worker and what left its session, by one look: the latter is a fork whose parent ends at once."""
    return len(commands) >= 2 and any("os._exit(0)" in command for command in commands)


@pytest.mark.parametrize("stage", list(DEATHS))
def test_a_killed_run_takes_everything_with_it(doomed, fault, stage):
    injected = fault("Parent", f"SIGKILL in stage {stage}")
    run = doomed[stage]
    run.until(lambda: both_there(ages(run.mark)))
    run.process.kill()
    run.process.wait()
    killed = time.monotonic()
    while run.left() and time.monotonic() < killed + END_S:
        time.sleep(0.02)
    assert run.left() == []
    injected.happened(f"worker, server and what left its session end by themselves within {END_S:g} s; no socket left")


def test_a_terminal_that_is_closed_is_like_asking_once(begin, fault):
    injected = fault("Parent", "the terminal closed in a request")
    ours, theirs = pty.openpty()
    run = begin(
        *FAKE, "cases.fake.prefill_s=0.5", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        while run.kept()["ttft"] < 2:
            assert run.process.poll() is None
            read(ours)
            time.sleep(0.02)
    finally:
        os.close(ours)
    stopped_cleanly(run, 129, heard=False)
    assert run.requests() == run.kept().total() + WARM_UP
    injected.happened("the request is finished, its sample kept, exit code 129; nothing left")


def read(terminal: int) -> bytes:
    """What is there; a terminal that nobody has open any more gives EIO."""
    try:
        return os.read(terminal, 1 << 16)
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def test_whoever_read_the_output_may_go(begin, fault, tmp_path):
    injected = fault("Parent", "the reader of standard output gone")
    errors = tmp_path / "errors"
    run = begin(*FAKE, "cases.fake.prefill_s=0.05", "cases.fake.decode_s=0.3", stdout=subprocess.PIPE,
                stderr=errors.open("wb"))  # fmt: skip
    run.until(lambda: run.kept()["ttft"] >= 2)
    run.process.stdout.close()
    stopped_cleanly(run, 129, heard=False)
    assert errors.read_text() == ""
    injected.happened("as a closed terminal; no trace")


def test_a_log_on_a_full_disk_ends_a_run_as_a_closed_terminal_does(begin, fault, tmp_path):
    injected = fault("Parent", "standard output on a full device")
    errors = tmp_path / "errors"
    with open("/dev/full", "wb") as full:  # noqa: PTH123  a device
        run = begin(*FAKE, "cases.fake.prefill_s=0.05", stdout=full, stderr=errors.open("wb"))
        assert run.process.wait(60) == 129
    assert errors.read_text() == ""
    injected.happened("as a closed terminal; no trace")


def test_the_real_command_on_a_terminal_leaves_it_tidy(tmp_path, fault):
    injected = fault("Parent", "SIGINT once to `python -m harness` on a terminal with bars")
    folder = tmp_path / "run"
    call = [
        sys.executable, "-m", "harness", "--config-dir", "tests/conf", "experiment=smoke", "+case@cases.fake=fake",
        "run=[fake]", "sweep.prompt_lengths=[10]", "sweep.decode.context=20", "sweep.context_ranges=[[10,20]]",
        "cases.fake.tell=true", "cases.fake.prefill_s=0.3", *SWEEP, f"output={folder}", f"cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(
        call, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: (fcntl.ioctl(0, termios.TIOCSCTTY, 0), signal.signal(signal.SIGINT, signal.SIG_DFL)),
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    seen, asked, deadline = b"", False, time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        seen += read(ours)
        samples = folder / "blocks/fake-0/samples.csv"
        if not asked and samples.is_file() and samples.read_text().count("ttft") >= 2:
            os.write(ours, b"\x03")
            asked = True
        time.sleep(0.02)
    seen += read(ours)
    os.close(ours)
    assert process.wait(1) == 130, seen
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0, "the cursor is shown again"
    last = seen.rpartition(b"interrupted; ")[2]
    assert b"go on with: python -m harness " in last
    assert b"\x1b[2K" not in last, "no bar is drawn behind the last word"
    assert b"Traceback" not in seen
    kept = (folder / "blocks/fake-0/samples.csv").read_text().count("\n") - 1
    assert (folder / "blocks/fake-0/log.txt").read_text().count("request") == kept + WARM_UP
    injected.happened("the request is finished, exit code 130, the cursor is back and no bar left")
