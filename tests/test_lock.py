"""Locks between real processes: the second waits or is refused, and goes on when the first ends, however it ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.machine import lock
from harness.machine.gpu import Gpu
from harness.settings import machine
from tests.runs import begin

ROOT = Path(__file__).resolve().parent.parent
H200 = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, ())
HOLD = """
import sys, time
from pathlib import Path
from harness.machine import lock
from harness.machine.gpu import Gpu
lock.SETTLE_S = 0.1
held = lock.hold_gpu(Gpu(0, "H200", "GPU-abc", "570", 1, 1, ()), Path(sys.argv[1]), sys.argv[2], lambda line: print(line, flush=True))
print("held", flush=True)
if sys.argv[3] == "child":
    import subprocess
    print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.readline()
held.release()
"""  # noqa: E501


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def holder(home):
    """`holder(folder, how)`: a process that takes the lock of the GPU and keeps it until its standard input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: str, how: str = "wait", child: str = "alone") -> subprocess.Popen[str]:
        call = [sys.executable, "-c", HOLD, folder, how, child]
        process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=ROOT)  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_second_run_waits_says_for_whom_and_goes_on_at_the_end_of_the_first(holder, fault):
    tried = fault("Two runs", "a second run on a GPU that another run has")
    first = holder("results/first")
    assert line(first) == "held"
    second = holder("results/second")
    said = line(second)
    assert said.startswith(
        f"waiting for GPU 0 (H200): another run has it (process {first.pid}, results/first, since 20"
    )
    assert second.poll() is None
    first.communicate("\n")
    assert line(second) == "held"
    tried.happened("waits, says for which process and folder and since when, and runs once the first has ended")


def test_a_killed_holder_lets_go_although_a_child_of_it_lives(holder, fault):
    tried = fault("Two runs", "SIGKILL of the run that has the GPU, while another waits and a child of it still lives")
    first = holder("results/first", child="child")
    assert line(first) == "held"
    child = int(line(first))
    second = holder("results/second")
    assert line(second).startswith("waiting for GPU 0")
    os.kill(first.pid, signal.SIGKILL)
    said = line(second)
    assert said.startswith(f"GPU 0: its last run was killed (process {first.pid}, results/first, since 20")
    assert line(second) == "held"
    os.kill(child, signal.SIGKILL)
    second.communicate("\n")
    third = holder("results/third")
    assert line(third) == "held"
    tried.happened("the lock is free at once; the second run says so, gives the workers time to end, and runs")


def test_a_run_that_shall_not_wait_is_refused(holder, home, monkeypatch, tmp_path, fault):
    tried = fault("Two runs", "a second run on a GPU that another run has, with lock=refuse")
    first = holder("results/first")
    assert line(first) == "held"
    monkeypatch.setattr(machine, "list_gpus", lambda: ([H200], ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sentence = (
        rf"^GPU 0 \(H200\) is used by another run \(process {first.pid}, results/first, since .*\): lock=wait waits"
    )
    with pytest.raises(ValueError, match=sentence):
        begin(tmp_path / "run", "device=cuda", "lock=refuse")
    assert not (tmp_path / "run").exists()
    first.communicate("\n")
    begun = begin(tmp_path / "run", "device=cuda", "lock=refuse")
    assert lock.read_note(home / ".cache/llm-latency/locks/GPU-abc.lock") == lock.Holder(
        os.getpid(), str(tmp_path / "run"), lock.read_note(tmp_path / "run/run.lock").since
    )
    begun.held.close()
    assert lock.read_note(home / ".cache/llm-latency/locks/GPU-abc.lock") is None
    tried.happened("one sentence with process and folder, exit code 2, nothing made")


def test_two_runs_never_write_into_one_folder(tmp_path, fault):
    tried = fault("Two runs", "a second run, or resume, in the folder of a run under way")
    begun = begin(tmp_path / "run")
    call = [sys.executable, "-m", "harness", f"resume={tmp_path / 'run'}"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: output={tmp_path}/run is being written by another run (process {os.getpid()}, "
    )
    assert done.stderr.count("\n") == 1
    with pytest.raises(ValueError, match="is being written by another run"):
        begin(tmp_path / "run")
    begun.held.close()
    begin(tmp_path / "run").held.close()
    tried.happened("refused in one sentence, exit code 2; nothing of the first is touched", times=2)


def test_a_lock_that_was_removed_is_not_held_twice(tmp_path):
    first, second, third = (lock.Lock(tmp_path / "lock") for _ in range(3))
    assert first.take(lock.me(tmp_path))
    (tmp_path / "lock").unlink()
    assert second.take(lock.me(tmp_path))
    assert not third.take(lock.me(tmp_path))
    second.release()
    assert third.take(lock.me(tmp_path))


def test_the_folder_of_locks_is_its_users_alone_and_must_be_there(home, monkeypatch, tmp_path):
    assert stat.S_IMODE(lock.gpu_folder().stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"the folder for locks .*/file/.* can't be made"):
        lock.gpu_folder()


def test_off_takes_no_lock(home, tmp_path):
    free = lock.hold_gpu(H200, tmp_path, "off", print)
    other = lock.hold_gpu(H200, tmp_path, "refuse", print)
    assert other.holder() is not None
    free.release()
    other.release()


def test_the_wait_ends_as_soon_as_it_may(home, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nobody is waited for"))
    lock.hold_gpu(H200, tmp_path, "wait", print).release()
    lock.hold_gpu(H200, tmp_path, "wait", print).release()
