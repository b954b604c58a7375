"""A SLURM of one node on the loopback, in a folder of its own, for as long as it is entered."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "squeue", "scancel")
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
START_S = 60


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_configuration(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 // 2
    values = {
        "host": socket.gethostname().partition(".")[0], "user": getpass.getuser(), "folder": folder,
        "ctld_port": free_port(), "slurmd_port": free_port(), "cpus": os.cpu_count(), "memory_mib": memory_mib,
    }  # fmt: skip
    (folder / "slurm.conf").write_text((HERE / "slurm.conf").read_text().format(**values))
    (folder / "gres.conf").write_text((HERE / "gres.conf").read_text())
    (folder / "cgroup.conf").write_text("")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)


def daemons(folder: Path) -> list[list[str]]:
    """What is started, in this order; all stay in the foreground, as children that can be ended."""
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket",)]
    files = {"key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
    munge += [f"--{option}={folder / name}" for option, name in files.items()]
    return [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
        ["slurmd", "-D", "-f", str(folder / "slurm.conf")],
    ]


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start everything; the environment in which SLURM's commands find it. Whatever happens, all is ended."""
    write_configuration(folder)
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for call in daemons(folder):
            with (folder / f"{call[0]}.out").open("wb") as output:
                started.append(subprocess.Popen(call, env=environment, stdout=output, stderr=output))
            if call[0] == "munged":
                wait_for(folder / "munge.socket")
        wait_until_idle(environment, folder)
        yield environment
    finally:
        end(started, environment)


def end(started: list[subprocess.Popen[bytes]], environment: dict[str, str]) -> None:
    """Cancel every job and wait until none is left, then end the daemons, the last one first."""
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment, check=False)
    for _ in range(40):
        if not squeue(environment):
            break
        time.sleep(1)
    for process in reversed(started):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def squeue(environment: dict[str, str]) -> list[str]:
    """One line a job that is not over: id, state."""
    done = subprocess.run(
        ["squeue", "-h", "-r", "-o", "%i %T"], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + START_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear within {START_S} s")
        time.sleep(0.2)


def wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T %G"], env=environment, capture_output=True, text=True, check=False
        )
        if done.stdout.split() == ["idle", "gpu:2"]:
            return
        if time.monotonic() > deadline:
            logs = "".join(
                (folder / f"{name}.out").read_text(errors="replace")[-1500:] for name in ("slurmctld", "slurmd")
            )
            raise TimeoutError(f"the node is not idle within {START_S} s: {done.stdout}{done.stderr}\n{logs}")
        time.sleep(0.5)
