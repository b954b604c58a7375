"""Keeps the path of a request warm while its process polls.

A process that polls a socket for milliseconds runs a few lines again and again; meanwhile the caches of its processor
lose the rest, and the next message pays for that. So a client that rests plays a whole request to nobody from time to
time, over its own connection. Who waits for somebody else plays what comes next on its own side, a short part at a
time: a server whose client plays nothing a whole answer, one whose engine works the way of the token out, and the
client that waits for that the way in. Whatever comes meanwhile waits for the end of that part.
What it gave is in cases/runtime/kernels/NOTES.md.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from harness.contract import REHEARSE_NS, Case, Plan, Sampling, SetUp, Stats
from harness.ipc import messages as m
from harness.ipc.connection import OWNED, Connection
from harness.ipc.wire import encode

REQUEST = m.Prefill(list(range(100)), 1)
TO_NOBODY = m.Rehearse(REQUEST.prompt, REQUEST.new_tokens)
ANSWER = m.Token(1)
FRAME = 256
"""More bytes than a frame of any answer has here."""


Part = Callable[[], None]
Answer = Callable[[Connection, m.Prefill], list[bytes]]


class Rehearsal:
    """Plays `parts` one after the other, all of them once in REHEARSE_NS; without parts it does nothing."""

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        self._parts = parts
        self._place = self._next_ns = 0
        self._step_ns = REHEARSE_NS // max(1, len(parts))

    def rest(self, now_ns: int) -> None:
        """Polling begins: what it waits for may come at once."""
        self._next_ns = now_ns + self._step_ns

    def due(self, now_ns: int) -> None:
        """Play the next part, if the last one was long enough ago."""
        if now_ns >= self._next_ns and self._parts:
            self.play()
            self._next_ns = now_ns + self._step_ns

    def play(self) -> None:
        """The next part now."""
        self._parts[self._place]()
        self._place = (self._place + 1) % len(self._parts)


class Serving:
    """The server's side, on a connection of its own: a request read, `answer` asked for its frames, `work` done, the
    frames sent.

    Raises OSError where the system has no socket left: whoever wants rehearsals can't have them there.
    """

    def __init__(self, answer: Answer, work: Part) -> None:
        self.parts: tuple[Part, ...] = (self._read, self._answer, work, self._send)
        self._to = answer
        self._request: m.Prefill = REQUEST
        self._frames: list[bytes] = []
        self._frame = encode(REQUEST)
        self._taken = bytearray(FRAME)
        self._client, server = socket.socketpair()
        self._connection = Connection(server, OWNED, time.perf_counter_ns)

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self._client.close()
        self._connection.close()

    def reply(self) -> None:
        """Some token alone packed and sent: what comes next while an engine works."""
        self._connection.send_frame(encode(ANSWER))
        self._client.recv_into(self._taken)

    def _read(self) -> None:
        self._client.send(self._frame)
        self._connection.read()
        self._request = self._connection.take().request  # type: ignore[assignment]

    def _answer(self) -> None:
        self._frames = self._to(self._connection, self._request)

    def _send(self) -> None:
        for frame in self._frames:
            self._connection.send_frame(frame)
            self._client.recv_into(self._taken)


class Rehearsed(Case):
    """In an engine's place: `rehearse` where a first token is asked for, and the engine's own counters."""

    def __init__(self, rehearse: Part, counters: Callable[[], Stats]) -> None:
        self._rehearse, self._counters = rehearse, counters

    def prepare(self, plan: Plan) -> SetUp:
        """Never asked."""
        raise NotImplementedError

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """Some token."""
        self._rehearse()
        return 1

    def decode(self) -> int:
        """Some token."""
        return 1

    def use(self, sampling: Sampling) -> None:
        """Whatever its client chose."""

    def stats(self) -> Stats:
        """The engine's own."""
        return self._counters()

    def close(self) -> None:
        """Nothing is held."""
