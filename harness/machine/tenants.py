"""Who else computes on the GPU: NVML's processes without those of this run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from harness.machine.gpu import Process, processes

UNKNOWN = ""
SLACK_MIB = 256
"""Device memory may grow by this much with nobody in the list of processes; more means that the list hides some."""


class Others(NamedTuple):
    """How many others compute on the GPU, and what they hold in MiB; an empty text where that is not known."""

    processes: int | str = UNKNOWN
    mib: int | str = UNKNOWN


class Tenants:
    """Tells processes of this run from others: its own descend from this one.

    In a container NVML may number processes otherwise than this process sees them. Then one process that was not there
    at the start is taken for the block's own, since a block has one that computes; any further one is another's. Where
    NVML lists nobody though device memory has grown, who is there is not known.
    """

    def __init__(self, handle: Any, used_mib: int | str, parent: Callable[[int], int | None] | None = None) -> None:
        self._handle = handle
        self._parent = parent or parent_of
        self._before = {process.pid for process in processes(handle) or []}
        self._used_mib = used_mib

    def others(self, used_mib: int | str) -> Others:
        """Who else is there now; `used_mib` is what is in use of the device's memory, by whomever."""
        found = processes(self._handle)
        if found is None or (not found and self._grown(used_mib)):
            return Others()
        strangers = [process for process in found if not self._descends(process.pid)]
        fresh = [process for process in strangers if process.pid not in self._before]
        if len(strangers) == len(found) and fresh and not any(self._parent(process.pid) for process in fresh):
            strangers.remove(fresh[0])
        return Others(len(strangers), held(strangers))

    def _grown(self, used_mib: int | str) -> bool:
        known = isinstance(used_mib, int) and isinstance(self._used_mib, int)
        return known and int(used_mib) > int(self._used_mib) + SLACK_MIB

    def _descends(self, pid: int) -> bool:
        """Whether a process is this one or a descendant of it."""
        here: int | None = pid
        while here is not None and here > 1:
            if here == os.getpid():
                return True
            here = self._parent(here)
        return False


def held(found: list[Process]) -> int | str:
    """What processes hold together in MiB; unknown when the driver does not say it of one."""
    sizes = [process.mib for process in found]
    return UNKNOWN if None in sizes else sum(size for size in sizes if size is not None)


def parent_of(pid: int) -> int | None:
    """The parent of a process, None when this process can't see it (Linux: the fourth field of /proc/PID/stat)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the name, may hold blanks and brackets; it ends with the last bracket.
    return int(text.rpartition(")")[2].split()[1])
