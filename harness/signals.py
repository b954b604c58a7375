"""Requests to end: every one of them stops a run as Ctrl-C does, so that workers end and files stay whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PREEMPTION = signal.SIGUSR2
"""What a scheduler's client sends before a preemption or a time limit, if anybody here waits for it."""


@contextmanager
def as_interrupt() -> Iterator[None]:
    """While this is entered, SIGTERM raises KeyboardInterrupt.

    So does the notice of a preemption where something above has a handler for it, which requeues the job. That handler
    runs when this is left: the run has stopped before anything tells the scheduler that it may start it again.
    """
    seen: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGTERM or len(seen) == 1:
            raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if callable(signal.getsignal(PREEMPTION)):
        before[PREEMPTION] = signal.signal(PREEMPTION, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if PREEMPTION in seen:
            signal.raise_signal(PREEMPTION)
