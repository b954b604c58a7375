"""`make test-slurm`: sweeps through a real SLURM on the loopback, whose jobs are taken from their node in every way.

The tiny model on the CPU; each job asks for one of two made-up GPUs, and for the whole node but in the last sweep.
`--log FILE` writes what was seen, without this machine's folders and names.
"""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.slurm import ways
from tests.slurm.cluster import HERE, missing, running
from tests.slurm.ways import PATIENCE_S, Slurm, half_done, over, wait

ROOT = HERE.parent.parent
RUN = (
    "experiment=smoke", "run=[baseline,eager]", "sweep.prompt_lengths=[10,40]", "sweep.ttft_iterations=20",
    "sweep.decode.context=20", "sweep.context_ranges=[[10,20]]",
)  # fmt: skip
TELLING = ("interrupted;", "Caught signal", "Requeued", "skipped", "Exiting", " ok (", "failed", "timed out")
"""Words in a job's log by which to see what became of it."""
PLANNED = {"cold": 2, "ttft": 80, "decode": 20}
UNKNOWN = {"runs": None, "gpus": None, "cores": None}
Way = Callable[[Slurm, str, str], None]


@dataclass(frozen=True)
class Sweep:
    """Some runs, and the way in which each is taken from its node when it is half done."""

    name: str
    says: str
    overrides: tuple[str, ...]
    ways: tuple[Way, ...] = ()
    shared: bool = False

    @property
    def runs(self) -> int:
        """How many."""
        return len(next(one for one in self.overrides if one.startswith("seed=")).split(","))


SWEEPS = (
    Sweep(
        "taken", "Five jobs, one after the other on a node of their own, each taken from it in another way",
        ("seed=1,2,3,4,5", "sweep.pause_ms=100"),
        (ways.requeued, ways.noticed, ways.preempted, ways.killed, ways.interrupted),
    ),
    Sweep(
        "limit", "A job with a limit of two minutes, in which it can't be done",
        ("seed=6", "sweep.pause_ms=1000", "hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=20"),
        (ways.at_its_limit,),
    ),
    Sweep(
        "shared", "Two jobs on one node at once, each with cores and memory of its own",
        ("seed=7,8", "sweep.pause_ms=100", "hydra.launcher.additional_parameters.exclusive=false",
         "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"),
        shared=True,
    ),
)  # fmt: skip


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


def run_folders(sweep: Path) -> list[Path]:
    return sorted(path for path in sweep.glob("*") if path.is_dir() and not path.name.startswith("."))


def take(slurm: Slurm, folder: Path, way: Way, done: list[Path]) -> Path:
    """Wait until a run is half done, have its job taken from the node, and have it start again."""
    found: Path = wait(
        "a run that is half done",
        lambda: [path for path in run_folders(folder) if path not in done and half_done(path)],
    )[0]
    (job,) = slurm.running()
    way(slurm, job, f"seed {seed(found)}: one of its blocks is over, the other has begun")
    slurm.start_again(job)
    return found


def seed(folder: Path) -> int:
    return int(json.loads((folder / "settings.json").read_text())["config"]["seed"])


@contextmanager
def submitted(slurm: Slurm, sweep: Sweep) -> Any:
    """The command of a sweep, which waits for all its jobs; ended with this context."""
    folder = slurm.folder / sweep.name
    call = [sys.executable, "-m", "harness", "-m", "hydra/launcher=slurm", *RUN, *sweep.overrides,
            f"hydra.sweep.dir={folder}", f"cache={slurm.folder / 'cache'}"]  # fmt: skip
    slurm.log(f"\n{sweep.says}.")
    slurm.log(f"$ {' '.join(['python', *call[1:]])}")
    said = slurm.folder / f"{sweep.name}.log"
    with said.open("w") as output:
        command = subprocess.Popen(call, cwd=ROOT, env=slurm.environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield command
        finally:
            command.kill()
            for line in said.read_text().splitlines():
                if "sacct" not in line and "accounting storage" not in line:  # this SLURM keeps no accounts
                    slurm.log(f"  {line}")


def go_through(slurm: Slurm, sweep: Sweep) -> None:
    folder = slurm.folder / sweep.name
    with submitted(slurm, sweep) as command:
        if sweep.shared:
            jobs = wait("all jobs run at once", lambda: len(slurm.running()) == sweep.runs and slurm.running())
            slurm.log(f"  running at once: {', '.join(jobs)}")
        taken: list[Path] = []
        for way in sweep.ways:
            taken.append(take(slurm, folder, way, taken))
        code = command.wait(PATIENCE_S)
    assert code == 0, f"the sweep's exit code is {code}"
    show_logs(slurm, folder)
    folders = run_folders(folder)
    assert len(folders) == sweep.runs, folders
    manifests = [check_run(one, sweep, slurm.log) for one in folders]
    if sweep.shared:
        check_beside(manifests, slurm.log)
    check_valid(slurm, folders)


def show_logs(slurm: Slurm, sweep: Path) -> None:
    """What each job said of its end and its going on."""
    for path in sorted(sweep.glob(".submitit/*/*.out")):
        for line in path.read_text().splitlines():
            if any(word in line for word in TELLING):
                slurm.log(f"  {path.name}: {line}")


def check_run(folder: Path, sweep: Sweep, log: Log) -> dict[str, Any]:
    """Whole, gone on once if it was taken from its node, every sample once, on one GPU that SLURM gave."""
    assert over(folder), f"{folder.name} is not whole"
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["metric"] for row in rows) == PLANNED, Counter(row["metric"] for row in rows)
    keys = ("case", "block", "metric", "prompt_length", "context_length", "iteration")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows), "a sample is there twice"
    places, again = manifest["placements"], 1 if sweep.ways else 0
    assert [place["restarts"] for place in places] == list(range(again + 1)), places
    assert {place["launcher"] for place in places} == {"slurm"}
    assert all(re.fullmatch("[01]", place["visible"]) for place in places), "not one GPU"
    assert (len(manifest["resumed"]), manifest["neighbours"]) == (again, UNKNOWN if sweep.shared else None)
    given = " and then ".join(place["visible"] for place in places)
    log(f"seed {seed(folder)}: {len(rows)} samples, each once; resumed {again} times; job {places[0]['job']}, "
        f"CUDA_VISIBLE_DEVICES={given}; neighbours: {json.dumps(manifest['neighbours'])}")  # fmt: skip
    return manifest


def check_beside(manifests: Sequence[dict[str, Any]], log: Log) -> None:
    """The runs were at the same time, and each on a GPU of its own."""
    assert max(one["started"] for one in manifests) < min(one["finished"] for one in manifests), "not at the same time"
    given = sorted(one["placements"][0]["visible"] for one in manifests)
    assert given == ["0", "1"], given
    log("their times overlap, and each had a GPU of its own")


def check_valid(slurm: Slurm, folders: Sequence[Path]) -> None:
    """`validate` finds nothing to say against any of the runs."""
    said = slurm.call(sys.executable, "-m", "harness", "validate", *map(str, folders))
    slurm.log(f"$ python -m harness validate TMP/{folders[0].parent.name}/*")
    for line in said.splitlines():
        slurm.log(f"  {line}")
    assert "FAILED" not in said
    assert said.count("none failed") == len(folders)


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
            slurm = Slurm(environment, log, folder)
            log(f"{slurm.call('slurmd', '-V')}, {datetime.now(UTC):%Y-%m-%d}")
            for sweep in SWEEPS:
                go_through(slurm, sweep)
        log("every daemon has ended")
    if "--log" in sys.argv:
        text = "\n".join(log.lines)
        head = "What `make test-slurm` said when it was last run by hand; folders and the host's name are left out.\n"
        Path(sys.argv[sys.argv.index("--log") + 1]).write_text(f"# Sweeps through SLURM\n\n{head}\n```\n{text}\n```\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
