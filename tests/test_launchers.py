"""Sweeps by submitit's local executor: the queue of one host's GPUs, and SLURM's configuration without SLURM.

That of SLURM itself is `make test-slurm`.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUEUE = """
import sys
from hydra import main
from harness import task
from harness.cluster import check
from harness.settings.compose import CONF
from tests.placed import record
check._register(check.TARGETS["local_gpus"])
main(config_path=str(CONF), config_name="config", version_base="1.3")(record)()
print("codes", sorted(task.CODES))
"""
SLURM = (
    "-m", "hydra/launcher=slurm", "+case@cases.fake=fake", "+case@cases.other=fake", "cases.other.title=Other",
    "run=[fake,other]", "experiment=smoke", "sweep.prompt_lengths=[10]", "sweep.ttft_iterations=12",
    "sweep.decode.context=20", "sweep.context_ranges=[[10,20]]", "cases.fake.prefill_s=0.15",
    "cases.other.prefill_s=0.15", "seed=1,2",
)  # fmt: skip


def wait(process: subprocess.Popen[bytes], found: Callable[[], Any]) -> Any:
    """What `found` gives as soon as it gives anything, while the process runs."""
    deadline = time.monotonic() + 240
    while not (answer := found()):
        assert process.poll() is None, "the sweep has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs beside each other need two cores")
def test_one_run_a_gpu_at_a_time_with_cores_of_its_own(tmp_path):
    call = [
        sys.executable, "-c", QUEUE, "-m", "hydra/launcher=local_gpus", "hydra.launcher.gpus=[0,1]", "device=cpu",
        "seed=1,2,3", f"cache={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]  # fmt: skip
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sweep/.submitit/%j").exists()

    assert "codes [1, 1, 3]" in done.stdout, "a run whose job was lost counts as failed, and the queue goes on"
    assert "the run ended without a result" in done.stdout
    seen = [json.loads((tmp_path / f"{seed}.json").read_text()) for seed in (1, 2, 3)]
    for one in seen:
        (beside,) = one["neighbours"]["cores"]
        assert not set(beside) & set(one["cores"])
        assert (one["launcher"], one["neighbours"]["runs"]) == ("local_gpus", 1)
    first, second, third = seen
    assert not set(first["cores"]) & set(second["cores"])
    assert {gpu for one in (first, second) for gpu in one["neighbours"]["gpus"]} == {0, 1}
    earlier = first if third["cores"] == first["cores"] else second
    assert third["cores"] == earlier["cores"]
    assert third["began"] > earlier["ended"], "two runs were on one GPU"


def test_a_sweep_that_this_machine_has_no_room_for_leaves_no_folder(tmp_path):
    gpus = list(range(len(os.sched_getaffinity(0)) + 1))
    call = [
        sys.executable, "-c", QUEUE, "-m", "hydra/launcher=local_gpus", f"hydra.launcher.gpus={gpus}", "device=cpu",
        f"seed={','.join(map(str, gpus))}", f"cache={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]  # fmt: skip
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 2
    assert "runs at a time need a core each" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_slurm_a_sweep_is_one_sentence_and_leaves_no_folder(tmp_path):
    call = [sys.executable, "-m", "harness", "-m", "hydra/launcher=slurm", "seed=1,2", f"hydra.sweep.dir={tmp_path}/s"]
    done = subprocess.run(
        call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "PATH": "/nowhere"}
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: SLURM took no job (Could not detect")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("signals", "seed", "code"),
    [
        ([signal.SIGTERM], 9, 128 + signal.SIGTERM),
        ([signal.SIGINT, signal.SIGINT], 8, 128 + signal.SIGINT),
        ([signal.SIGKILL], 8, -signal.SIGKILL),
    ],
    ids=["once", "twice", "killed"],
)
def test_ending_the_queue_ends_its_runs_and_starts_no_other(tmp_path, signals, seed, code):
    """Seed 9 ends when it is asked, 8 when it is asked twice."""
    call = [
        sys.executable, "-c", QUEUE, "-m", "hydra/launcher=local_gpus", "hydra.launcher.gpus=[0]", "device=cpu",
        f"seed={seed},1", f"cache={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]  # fmt: skip
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = tmp_path / "begun"
    wait(process, lambda: begun.is_file() and begun.read_text())
    for number in signals:
        process.send_signal(number)
        time.sleep(1.5)
    assert process.wait(60) == code
    deadline = time.monotonic() + 5
    while Path(f"/proc/{begun.read_text()}").exists():
        assert time.monotonic() < deadline, "a run outlives its queue"
        time.sleep(0.05)
    assert not (tmp_path / "1.json").exists()


def runs_of(sweep: Path) -> list[Path]:
    return sorted(path for path in sweep.glob("*") if path.is_dir() and path.name != ".submitit")


def begun_block(folder: Path) -> Path | None:
    """A block that has samples and no verdict, when another has one."""
    over = {path.parent for path in folder.glob("blocks/*/verdict.json")}
    begun = [path.parent for path in folder.glob("blocks/*/samples.csv") if path.read_text().count(",ttft,") > 2]
    return next((path for path in begun if over and path not in over), None)


def process_of(folder: Path, sweep: Path) -> int:
    """The process that makes the run in `folder`: the parent of the worker that has its job.json."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{folder}/job.json".encode() in path.read_bytes():
                return int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    raise AssertionError(f"nobody works on {folder}")


def test_slurms_configuration_gives_each_combination_a_run_and_a_preempted_one_goes_on(tmp_path):
    sweep = tmp_path / "sweep"
    call = [sys.executable, "-m", "tests.placed", "--config-dir", str(ROOT / "tests/conf"), *SLURM,
            f"cache={tmp_path / 'cache'}", f"hydra.sweep.dir={sweep}"]  # fmt: skip
    with (tmp_path / "said").open("w") as output:
        process = subprocess.Popen(call, cwd=ROOT, stdout=output, stderr=output)
        try:
            preempted = wait(process, lambda: [one for one in runs_of(sweep) if begun_block(one)])[0]
            block = begun_block(preempted)
            os.kill(process_of(preempted, sweep), signal.SIGUSR2)
            assert process.wait(240) == 0, (tmp_path / "said").read_text()
        finally:
            process.kill()
    runs = runs_of(sweep)
    assert len(runs) == 2
    for folder in runs:
        check_whole(folder)
    (other,) = set(runs) - {preempted}
    manifests = {folder: json.loads((folder / "manifest.json").read_text()) for folder in runs}
    assert (len(manifests[preempted]["resumed"]), len(manifests[other]["resumed"])) == (1, 0)
    assert [place["launcher"] for place in manifests[preempted]["placements"]] == ["slurm", "slurm"]
    assert manifests[preempted]["neighbours"] is None, "the node is the run's own, as configured"
    assert block is not None
    assert (block / "attempt-1/samples.csv").is_file(), "what the stopped block had is kept aside"
    logs = "".join(path.read_text() for path in sweep.glob(".submitit/*/*_log.out"))
    assert logs.index(f"interrupted; go on with: python -m harness resume={preempted}") < logs.index("Requeued job")


def check_whole(folder: Path) -> None:
    """Every sample of the plan once, every block well."""
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter((row["case"], row["metric"]) for row in rows) == {
        (case, metric): count
        for case in ("fake", "other")
        for metric, count in (("cold", 1), ("ttft", 12), ("decode", 10))
    }
    assert len({(row["case"], row["metric"], row["context_length"], row["iteration"]) for row in rows}) == len(rows)
    with (folder / "status.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["ok", "ok"]
    assert json.loads((folder / "manifest.json").read_text())["finished"]
