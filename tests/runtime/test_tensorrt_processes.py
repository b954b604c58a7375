"""Where TensorRT-LLM's worker runs, what is recorded of it, and that it leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cases.tensorrt import processes
from cases.tensorrt_llm import TensorRtLlm
from tests.runtime.test_tensorrt_llm import gpu
from tests.standin import act, stand_in

MPI = """
class MPIPoolExecutor:
    def __init__(self, max_workers): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def submit(self, call, *given):
        {submit}
        self.result = lambda: call(*given)
        return self
"""


@pytest.fixture
def mpi(tmp_path, monkeypatch):
    """`mpi(line)`: an mpi4py for the probe, whose `submit` runs the line first."""

    def make(submit: str) -> None:
        package = tmp_path / "mpi4py"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "futures.py").write_text(MPI.format(submit=submit))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    monkeypatch.setenv(processes.SINGLE, "unset")
    return make


@pytest.mark.parametrize(("asked", "variable", "words"), [
    ("single", "1", "single-process worker"),
    ("processes", "0", "worker in a process of its own"),
])  # fmt: skip
def test_a_worker_that_was_named_is_taken_without_a_trial(mpi, asked, variable, words):
    mpi("raise SystemExit('nobody asked')")
    assert processes.choose_worker(asked) == words
    assert os.environ[processes.SINGLE] == variable


def test_auto_takes_the_engines_own_way_where_mpi_starts_processes(mpi):
    mpi("pass")
    assert processes.choose_worker("auto") == "worker in a process of its own"
    assert os.environ[processes.SINGLE] == "0"


@pytest.mark.parametrize(("line", "said"), [
    ("raise RuntimeError('MPI_ERR_SPAWN: could not spawn processes')", "RuntimeError: MPI_ERR_SPAWN: could not spawn"),
    ("import os; os._exit(3)", "exit code 3"),
    ("import time; time.sleep(60)", "no answer within 1 s"),
])  # fmt: skip
def test_auto_falls_back_where_mpi_refuses_and_says_why(mpi, monkeypatch, line, said):
    monkeypatch.setattr(processes, "PROBE_S", 1.0 if "sleep" in line else 60.0)
    mpi(line)
    found = processes.choose_worker("auto")
    assert found.startswith(f"single-process worker, because MPI starts no process here ({said}")
    assert os.environ[processes.SINGLE] == "1"


def test_the_fall_back_stands_in_the_engine_string(mpi, monkeypatch, tiny_checkpoint):
    mpi("raise RuntimeError('no spawning')")
    with stand_in("1.1.0"):
        case = TensorRtLlm()
        try:
            engine = case.prepare(gpu(tiny_checkpoint, worker="auto")).engine
        finally:
            case.close()
    assert "single-process worker, because MPI starts no process here (RuntimeError: no spawning)" in engine


def seen(mark: str) -> list[int]:
    """What is marked: of a process that began just now the system may not show the environment yet."""
    for _ in range(100):
        if found := list(processes.marked(mark)):
            return found
        time.sleep(0.05)
    return []


@pytest.mark.parametrize("orphan", [False, True])
def test_no_process_is_left_behind_and_one_that_had_to_be_killed_is_said(monkeypatch, tiny_checkpoint, capfd, orphan):
    monkeypatch.setattr(processes, "END_S", 0.5)
    act(monkeypatch, orphan=orphan)
    with stand_in("1.2.0"):
        case = TensorRtLlm()
        case.prepare(gpu(tiny_checkpoint, worker="processes"))
        worker, mark = case._engine.llm._worker, case._engine.mark
        assert seen(mark) == [worker.pid]
        case.close()
    assert list(processes.marked(mark)) == []
    assert processes.MARK not in os.environ
    said = capfd.readouterr().err
    assert (f"tensorrt_llm left processes behind; killed: {worker.pid}" in said) is orphan
    assert worker.wait(10) == -9


def test_an_engine_that_fails_its_check_leaves_no_process_either(monkeypatch, tiny_checkpoint):
    monkeypatch.setattr(processes, "END_S", 0.5)
    act(monkeypatch, backend="another", orphan=True)
    marks = []
    monkeypatch.setattr(processes, "mark", lambda real=processes.mark: marks.append(real()) or marks[-1])
    with stand_in("1.2.0"), pytest.raises(RuntimeError, match="backend"):
        TensorRtLlm().prepare(gpu(tiny_checkpoint, worker="processes"))
    assert list(processes.marked(marks[0])) == []


def test_a_process_of_another_mark_is_nobodys():
    mark = processes.mark()
    try:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        assert list(processes.marked("another")) == []
        assert list(processes.marked(mark)) == [child.pid]
    finally:
        os.environ.pop(processes.MARK, None)
        child.kill()
        child.wait()
