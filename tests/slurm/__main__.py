"""`make test-slurm`: a sweep through a real SLURM on the loopback, with one job requeued and another preempted.

The tiny model on the CPU; each job asks for one of two made-up GPUs and the whole node. `--log FILE` writes what was
seen, without this machine's folders and names.
"""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.slurm.cluster import HERE, missing, running, squeue

ROOT = HERE.parent.parent
SWEEP = (
    "experiment=smoke", "run=[baseline,eager]", "sweep.prompt_lengths=[10,40]", "sweep.ttft_iterations=20",
    "sweep.pause_ms=200", "sweep.decode.context=20", "sweep.context_ranges=[[10,20]]", "seed=1,2",
)  # fmt: skip
PATIENCE_S = 900
TELLING = ("interrupted;", "Caught signal", "Requeued", "skipped", "Exiting", " ok (", "failed")
"""Words in a job's log by which to see what became of it."""
PLANNED = {"cold": 2, "ttft": 80, "decode": 20}


class Log:
    """Says each line, and keeps it without names of this machine."""

    def __init__(self, folder: Path) -> None:
        self._hidden = {str(folder): "TMP", str(ROOT): "REPOSITORY", sys.prefix: "VENV", socket.gethostname(): "HOST"}
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        for name, shown in self._hidden.items():
            line = line.replace(name, shown)
        print(line, flush=True)
        self.lines.append(line)


def command(environment: dict[str, str], *call: str) -> str:
    return subprocess.run(call, env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def wait(what: str, found: Callable[[], Any]) -> Any:
    """What `found` gives, as soon as it gives anything."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.2)
    return answer


def run_folders(sweep: Path) -> list[Path]:
    return sorted(path for path in sweep.glob("*") if path.is_dir() and not path.name.startswith("."))


def half_done(folder: Path) -> bool:
    """One block is over, and the other has samples."""
    over = {path.parent for path in folder.glob("blocks/*/verdict.json")}
    begun = {path.parent for path in folder.glob("blocks/*/samples.csv") if path.read_text().count(",ttft,") > 3}
    return len(over) == 1 and bool(begun - over)


def preempt(sweep: Path, done: set[Path], environment: dict[str, str], call: tuple[str, ...], log: Log) -> Path:
    """Wait until one run is half done, do to its job what `call` says, and wait until it is out of the way."""
    folder: Path = wait(
        "a run that is half done",
        lambda: [path for path in run_folders(sweep) if path not in done and half_done(path)],
    )[0]
    job = next(line.split()[0] for line in squeue(environment) if "RUNNING" in line)
    log(f"$ {' '.join([*call, job])}    # {folder.name}: one of its blocks is over, the other has begun")
    command(environment, *call, job)
    wait("the job is pending again", lambda: any(line.split() == [job, "PENDING"] for line in squeue(environment)))
    # SLURM holds a requeued job back for two minutes.
    command(environment, "scontrol", "update", f"jobid={job}", "starttime=now")
    return folder


def check_run(folder: Path, log: Log) -> None:
    """Whole, valid, gone on once, every sample once, on one GPU that SLURM gave."""
    manifest = json.loads((folder / "manifest.json").read_text())
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["metric"] for row in rows) == PLANNED, Counter(row["metric"] for row in rows)
    keys = ("case", "block", "metric", "prompt_length", "context_length", "iteration")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows), "a sample is there twice"
    places = manifest["placements"]
    assert [place["restarts"] for place in places] == [0, 1], places
    assert {place["launcher"] for place in places} == {"slurm"}
    assert all(re.fullmatch("[01]", place["visible"]) for place in places), "not one GPU"
    assert (len(manifest["resumed"]), manifest["neighbours"]) == (1, None)
    assert manifest["finished"]
    log(f"{folder.name}: {len(rows)} samples, each once; resumed once; job {places[0]['job']}, "
        f"CUDA_VISIBLE_DEVICES={places[0]['visible']} and then {places[1]['visible']}")  # fmt: skip


def sweep_through(environment: dict[str, str], folder: Path, log: Log) -> None:
    sweep = folder / "sweep"
    call = [sys.executable, "-m", "harness", "-m", "hydra/launcher=slurm", *SWEEP, f"hydra.sweep.dir={sweep}",
            f"cache={folder / 'cache'}"]  # fmt: skip
    log(f"$ {' '.join(['python', *call[1:]])}")
    with (folder / "multirun.log").open("w") as output:
        multirun = subprocess.Popen(call, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            first = preempt(sweep, set(), environment, ("scontrol", "requeue"), log)
            preempt(sweep, {first}, environment, ("scancel", "--signal=USR2"), log)
            code = multirun.wait(PATIENCE_S)
        finally:
            multirun.kill()
            for line in (folder / "multirun.log").read_text().splitlines():
                if "sacct" not in line and "accounting storage" not in line:  # this SLURM keeps no accounts
                    log(f"  {line}")
    assert code == 0, f"the sweep's exit code is {code}"
    for path in sorted(sweep.glob(".submitit/*/*.out")):
        for line in path.read_text().splitlines():
            if any(word in line for word in TELLING):
                log(f"  {path.name}: {line}")
    folders = run_folders(sweep)
    assert len(folders) == 2, folders
    for one in folders:
        check_run(one, log)
    said = command(environment, sys.executable, "-m", "harness", "validate", *map(str, folders))
    log("$ python -m harness validate TMP/sweep/*")
    for line in said.splitlines():
        log(f"  {line}")
    assert "FAILED" not in said


def main() -> int:
    absent = missing()
    if absent:
        print(f"error: SLURM is not installed here ({', '.join(absent)} missing): apt-get install slurm-wlm munge",
              file=sys.stderr)  # fmt: skip
        return 2
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # munged wants to know who may reach its socket
        log = Log(folder)
        with running(folder) as environment:
            log(f"{command(environment, 'slurmd', '-V')}, {datetime.now(UTC):%Y-%m-%d}")
            sweep_through(environment, folder, log)
        log("every daemon has ended")
    if "--log" in sys.argv:
        text = "\n".join(log.lines)
        head = "What `make test-slurm` said when it was last run by hand; folders and the host's name are left out.\n"
        Path(sys.argv[sys.argv.index("--log") + 1]).write_text(f"# A sweep through SLURM\n\n{head}\n```\n{text}\n```\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
