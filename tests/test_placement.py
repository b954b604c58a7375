"""A run on the card that a scheduler gave: NVML and CUDA mean the same one, and the manifest says which."""

from __future__ import annotations

import json
import os
import signal

import pytest

from harness.machine import placement
from harness.machine.gpu import Gpu
from harness.machine.placement import VARIABLE, Place
from harness.output import manifest
from harness.processes import launch
from harness.processes.interrupt import Interrupts
from harness.settings import machine

CARDS = [Gpu(index, "H200", f"GPU-{index}abc", "570", 143_000, 140_000, ()) for index in range(4)]
NEIGHBOURS = {"runs": 1, "gpus": [1], "cores": [[4, 5]]}


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """Four cards, and nobody who scheduled this process."""
    monkeypatch.setattr(machine, "list_gpus", lambda: (CARDS, ""))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SUBMITIT_LOCAL_JOB_ID", VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("visible", "index"), [("3", 3), ("GPU-2abc", 2), ("1", 1)])
def test_the_run_takes_the_card_that_the_scheduler_left(monkeypatch, visible, index):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = machine.find_gpu(None)
    assert (found.index, found.uuid) == (index, f"GPU-{index}abc")
    # The workers see that card alone, by the number that NVML gives it.
    environment = launch.child_environment("cuda", found.index)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == (str(index), "PCI_BUS_ID")


def test_a_scheduler_that_gives_several_or_none_is_refused(monkeypatch):
    assert machine.find_gpu(None) is CARDS[0], "without a scheduler the first one is taken"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(
        ValueError, match="the scheduler gave GPUs 0, 1, 2, 3 where one is needed: ask for one, or name"
    ):
        machine.find_gpu(None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"CUDA_VISIBLE_DEVICES= hides every GPU of this machine: ask the scheduler"):
        machine.find_gpu(None)


def test_workers_on_another_card_than_nvml_reads_are_refused():
    for uuid in (None, "GPU-1abc", "MIG-5"):
        machine.check_card(CARDS[1], uuid)
    with pytest.raises(ValueError, match="CUDA computes on GPU-2abc and NVML reads GPU-1abc as GPU 1: "):
        machine.check_card(CARDS[1], "GPU-2abc")


def test_the_manifest_says_launcher_job_card_cores_and_neighbours_of_each_attempt(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    path.write_text("{}")
    monkeypatch.setenv(VARIABLE, Place("local_gpus", NEIGHBOURS).text())
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "41")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    manifest.placed(path, CARDS[2], "t0")
    monkeypatch.setenv(VARIABLE, Place("slurm").text())
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    manifest.placed(path, CARDS[3], "t1")
    stored = json.loads(path.read_text())
    cores = sorted(os.sched_getaffinity(0))
    assert stored["placements"] == [
        {"at": "t0", "launcher": "local_gpus", "job": "41", "restarts": 0, "visible": "2",
         "gpu": {"index": 2, "uuid": "GPU-2abc"}, "cores": cores},
        {"at": "t1", "launcher": "slurm", "job": "7", "restarts": 1, "visible": "2",
         "gpu": {"index": 3, "uuid": "GPU-3abc"}, "cores": cores},
    ]  # fmt: skip
    assert stored["neighbours"] == NEIGHBOURS, "what one attempt had beside it is not forgotten by the next"


def test_a_run_that_nobody_launched_has_no_placement(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text("{}")
    manifest.placed(path, CARDS[0], "t0")
    assert json.loads(path.read_text()) == {"placements": [], "neighbours": None}


def test_the_manifest_says_the_card_of_each_attempt_and_how_fast_it_was(tmp_path):
    """Another card of the kind may go on with a run, and cards of one kind are not equally fast."""
    path = tmp_path / "manifest.json"
    path.write_text("{}")
    manifest.attempted(path, CARDS[0], "t0", {"read_bandwidth_tb_s": 4.61, "matmul_tflop_s": 740.0, "digest": "d"})
    manifest.attempted(path, CARDS[1], "t1", {"read_bandwidth_tb_s": 4.69, "loop_overhead_us": 0.5})
    manifest.attempted(path, None, "t2", {})
    assert json.loads(path.read_text())["attempts"] == [
        {"at": "t0", "gpu_uuid": "GPU-0abc", "read_bandwidth_tb_s": 4.61, "matmul_tflop_s": 740.0,
         "loop_overhead_us": None},
        {"at": "t1", "gpu_uuid": "GPU-1abc", "read_bandwidth_tb_s": 4.69, "matmul_tflop_s": None,
         "loop_overhead_us": 0.5},
        {"at": "t2", "gpu_uuid": None, "read_bandwidth_tb_s": None, "matmul_tflop_s": None, "loop_overhead_us": None},
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["yes", "[]", '{"launcher": "x", "more": 1}'])
def test_a_placement_by_hand_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"the environment sets {VARIABLE}, which only a launcher sets: unset it"):
        placement.current()


@pytest.fixture
def requeued(monkeypatch):
    """What a scheduler's client would do at the notice of a preemption, noted."""
    calls: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: calls.append("requeued"))
    yield calls
    signal.signal(signal.SIGUSR2, before)


def test_a_preempted_run_stops_first_and_is_requeued_after(requeued):
    try:
        with Interrupts():
            try:
                signal.raise_signal(signal.SIGUSR2)
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGUSR2)  # a second notice does not disturb the end
                requeued.append("stopped")
    finally:
        assert requeued == ["stopped", "requeued"]


def test_a_request_to_end_is_no_preemption(requeued):
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert requeued == []
    signal.raise_signal(signal.SIGUSR2)
    assert requeued == ["requeued"], "the handler is back"


def test_without_a_scheduler_the_notice_is_left_as_it_is():
    before = signal.getsignal(signal.SIGUSR2)
    with Interrupts():
        assert signal.getsignal(signal.SIGUSR2) is before
