"""In a job of SLURM: which waits to be ended, and which leaves its node; SLURM's answers are given."""

from __future__ import annotations

import signal
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from harness.cluster import requeue
from harness.cluster.launchers import Slurm

SHOWN = "JobId=4 JobState={state} Reason=None Restarts=0 PreemptEligibleTime=now PreemptTime={time} x=1"
TERM = 128 + signal.SIGTERM


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """How long the job has waited; it is job 3_1 of SLURM."""
    found: list[float] = []
    monkeypatch.setattr(requeue, "time", SimpleNamespace(sleep=found.append))
    for name, value in {"SLURM_ARRAY_JOB_ID": "3", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "4"}.items():
        monkeypatch.setenv(name, value)
    return found


def scontrol(folder: Path, monkeypatch, script: str) -> None:
    """The command of this name is a shell script."""
    path = folder / "scontrol"
    path.write_text(f'#!/bin/sh\n[ "$*" = "show job --oneliner 3_1" ] || exit 9\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(("code", "state", "time", "waits"), [
    (TERM, "RUNNING", "None", False),
    (TERM, "RUNNING", "N/A", False),
    (TERM, "RUNNING", "2026-11-22T01:00:00", True),
    (TERM, "COMPLETING", "None", True),
    (TERM, "PENDING", "None", True),
    (128 + signal.SIGINT, "COMPLETING", "None", False),
    (128 + signal.SIGHUP, "COMPLETING", "None", False),
    (1, "COMPLETING", "None", False),
    (0, "COMPLETING", "None", False),
])  # fmt: skip
def test_only_a_job_that_slurm_is_ending_waits_for_its_end(tmp_path, monkeypatch, waited, code, state, time, waits):
    scontrol(tmp_path, monkeypatch, f"echo '{SHOWN.format(state=state, time=time)}'")
    requeue.wait_to_be_ended(code)
    assert waited == ([requeue.WAIT_S] if waits else [])


@pytest.mark.parametrize("script", ["exit 1", "echo"])
def test_where_slurm_does_not_answer_the_job_waits_as_one_that_is_not_requeued_is_lost(
    tmp_path, monkeypatch, waited, script
):
    scontrol(tmp_path, monkeypatch, script)
    requeue.wait_to_be_ended(TERM)
    monkeypatch.setenv("PATH", "/nowhere")
    requeue.wait_to_be_ended(TERM)
    assert waited == [requeue.WAIT_S] * 2


@pytest.mark.parametrize(("code", "waits"), [(TERM, True), (128 + signal.SIGINT, False), (-1, False)])
def test_the_launcher_passes_on_the_exit_code_of_an_interrupted_run(tmp_path, monkeypatch, waited, code, waits):
    def stopped(*_: object) -> None:
        raise SystemExit(code)

    scontrol(tmp_path, monkeypatch, "exit 1")
    monkeypatch.setattr(BaseSubmititLauncher, "__call__", stopped)
    monkeypatch.setenv("LATENCY_PLACE", "")  # what the launcher sets is taken back
    with pytest.raises(SystemExit) as caught:
        Slurm(additional_parameters={"exclusive": True})([], "", 0, "", {})
    assert caught.value.code == code
    assert bool(waited) == waits


def test_what_is_switched_off_is_no_flag_of_sbatch():
    launcher = Slurm(additional_parameters={"exclusive": False, "comment": None, "nice": 0, "requeue": True})
    assert launcher.params["additional_parameters"] == {"nice": 0, "requeue": True}
