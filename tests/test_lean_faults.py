"""A lean case that breaks in a request, and that the next case of the run is as well as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.machine.gpu import list_gpus
from harness.processes import leftovers
from tests.runs import ROOT, samples, status

SWEEP = ("sweep.ttft_iterations=30", "sweep.p99_iterations=1", "sweep.warmup_iterations=1", "sweep.pause_ms=0")
KEPT = {"cold": 1, "ttft": 16}
"""Before the 20th request: one is cold, two are warm-up."""
DEADLINE_S = 280


def execute(folder: Path, target: str, transport: str, *overrides: str) -> tuple[int, str]:
    """A real run of two eager cases, the first of which breaks: exit code and output."""
    call = [
        sys.executable, "-m", "harness", "experiment=smoke", "+case@cases.faulty=eager", "+case@cases.well=eager",
        "run=[faulty,well]", "cases.faulty.title=Faulty", "cases.well.title=Well", f"cases.faulty.target={target}",
        f"cases.faulty.transport={transport}", "sweep.prompt_lengths=[10]", "sweep.decode.context=20",
        "sweep.context_ranges=[[10,20]]", *SWEEP, *overrides, f"output={folder}", f"cache={folder}-cache",
    ]  # fmt: skip
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, done.stdout + done.stderr


def check(folder: Path, reason: str) -> None:
    """Both rows, and the samples from before the fault."""
    rows = status(folder)
    faulty, well = rows["faulty", "0"], rows["well", "0"]
    assert (faulty["state"], faulty["stage"], well["state"]) == ("failed", "ttft", "ok"), (faulty, well)
    assert reason in faulty["reason"]
    kept = [row["metric"] for row in samples(folder, "faulty")]
    assert {metric: kept.count(metric) for metric in set(kept)} == KEPT


def test_out_of_memory_is_a_row(tmp_path, fault):
    injected = fault("Worker", "torch.OutOfMemoryError in the 20th request of a lean case")
    code, said = execute(tmp_path / "run", "tests.gpu.faulty.SaidOutOfMemory", "inproc")
    assert code == 1, said
    check(
        tmp_path / "run", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. Of the allocated memory"
    )
    injected.happened("row `failed`, stage ttft, with the error's own words; 17 samples kept; the next case is ok")


@pytest.mark.gpu
@pytest.mark.faults
@pytest.mark.parametrize("transport", ["inproc", "unix"])
@pytest.mark.parametrize(
    ("target", "said", "reason"),
    [
        ("OutOfMemory", "CUDA out of memory", "CUDA out of memory"),
        ("IllegalAccess", "an illegal memory access", "illegal memory access"),
    ],
)
def test_a_gpu_fault_is_a_row_and_its_memory_comes_back(tmp_path, fault, target, said, reason, transport):
    gpus, why = list_gpus()
    if not gpus:
        pytest.skip(f"needs a CUDA GPU: {why}")
    where = "in process" if transport == "inproc" else "behind the socket"
    injected = fault("Worker", f"{said} in the 20th request, {where}")
    free = gpus[0].free_mib
    folder = tmp_path / "run"
    code, output = execute(folder, f"tests.gpu.faulty.{target}", transport, "device=cuda", "gpu=0")
    assert code == 1, output
    check(folder, reason)
    assert list_gpus()[0][0].free_mib >= free - 64, "device memory is back, to some MiB of the driver's own"
    # The run is over, and its process with it: whatever still carried a mark of it would be an orphan.
    assert not [pid for pid in leftovers.processes() if str(folder) in " ".join(command_of(pid))]
    injected.happened("row `failed`, stage ttft, says so; 17 samples kept; the next case is ok; GPU memory back")


def command_of(pid: int) -> list[str]:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
