"""What a child leaves behind, wherever it hid: processes that left its group or its session, folders of its sockets.

Two ways find a process. Whatever a child starts inherits a mark in its environment, and whatever loses its parent
becomes a child of this process, which asks the kernel for that (Linux). Only a process that has wiped its environment
and lost its parent is found by the second alone, so not by the warden of a killed parent.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "LLM_LATENCY_RUN"
"""Set in the environment of every child: the parent's process id and when it started, which no other process has."""
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
KILLED_S, POLL_S = 30.0, 0.01
"""Longest wait for a killed process to be gone: a GPU's driver may hold it for seconds."""
STATE, PARENT, STARTED = 0, 1, 19
"""Fields of /proc/PID/stat, counted from behind the name."""


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks and brackets; none for no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def mark() -> str:
    """The mark of this process's children."""
    fields = stat_of(os.getpid())
    return f"{os.getpid()}-{fields[STARTED] if fields else 0}"


def processes() -> Iterator[int]:
    """Ids of all processes (Linux; elsewhere none)."""
    for folder in Path("/proc").glob("[0-9]*"):
        yield int(folder.name)


def marked(token: str) -> set[int]:
    """Processes that run and inherited the mark; one that has ended and was not collected has no environment left."""
    wanted, found = f"{MARK}={token}".encode(), set()
    for pid in processes():
        with suppress(OSError):  # it has ended, or is another user's
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def descendants(ancestor: int, but: frozenset[int] = frozenset()) -> set[int]:
    """Children of a process, and theirs, those that wait to be collected included; `but` and theirs are left out."""
    children: dict[int, list[int]] = {}
    for pid in processes():
        if (fields := stat_of(pid)) and pid not in but:
            children.setdefault(int(fields[PARENT]), []).append(pid)
    found: set[int] = set()
    ahead = [ancestor]
    while ahead:
        fresh = [pid for pid in children.get(ahead.pop(), []) if pid not in found]
        found.update(fresh)
        ahead += fresh
    return found


def children_now() -> frozenset[int]:
    """The children that this process has already."""
    return frozenset(pid for pid in processes() if (fields := stat_of(pid)) and int(fields[PARENT]) == os.getpid())


def end_all(token: str, ours: frozenset[int] | None = None) -> tuple[list[str], list[str]]:
    """Kill every process with the mark and, with `ours`, every descendant of this one but those; wait until they are
    gone, and their memory with them.

    Returns:
        The names of those found, and of those that are there still after KILLED_S.
    """
    deadline = time.monotonic() + KILLED_S
    names: dict[int, str] = {}
    while left := running(token, ours):
        for pid in left:
            names.setdefault(pid, name_of(pid))
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return sorted(names.values()), sorted(names[pid] for pid in left)
        time.sleep(POLL_S)
    return sorted(names.values()), []


def running(token: str, ours: frozenset[int] | None) -> set[int]:
    """What is left; children that have ended are collected on the way."""
    found = marked(token) - {os.getpid()}
    if ours is None:
        return found
    for pid in descendants(os.getpid(), ours) - found:
        with suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
        if stat_of(pid)[:1] not in ([], ["Z"], ["X"]):
            found.add(pid)
    return found


def name_of(pid: int) -> str:
    """What a process calls itself."""
    try:
        text = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        text = ""
    return "".join(letter if letter.isprintable() else "?" for letter in text) or "a process that has ended"


def socket_prefix(token: str | None) -> str:
    """How the names of the folders begin that a child with this mark makes for its sockets."""
    return f"llm-{token}-" if token else "llm-"


def remove_folders(token: str) -> None:
    """Remove the sockets' folders of children with this mark: one that was killed while its server started left it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{socket_prefix(token)}*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def adopting() -> Iterator[None]:
    """While it is entered, descendants that lose their parent become children of this process (Linux)."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int(0)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
