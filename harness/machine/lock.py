"""Locks that die with their holder: one a GPU, so that two runs never share it, and one in each run's folder.

A lock is an flock on a file that stays. The kernel lets go of it when the holder ends, however it ends; the file is
close-on-exec, so no worker or server keeps it. The note in the file is for people: it says who holds the lock, and it
is emptied by a holder that lets go. A note without a holder is thus one of a run that was killed.

The locks of GPUs lie in the user's home, not where a login session puts its own files: what cron, a terminal and a
batch system start must meet at one place. Runs of other users, or in containers with other homes, don't meet there;
the warning of other processes on the GPU is what is said of these.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

from harness.machine.gpu import Gpu

HOW = ("wait", "refuse", "off")
FOLDER = "~/.cache/llm-latency/locks"
IN_RUN = "run.lock"
FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link under a lock's name is not followed: the note would be written over what it names."""
POLL_S = 0.5
SETTLE_S = 5.0
"""Workers and servers of a run that was killed end by themselves within this time; until then they still compute."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its note says."""

    pid: int
    folder: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid}, {self.folder}, since {self.since}"


class Lock:
    """One lock. It is a context: at its end the lock is let go. `left`: who held it before and did not let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left: Holder | None = None
        self._file: TextIOWrapper | None = None

    def take(self, me: Holder) -> bool:
        """Take the lock if nobody holds it. Raises OSError where the file can't be made or locked."""
        file = open(os.open(self.path, FLAGS, 0o666), "r+", encoding="utf-8")  # noqa: PTH123, SIM115  a descriptor
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_at_its_path(file):
                file.close()
                return self.take(me)
            self.left = read_note(self.path)
            file.truncate(0)
            file.write(json.dumps(asdict(me)) + "\n")
            file.flush()
        except BlockingIOError:
            file.close()
            return False
        except OSError:
            file.close()
            raise
        self._file = file
        return True

    def _is_at_its_path(self, file: TextIOWrapper) -> bool:
        """Whether the locked file is the one that others find; it may have been removed in between."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def holder(self) -> Holder | None:
        """Who holds the lock, None where the note does not say."""
        return read_note(self.path)

    def release(self) -> None:
        """Let go, and say so in the note."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def read_note(path: Path) -> Holder | None:
    """The note in a lock's file; None where there is none, or where its writer is in the middle of it."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def me(folder: Path) -> Holder:
    """The note of this process."""
    return Holder(os.getpid(), str(folder), datetime.now(UTC).isoformat(timespec="seconds"))


def hold_folder(folder: Path) -> Lock:
    """The lock of a run's folder. Raises ValueError when another run writes there, or nobody can."""
    lock = Lock(folder / IN_RUN)
    try:
        if lock.take(me(folder)):
            return lock
    except OSError as error:
        raise ValueError(
            f"output={folder} can't be written to ({error.strerror}): mend that, or choose another folder"
        ) from error
    holder = lock.holder()
    who = f" (process {holder.pid}, since {holder.since})" if holder else ""
    raise ValueError(
        f"output={folder} is being written by another run{who}: wait for its end, or choose another folder"
    )


def hold_gpu(gpu: Gpu, folder: Path, how: str, say: Callable[[str], None]) -> Lock:
    """The lock of a GPU, for the run in `folder`; with how=wait once nobody else holds it.

    One that a killed run had is taken SETTLE_S late: its last worker may still compute.

    Raises:
        ValueError: with how=refuse another run has it; or the lock can't be made here.
    """
    lock = Lock(gpu_folder() / f"{gpu.uuid}.lock")
    if how == "off":
        return lock
    said: Holder | None = None
    while not _taken(lock, folder):
        holder = lock.holder()
        if how == "refuse":
            raise ValueError(f"GPU {gpu.index} ({gpu.name}) is used by another run ({holder}): lock=wait waits for it")
        if holder is not None and holder != said:
            say(f"waiting for GPU {gpu.index} ({gpu.name}): another run has it ({holder})")
            said = holder
        time.sleep(POLL_S)
    if lock.left is not None:
        say(f"GPU {gpu.index}: its last run was killed ({lock.left}); {SETTLE_S:g} s for its workers to end")
        time.sleep(SETTLE_S)
    return lock


def _taken(lock: Lock, folder: Path) -> bool:
    try:
        return lock.take(me(folder))
    except OSError as error:
        raise ValueError(
            f"the lock {lock.path} can't be made ({error.strerror}): mend that, or give lock=off and see to it "
            "that no other run uses the GPU"
        ) from error


def gpu_folder() -> Path:
    """The folder of the locks of GPUs, for this user alone. Raises ValueError where it can't be made."""
    folder = Path(FOLDER).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise ValueError(f"the folder for locks {folder} can't be made ({error.strerror}): mend that") from error
    return folder
