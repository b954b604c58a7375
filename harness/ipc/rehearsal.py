"""Keeps the path of a request warm while its process polls.

A process that polls a socket for milliseconds runs a few lines again and again; meanwhile the caches of its processor
lose the rest, and the next message pays for that. So it plays the rest to nobody from time to time. What it gave is in
cases/runtime/kernels/NOTES.md.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from harness.contract import REHEARSE_NS, Stats
from harness.ipc import messages as m
from harness.ipc.connection import OWNED, Connection
from harness.ipc.wire import HEADER, encode

REQUEST = m.Prefill(list(range(100)), 1)
ANSWER = m.Token(1, Stats())


class Rehearsal:
    """Says when it is time to `play`; None: never."""

    def __init__(self, play: Callable[[], None] | None) -> None:
        self._play = play
        self._next_ns = 0

    def rest(self, now_ns: int) -> None:
        """Polling begins: what it waits for may come at once."""
        self._next_ns = now_ns + REHEARSE_NS

    def due(self, now_ns: int) -> None:
        """Rehearse, if the last time was long enough ago."""
        if self._play is not None and now_ns >= self._next_ns:
            self._play()
            self._next_ns = now_ns + REHEARSE_NS


class Serving:
    """The server's part, on a connection of its own: a request read, `work` done, an answer sent.

    Raises OSError where the system has no socket left: whoever wants rehearsals can't have them there.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._frame = encode(REQUEST)
        self._taken = bytearray(HEADER.size + len(encode(ANSWER)))
        self._client, server = socket.socketpair()
        self._connection = Connection(server, OWNED, time.perf_counter_ns)

    def __call__(self) -> None:
        """Play it once."""
        self._client.send(self._frame)
        self._connection.read()
        self._connection.take()
        self._work()
        self._connection.send_frame(encode(ANSWER))
        self._client.recv_into(self._taken)

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self._client.close()
        self._connection.close()
