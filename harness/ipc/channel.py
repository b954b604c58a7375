"""One connected socket as a stream of messages, made for short round trips.

A frame leaves in one `sendall` and normally arrives in one `recv_into` of a buffer that lives as long as the channel.
Waiting begins with a bounded spin, because waking a sleeping thread costs more than the whole message; then it
blocks in the kernel, and each idle second asks whether the other side still lives.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from harness.ipc.fields import WireError
from harness.ipc.frames import Frames
from harness.ipc.messages import Message
from harness.ipc.rehearsal import ANSWER, Part, Rehearsal
from harness.ipc.wire import decode, encode

IDLE_S = 1
CPUS_TO_SPIN = 4


class Spin(NamedTuple):
    """How long each side asks the socket again and again before it sleeps, in microseconds; 0 sleeps at once.

    The server waits for the next request, which comes within microseconds or after the pause between requests; the
    client waits for the engine, which takes milliseconds. `rehearse`: whether the path of a request is
    kept warm meanwhile.
    """

    client_us: int = 0
    server_us: int = 0
    rehearse: bool = True

    def __str__(self) -> str:
        """What a table shows."""
        if not self.client_us and not self.server_us:
            return "unix, blocking"
        cold = "" if self.rehearse else ", no rehearsals"
        return f"unix, spin {self.client_us} us (client) and {self.server_us} us (server){cold}"


SPIN = Spin(client_us=50_000, server_us=50_000)
BLOCKING = Spin()


def spin_here() -> Spin:
    """`SPIN` where client, server and the engine's threads have a CPU each (four or more), else `BLOCKING`."""
    return SPIN if len(os.sched_getaffinity(0)) >= CPUS_TO_SPIN else BLOCKING


_READ_FLAGS = int(socket.MSG_DONTWAIT)


class Channel:
    """Sends and receives messages on a connected stream socket; `on_idle` is called each second without a message."""

    def __init__(
        self, connection: socket.socket, spin_us: int, on_idle: Callable[[], None], *, rehearse: bool = False
    ) -> None:
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", IDLE_S, 0))
        self._connection = connection
        self._spin_ns = spin_us * 1000
        self.on_idle = on_idle
        self._frames = Frames()
        self._taking = Taking() if rehearse else None
        self._rehearsal = Rehearsal(self._taking.parts if self._taking else ())

    def send(self, message: Message) -> None:
        """Send one message. Raises WireError when it can't be sent, OSError when nobody is there to take it."""
        self.send_frame(encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Send what `encode` made. Raises OSError when nobody is there to take it."""
        self._connection.sendall(frame)

    def receive(self) -> Message | None:
        """The next message, or None when the other side has closed the connection between two messages.

        Raises:
            WireError: what came is no message, or ended inside one.
            OSError: the connection broke.
        """
        while (body := self._frames.next()) is None:
            count = self._read(self._frames.room())
            if count:
                self._frames.came(count)
            elif self._frames.partial:
                raise WireError("the connection ended inside a frame")
            else:
                return None
        return decode(body)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._connection.close()
        if self._taking is not None:
            self._taking.close()

    def _read(self, room: memoryview) -> int:
        """Wait for bytes; how many came, 0 at the end of the stream."""
        if self._spin_ns:
            now = time.perf_counter_ns()
            until = now + self._spin_ns
            self._rehearsal.rest(now)
            while (now := time.perf_counter_ns()) < until:
                try:
                    return self._connection.recv_into(room, 0, _READ_FLAGS)
                except BlockingIOError:
                    self._rehearsal.due(now)
        while True:
            try:
                return self._connection.recv_into(room)
            except BlockingIOError:
                self.on_idle()


class Taking:
    """What a client that waits for its token does next, on a connection of its own: an answer read.

    Raises OSError where the system has no socket left.
    """

    def __init__(self) -> None:
        self._answer = encode(ANSWER)
        client, self._server = socket.socketpair()
        self._channel = Channel(client, 0, lambda: None)
        self.parts: tuple[Part, ...] = (self._take,)

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self._channel.close()
        self._server.close()

    def _take(self) -> None:
        self._server.send(self._answer)
        self._channel.receive()
