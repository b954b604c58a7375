"""Client and server as two processes: start, answers, failures, death on either side, and nothing left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.contract import Footprint, Plan, Sampling, SetUp, Stats, Unavailable, Unsupported
from harness.ipc import client as client_module
from harness.ipc.address import private_folder
from harness.ipc.channel import BLOCKING, Spin
from harness.ipc.client import ROOT, RemoteCase
from tests.fakes import FakeCase, TwoSamplers, next_token

TARGET = "tests.fakes.FakeCase"
DEADLINE_S = 20


def plan(**options):
    return Plan("fake", "/checkpoint", "cpu", "float32", 400, options=options)


@pytest.fixture
def temporary(monkeypatch):
    """Where sockets' folders are made, short enough for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def remote(temporary):
    case = RemoteCase(TARGET)
    yield case
    case.close()


def alive(pid):
    """Whether the process runs; one that has ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid):
    deadline = time.monotonic() + DEADLINE_S
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} goes on running"
        time.sleep(0.02)


def test_requests_reach_the_case_and_answers_come_back(remote):
    assert remote.prepare(plan()) == SetUp(f"fake 1; {remote.transport}", 0.25, 0.125, 0.5)
    prompt = [5, 6, 7]
    first = remote.prefill(prompt, 3)
    second = remote.decode()
    assert [first, second] == [next_token(prompt), next_token([*prompt, first])]
    assert remote.score(prompt, [1, 2]) == FakeCase().score(prompt, [1, 2])
    assert remote.footprint() == Footprint(3 * 2**30, 2**20, 4)


def test_the_thread_that_serves_is_the_main_one_of_the_server(remote):
    assert remote.engine_thread is None
    remote.prepare(plan())
    idle = {task.name: ticks(task) for task in Path(f"/proc/{remote.pid}/task").iterdir()}
    deadline = time.monotonic() + DEADLINE_S
    while ticks(Path(f"/proc/{remote.pid}/task/{remote.engine_thread}")) < idle[str(remote.engine_thread)] + 5:
        remote.prefill([5, 6, 7])
        assert time.monotonic() < deadline
    assert remote.engine_thread == remote.pid


def ticks(task):
    """Time that a thread has run, in clock ticks (proc(5), utime and stime)."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_the_plan_arrives_whole(remote):
    remote.prepare(Plan("fake", "/c", "cpu", "float32", 400, Sampling("greedy", seed=9), {"vocabulary": 11}))
    assert remote.prefill([1, 2]) == next_token([1, 2], 11)


def test_stats_come_with_the_token_and_hold_the_servers_own_time(remote):
    remote.prepare(plan(prefill_s=0.05, captures=2))
    assert remote.stats() == Stats()
    remote.prefill([1])
    first = remote.stats()
    remote.decode()
    second = remote.stats()
    assert (first.gpu_ns, first.captures, first.replays) == (1000, 2, 1)
    assert second._replace(server_ns=0) == Stats(gpu_ns=2000, captures=2, replays=2)
    assert 50_000_000 <= first.server_ns < second.server_ns


def test_capabilities_are_those_of_the_served_class():
    assert RemoteCase(TARGET).capabilities == FakeCase.capabilities
    assert RemoteCase("tests.fakes.TwoSamplers").capabilities == TwoSamplers.capabilities


def test_a_target_that_is_no_case_is_refused_before_any_process():
    with pytest.raises(ValueError, match="is not a subclass"):
        RemoteCase("tests.fakes.next_token")


@pytest.mark.parametrize("spin", [BLOCKING, Spin(300, 200)])
def test_both_ways_of_waiting_answer_alike(temporary, spin):
    case = RemoteCase(TARGET, spin=spin)
    try:
        case.prepare(plan())
        assert case.transport == str(spin)
        assert case.prefill(list(range(400))) == next_token(range(400))
    finally:
        case.close()


@pytest.mark.parametrize(
    ("how", "raised", "says"),
    [
        ("unavailable", Unavailable, "the fake engine is missing in"),
        ("unsupported", Unsupported, "the fake engine does not do"),
        ("error", RuntimeError, "ArithmeticError: the fake case failed in"),
        ("exit", RuntimeError, r"the server of tests\.fakes\.FakeCase ended in \w+ with exit code 3"),
        ("kill", RuntimeError, r"the server of tests\.fakes\.FakeCase ended in \w+ with signal SIGKILL"),
    ],
)
@pytest.mark.parametrize("place", ["prepare", "decode"])
def test_a_failure_keeps_its_kind_and_its_sentence(remote, temporary, how, raised, says, place):
    def work() -> None:
        remote.prepare(plan(fail=how, fail_at=place))
        remote.prefill([1, 2])
        remote.decode()

    with pytest.raises(raised, match=says):
        work()
    pid = remote.pid
    remote.close()
    wait_for_end(pid)
    assert not list(temporary.iterdir())


def test_after_a_failed_request_the_server_goes_on(remote):
    remote.prepare(plan(fail="error", fail_at="prefill", fail_after=1))
    first = remote.prefill([1, 2])
    with pytest.raises(RuntimeError, match="ArithmeticError"):
        remote.prefill([1, 2])
    assert remote.prefill([1, 2]) == first


def test_a_failed_score_is_one_failure(remote):
    remote.prepare(plan(fail="error", fail_at="score"))
    with pytest.raises(RuntimeError, match="ArithmeticError"):
        remote.score([1], [2, 3])
    assert len(remote.score([1], [2, 3])) == 3


def test_a_token_that_is_none_is_a_failure_of_the_case(remote):
    remote.prepare(plan(token=-1))
    with pytest.raises(RuntimeError, match="token_id must be an integer from 0"):
        remote.prefill([1])


@pytest.mark.parametrize(("prompt", "says"), [([], "1 to"), ([-5], "negative"), (["a"], "integers"), ([2**31], "int")])
def test_a_bad_prompt_is_refused_before_it_is_sent(remote, prompt, says):
    remote.prepare(plan())
    with pytest.raises(ValueError, match=says):
        remote.prefill(prompt)
    assert remote.prefill([1]) == next_token([1])


def test_what_a_case_prints_stays_off_standard_output(remote, capfd):
    remote.prepare(plan(fail="print"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "a case prints" in err


def test_a_request_before_prepare_is_refused(remote):
    with pytest.raises(RuntimeError, match="not prepared"):
        remote.prefill([1])


def test_prepare_twice_is_refused(remote):
    remote.prepare(plan())
    with pytest.raises(RuntimeError, match="prepare was called twice"):
        remote.prepare(plan())


def test_close_ends_the_server_and_leaves_nothing(remote, temporary):
    remote.close()
    remote.prepare(plan())
    pid = remote.pid
    assert not list(temporary.iterdir()), "the socket and its folder are gone while requests run"
    remote.close()
    remote.close()
    assert not alive(pid)
    assert remote.pid is None


def test_a_close_that_fails_is_told_and_ends_the_server(remote):
    remote.prepare(plan(fail="error", fail_at="close"))
    pid = remote.pid
    with pytest.raises(RuntimeError, match="close failed: ArithmeticError"):
        remote.close()
    assert not alive(pid)


def test_a_server_that_hangs_is_killed(remote, monkeypatch):
    monkeypatch.setattr(client_module, "CLOSE_S", 1)
    remote.prepare(plan(fail="hang", fail_at="close"))
    pid = remote.pid
    with pytest.raises(RuntimeError, match="did not end within 1 seconds and was killed"):
        remote.close()
    assert not alive(pid)


def test_a_server_that_dies_in_close_is_told(remote):
    remote.prepare(plan(fail="kill", fail_at="close"))
    with pytest.raises(RuntimeError, match="ended in Close with signal SIGKILL"):
        remote.close()
    remote.close()


def test_a_server_killed_between_requests_is_noticed(remote):
    remote.prepare(plan())
    os.kill(remote.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="signal SIGKILL"):
        remote.prefill([1])


def test_an_interpreter_that_does_not_run(temporary):
    case = RemoteCase(TARGET, python="/no/such/python")
    with pytest.raises(Unavailable, match=r"/no/such/python of case\.python does not run"):
        case.prepare(plan())
    case.close()
    assert not list(temporary.iterdir())


def test_an_interpreter_without_the_server(temporary):
    case = RemoteCase(TARGET, python="/bin/false")
    with pytest.raises(RuntimeError, match="ended in its start with exit code 1"):
        case.prepare(plan())
    case.close()
    assert not list(temporary.iterdir())


CLIENT = """
import sys, time
from harness.contract import Plan
from harness.ipc.client import RemoteCase
case = RemoteCase("tests.fakes.FakeCase")
case.prepare(Plan("fake", "/c", "cpu", "float32", 400, options={"fail": sys.argv[1], "fail_at": "decode"}))
print(case.pid, flush=True)
case.prefill([1])
case.decode()
time.sleep(3600)
"""


@pytest.mark.parametrize("server_does", ["nothing", "hang"])
def test_a_killed_client_takes_the_server_with_it(temporary, server_does):
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", CLIENT, server_does]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as client:
        server = int(client.stdout.readline())
        assert alive(server)
        client.kill()
    wait_for_end(server)
    assert not list(temporary.iterdir())


def test_the_folder_is_private(temporary):
    folder = private_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.parent == temporary


def test_a_folder_that_lies_too_deep_is_named(temporary, monkeypatch):
    deep = temporary / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(ValueError, match="TMPDIR is too long"):
        private_folder()
    assert not list(deep.iterdir())
