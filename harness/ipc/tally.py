"""What a server counts, and the latencies of its last requests."""

from __future__ import annotations

import math
import os
from collections import deque

from harness.ipc import messages as m
from harness.ipc.connection import Clock

RECENT = 1000
"""First tokens, and later tokens, that the quantiles are taken over."""


class Tally:
    """Counters since the start of the server."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ns = clock()
        self.served = self.tokens = self.cancelled = self.failed = self.refused = self.dropped = 0
        self._firsts: deque[int] = deque(maxlen=RECENT)
        self._laters: deque[int] = deque(maxlen=RECENT)

    def first(self, took_ns: int) -> None:
        """A first token, with its time in the queue."""
        self.tokens += 1
        self._firsts.append(took_ns)

    def prefill(self, took_ns: int) -> None:
        """A Prefill answered: a request by itself, whatever is asked for behind it."""
        self.served += 1
        self.first(took_ns)

    def later(self, took_ns: int) -> None:
        """Another token of a sequence."""
        self.tokens += 1
        self._laters.append(took_ns)

    def status(self, clients: int, waiting: int) -> m.Status:
        """All of it now."""
        return m.Status(
            pid=os.getpid(),
            uptime_ms=(self._clock() - self._started_ns) // 1_000_000,
            clients=clients,
            waiting=waiting,
            served=self.served,
            tokens=self.tokens,
            cancelled=self.cancelled,
            failed=self.failed,
            refused=self.refused,
            dropped=self.dropped,
            recent=len(self._firsts),
            ttft_p50_us=quantile(self._firsts, 0.5) // 1000,
            ttft_p99_us=quantile(self._firsts, 0.99) // 1000,
            recent_later=len(self._laters),
            token_p50_us=quantile(self._laters, 0.5) // 1000,
            token_p99_us=quantile(self._laters, 0.99) // 1000,
        )


def quantile(values: deque[int], p: float) -> int:
    """The smallest value with a share of at least `p` of all at or below it; 0 of none."""
    if not values:
        return 0
    return sorted(values)[max(1, math.ceil(len(values) * p - 1e-9)) - 1]
