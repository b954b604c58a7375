"""A server of its own process, started and ended, and what it takes of the machine."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
START_S = 300
END_S = 60


class Held(NamedTuple):
    """What a process holds: memory in KiB, descriptors, threads; and seconds of processor time so far."""

    rss_kib: int
    descriptors: int
    threads: int
    cpu_s: float


def held(pid: int) -> Held:
    """What the process holds now. Raises OSError when it has gone."""
    proc = Path(f"/proc/{pid}")
    lines = (line.partition(":") for line in (proc / "status").read_text().splitlines())
    status = {key: value.strip() for key, _, value in lines}
    ran = [(task / "schedstat").read_text().split()[0] for task in (proc / "task").iterdir()]
    descriptors = len(list((proc / "fd").iterdir()))
    return Held(int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"]), sum(map(int, ran)) / 1e9)


@contextmanager
def server(command: Sequence[str], path: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server that `command` starts, once it listens at `path`; at the end SIGTERM, which it must obey.

    Raises:
        RuntimeError: it ended instead, or does not listen or end in time.
    """
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        wait_for(process, path, log)
        yield process
        process.terminate()
        if (code := process.wait(END_S)) != 0:
            raise RuntimeError(f"the server ended with {code}: {log.read_text()[-2000:]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    """Until it takes connections: the socket's file is there a moment before."""
    until = time.monotonic() + START_S
    while not listens(path):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the server does not listen: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
