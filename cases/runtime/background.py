"""The one thread that captures, and the gate that keeps it out of the way of requests. Free of torch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Collection, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event, Lock
from typing import TypeVar

PATIENCE_S = 0.02
"""How long a capture waits at each layer for the request in flight: under a load without pauses it still ends."""

SWITCH_S = 5e-5
"""How long the capturing thread may keep the interpreter from a request whose token has come. Python's own value,
5 ms, is longer than a whole decode step."""

T = TypeVar("T")
GiveWay = Callable[[], None]


class Gate:
    """Closed while a request is in flight. `launching` is held by whoever launches a forward kernel by kernel.

    PyTorch keeps the choice of matrix library and of attention kernel in switches of the whole process, and a forward
    turns them for one product at a time: a request's own forward and a capture may not be launched at once. A replay
    needs no lock.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.busy = False
        self.launching = Lock()
        self._patience_s = patience_s
        self._waiting = False
        self._idle = Event()

    def leave(self) -> None:
        """The request is over."""
        self.busy = False
        if self._waiting:
            self._idle.set()

    def wait(self) -> None:
        """Until no request is in flight, but no longer than the patience lasts."""
        if not self.busy:
            return
        self._idle.clear()
        self._waiting = True
        if self.busy:  # asked again: it may have been left before it could see that somebody waits
            self._idle.wait(self._patience_s)
        self._waiting = False

    @contextmanager
    def turn(self) -> Iterator[GiveWay]:
        """Hold `launching`; what is yielded gives way to requests, called between layers."""
        self.wait()
        with self.launching:
            yield self._give_way

    def _give_way(self) -> None:
        self.launching.release()
        try:
            self.wait()
        finally:
            self.launching.acquire()


def _spread(cpus: Collection[int]) -> None:
    """Have this thread run on any of these CPUs; where that is refused nothing is pinned, and it does already."""
    with suppress(OSError):
        os.sched_setaffinity(0, cpus)


class CaptureThread:
    """Runs one job at a time, in the order asked for.

    All captures run here, those before the first request too: what PyTorch makes for each thread, handles of cuBLAS
    and cuDNN, is then there before the first capture amid requests, inside which it could not be made.
    """

    def __init__(self) -> None:
        free = os.sched_getaffinity(0)  # by the first capture, the thread that asks may be kept on one CPU
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="capture", initializer=_spread, initargs=(free,)
        )  # fmt: skip
        self._pending: dict[Hashable, Future[object]] = {}

    def run(self, job: Callable[[], T]) -> T:
        """Wait for it, and for all that was asked for before."""
        return self._executor.submit(job).result()

    def later(self, key: Hashable, job: Callable[[], object]) -> None:
        """Run it when its turn comes, unless one of that key is waiting. Raises what an earlier one died of."""
        for other in [other for other, future in self._pending.items() if future.done()]:
            self._pending.pop(other).result()
        if key not in self._pending:
            self._pending[key] = self._executor.submit(_politely, job)

    @property
    def busy(self) -> bool:
        """Whether anything that was asked for is not done yet. To be asked by the thread that asks for captures."""
        return any(not future.done() for future in self._pending.values())

    def drain(self) -> None:
        """Wait until nothing is left to do."""
        self.run(lambda: None)

    def stop(self) -> None:
        """Drop what waits, let what runs end, join. Idempotent; what a job died of unseen is printed."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for future in self._pending.values():
            if not future.cancelled() and (error := future.exception()) is not None:
                traceback.print_exception(error)
        self._pending.clear()


def _politely(job: Callable[[], object]) -> None:
    """With the interpreter handed over often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, SWITCH_S))
    try:
        job()
    finally:
        sys.setswitchinterval(usual)
