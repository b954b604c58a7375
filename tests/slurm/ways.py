"""The ways in which a job is taken from its node here, each on a real SLURM, up to where it is to start again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.slurm.cluster import squeue

PATIENCE_S = 600
SOON_S = 120
"""Within this a job that nobody requeues has left its node. It would have waited for an end by SLURM for longer."""
URGENT = ("sbatch", "--partition=urgent", "--exclusive", "--gpus-per-node=1", "--output=/dev/null", "--wrap=sleep 1")


def wait(what: str, found: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What `found` gives, as soon as it gives anything."""
    deadline = time.monotonic() + within_s
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(0.2)
    return answer


@dataclass(frozen=True)
class Slurm:
    """A SLURM that is running, and who says what is done to it."""

    environment: dict[str, str]
    log: Callable[[str], None]
    folder: Path

    def call(self, *call: str) -> str:
        """What a command prints. Raises CalledProcessError, with what it says."""
        done = subprocess.run(call, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(call)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def send(self, job: str, *flags: str, why: str) -> None:
        """Have SLURM send a signal to a job.

        Where other jobs of the array are pending, SLURM 22.05 sends it and yet tells scancel to try again later, which
        by then would be another attempt: it is ended before.
        """
        self.log(f"$ scancel {' '.join(flags)} {job}    # {why}")
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", *flags, job], env=self.environment, capture_output=True, timeout=3, check=False)

    def say(self, *call: str, why: str = "") -> None:
        """Call, and say that it is done."""
        self.log(f"$ {' '.join(call)}{f'    # {why}' if why else ''}")
        self.call(*call)

    def jobs(self) -> list[tuple[str, str]]:
        """Id and state of each job that is not over."""
        return [(line.split()[0], line.split()[1]) for line in squeue(self.environment)]

    def running(self) -> list[str]:
        """The jobs that run."""
        return [job for job, state in self.jobs() if state == "RUNNING"]

    def fact(self, job: str, name: str) -> str:
        """What SLURM says of a job under this name."""
        shown = self.call("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in shown if word.startswith(f"{name}="))

    def start_again(self, job: str) -> None:
        """Wait until the job is pending, and have it start now: SLURM holds a requeued one back for two minutes."""
        wait(f"{job} is pending again", lambda: (job, "PENDING") in self.jobs())
        self.call("scontrol", "update", f"jobid={job}", "starttime=now")


def requeued(slurm: Slurm, job: str, why: str) -> None:
    """SLURM is asked to requeue it."""
    slurm.say("scontrol", "requeue", job, why=why)


def noticed(slurm: Slurm, job: str, why: str) -> None:
    """The notice that comes before a limit, by hand: submitit requeues the job."""
    slurm.send(job, "--signal=USR2", why=why)


def preempted(slurm: Slurm, job: str, why: str) -> None:
    """A job of a partition with a higher priority takes the node: SLURM tells, waits, kills and requeues by itself."""
    slurm.say(*URGENT, why=why)


def killed(slurm: Slurm, job: str, why: str) -> None:
    """Every process of the job is killed at once and without notice, its batch script too.

    `scancel --signal=KILL` would not do: SLURM makes a cancellation of it, and asks by SIGTERM first.
    """
    listed = slurm.call("scontrol", "listpids", slurm.fact(job, "JobId")).splitlines()[1:]
    slurm.log(f"$ kill -KILL    # all {len(listed)} processes of {job} that scontrol listpids has; {why}")
    for line in listed:
        with suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    _requeue_failed(slurm, job)


def interrupted(slurm: Slurm, job: str, why: str) -> None:
    """A person's SIGINT, behind which no end by SLURM comes: the job leaves its node at once."""
    slurm.send(job, "--signal=INT", why=why)
    _requeue_failed(slurm, job)


def _requeue_failed(slurm: Slurm, job: str) -> None:
    """A job that ended badly is over for SLURM, until somebody asks for it to be requeued."""
    wait(f"{job} is over", lambda: job not in dict(slurm.jobs()), SOON_S)
    slurm.log(f"  {job} is over: {slurm.fact(job, 'JobState')}, exit code and signal {slurm.fact(job, 'ExitCode')}")
    slurm.say("scontrol", "requeue", job)


def at_its_limit(slurm: Slurm, job: str, why: str) -> None:
    """Nothing is done: the job reaches its time limit."""
    slurm.log(f"  nothing is done to job {job}, which runs up to its limit; {why}")


def over(folder: Path) -> bool:
    """Whether a run is whole."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and bool(json.loads(manifest.read_text()).get("finished"))


def half_done(folder: Path) -> bool:
    """One block is over, and the other has samples."""
    done = {path.parent for path in folder.glob("blocks/*/verdict.json")}
    begun = {path.parent for path in folder.glob("blocks/*/samples.csv") if path.read_text().count(",ttft,") > 3}
    return len(done) == 1 and bool(begun - done)
