"""Where the engine runs, in a process of its own or in this one, and that it leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SINGLE = "TLLM_WORKER_USE_SINGLE_PROCESS"
"""The engine reads it once, when it makes its first LLM: 1 is this process, 0 one that MPI spawns."""
MARK = "TENSORRT_LLM_OF_CASE"
"""Set here, inherited by whatever the engine starts: also a process that is no longer a child of ours is found."""
PROBE = """
from mpi4py.futures import MPIPoolExecutor
with MPIPoolExecutor(max_workers=1) as pool:
    print(pool.submit(len, "spawned").result())
"""
PROBE_S, END_S, KILLED_S, POLL_S = 60.0, 10.0, 30.0, 0.1
HELPERS = (b"multiprocessing.resource_tracker",)
"""Processes of Python itself that end with this one and hold nothing of the engine's."""


def spawn_refusal() -> str:
    """Why MPI can't start a process here, on one line; empty when it can. Tried in a process of its own.

    In this one a refusal may end the process, and would leave MPI as it is: it can't be tried twice.
    """
    call = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(  # noqa: S603  a fixed command
            call, capture_output=True, text=True, timeout=PROBE_S, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_S:g} s"
    if done.returncode == 0 and done.stdout.strip() == "7":
        return ""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (said[-1] if said else f"exit code {done.returncode}")[:160]


def choose_worker(asked: str) -> str:
    """Set where the engine will run, and say so: `auto` is a process of its own unless MPI refuses to start one."""
    refusal = spawn_refusal() if asked == "auto" else ""
    single = asked == "single" or bool(refusal)
    os.environ[SINGLE] = "1" if single else "0"
    if refusal:
        return f"single-process worker, because MPI starts no process here ({refusal})"
    return "single-process worker" if single else "worker in a process of its own"


def mark() -> str:
    """Mark what is started from now on; returns the mark."""
    os.environ[MARK] = f"{os.getpid()}-{time.monotonic_ns()}"
    return os.environ[MARK]


def marked(token: str) -> Iterator[int]:
    """Processes other than this one that inherited the mark (Linux; elsewhere none is found)."""
    wanted = f"{MARK}={token}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        ours = int(folder.name) == os.getpid() or any(helper in command for helper in HELPERS)
        if wanted in environment.split(b"\0") and not ours:
            yield int(folder.name)


def still_there(token: str, seconds: float) -> list[int]:
    """What is marked and has not ended within `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := list(marked(token))) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def end_left_overs(token: str) -> list[int]:
    """Wait for everything marked to end, kill what has not, by its id, say so in the log, and return the killed.

    A signal returns before its process is gone, and its memory with it: the end is waited for once more.
    """
    left = still_there(token, END_S)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    stuck = still_there(token, KILLED_S) if left else []
    os.environ.pop(MARK, None)
    if stuck:
        print(f"tensorrt_llm: killed, and still there: {', '.join(map(str, stuck))}", file=sys.stderr)
    if left:
        print(f"tensorrt_llm left processes behind; killed: {', '.join(map(str, left))}", file=sys.stderr)
    return left
