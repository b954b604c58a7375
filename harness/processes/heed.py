"""How a worker stops when it is asked to (SIGTERM): the request in hand is finished first, and what else is in hand
is not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The parent asked this worker to stop. Like Ctrl-C it is no Exception, which a case may catch."""


class Heed:
    """Whether this process was asked to stop. While `patient`, that is only remembered; else it interrupts."""

    def __init__(self) -> None:
        self.asked = self.patient = False

    def listen(self) -> None:
        """Take SIGTERM from now on. Call it from the main thread."""
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, _signal: int, _frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first and not self.patient:
            raise Interrupted("interrupted")

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Requests are measured here: each is finished, and `check` is called before the next."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False
        self.check()

    def check(self) -> None:
        """Raises Interrupted if this process was asked to stop."""
        if self.asked:
            raise Interrupted("interrupted")
