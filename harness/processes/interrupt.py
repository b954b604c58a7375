"""Signals that ask a run to end: Ctrl-C (SIGINT), SIGTERM, and the end of its terminal (SIGHUP).

Once: the request in hand is finished, everything is written, and the run says how to go on. Twice: now.

So does the notice of a preemption where something above has a handler for it, which requeues the job: that handler runs
when the run has stopped, and not before, or the scheduler might start the job again beside it.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

PREEMPTION = signal.SIGUSR2
"""What a scheduler's client sends before a preemption or a time limit, if anybody here waits for it."""
GRACE_S = 20.0
"""How long a worker may take to finish its request before it is killed."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOBODY_READS = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a write to a terminal that was closed, to a program that has gone, or to a log on a full disk."""


class Interrupts:
    """A context in which the signals are counted, and a KeyboardInterrupt comes of the first, or of the second where
    the run is `patient`; none comes where it is `shielded`, until that is left.

    `asked` is the first signal's number, 0 before it. `times` stops at 2: who has asked twice can't ask for more. A
    second SIGHUP or notice of preemption is no second asking, as a closed terminal and the shell in it may send one
    each.
    """

    def __init__(self) -> None:
        self.asked = self.times = 0
        self.on_heed: Callable[[], None] = lambda: None
        self._raised = 0
        self._patient = self._shielded = self._heeded = False
        self._before: dict[int, Any] = {}
        self._preempted = False

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it; that of Ctrl-C before any."""
        return 128 + (self.asked or signal.SIGINT)

    def __enter__(self) -> Interrupts:
        """Take the signals, but those that whoever started this process has it ignore (nohup, a shell's `&`)."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        if callable(signal.getsignal(PREEMPTION)):
            self._before[PREEMPTION] = signal.signal(PREEMPTION, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._preempted:
            signal.raise_signal(PREEMPTION)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self._preempted = self._preempted or number == PREEMPTION
        if number in (signal.SIGHUP, PREEMPTION) and self.asked:
            return
        self.asked = self.asked or number
        self.times = min(self.times + 1, 2)
        self._urge()

    def _urge(self) -> None:
        due = self.times > self._raised and self.times >= (2 if self._patient else 1)
        if due and not self._shielded:
            self._raised = self.times
            raise KeyboardInterrupt(self.exit_code)

    def hang_up(self) -> None:
        """Nobody reads what the run says any more: as if SIGHUP had come, but that nothing is raised here."""
        if not self.asked:
            self.asked, self.times = int(signal.SIGHUP), 1

    def heed(self) -> bool:
        """Whether to stop; `on_heed` is called the first time that this is answered with yes."""
        if self.asked and not self._heeded:
            self._heeded = True
            self.on_heed()
        return bool(self.asked)

    def check(self) -> None:
        """Raises KeyboardInterrupt when the run was asked to end."""
        if self.asked:
            raise KeyboardInterrupt(self.exit_code)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Here the first signal is only remembered, and the run looks at `asked` where it may stop."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Here no signal raises: children are being ended, and none must be forgotten."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
            self._urge()


class Outlet(io.TextIOBase):
    """Standard output, which may end before the run does: then `on_gone` is called, and the rest goes nowhere."""

    def __init__(self, on_gone: Callable[[], None]) -> None:
        # Whoever started this process may have closed its standard output; what its encoding lacks is shown as `?`.
        self._to = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  for all of the run
        if isinstance(self._to, io.TextIOWrapper):
            self._to.reconfigure(errors="replace")
        self._on_gone = on_gone

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of standard output."""
        return self._to.encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._to.isatty()

    def fileno(self) -> int:
        """The file descriptor."""
        return self._to.fileno()

    def write(self, text: str) -> int:
        """Write text, if anybody reads it."""
        with self._heard():
            self._to.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._heard():
            self._to.flush()

    @contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NOBODY_READS:
                raise
            # What is still in Python's buffers would fail once more at the end, and change the exit code.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._to.fileno())
            os.close(nowhere)
            self._on_gone()


def code_of(asked: KeyboardInterrupt) -> int:
    """The exit code of what was asked to end: 128 and the number of the signal that asked, Ctrl-C's where none is
    said."""
    return int(asked.args[0]) if asked.args else 128 + signal.SIGINT
