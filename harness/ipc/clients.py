"""All clients of a server: reading, sending, taking and letting go, none of which waits for one of them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Container

from harness.ipc.answers import failure
from harness.ipc.connection import Clock, Connection, Limits, Overrun, S, Waiting
from harness.ipc.fields import WireError
from harness.ipc.tally import Tally

CHECK_S = 0.25
"""Seconds between two looks at clients' deadlines."""
_CREDENTIALS = struct.Struct("3i")
_HANGUP = select.EPOLLHUP | select.EPOLLERR


class Clients:
    """Connections, in the order of their turns.

    `on_leave` is called with each one that has gone. `busy` is the one whose answer is under way: it is kept although
    its client has sent all that it wants to. `error` is what the last malformed frame
    had wrong. `kinds`: messages that are parsed at all.
    """

    def __init__(
        self, limits: Limits, clock: Clock, tally: Tally, on_leave: Callable[[Connection], None],
        kinds: Container[type] | None,
    ) -> None:  # fmt: skip
        self.order: deque[Connection] = deque()
        self.busy: Connection | None = None
        self.error: WireError | None = None
        self._limits, self._clock, self._tally, self._on_leave = limits, clock, tally, on_leave
        self._kinds = kinds
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._listener: socket.socket | None = None
        self._checked_ns = clock()

    @property
    def listening(self) -> bool:
        """Whether more clients may come."""
        return self._listener is not None

    @property
    def only(self) -> Connection | None:
        """The one client, when there is no other and nothing to be done for it but to read."""
        if len(self.order) != 1:
            return None
        connection = self.order[0]
        return connection if connection.wants == select.EPOLLIN else None

    def listen(self, listener: socket.socket) -> None:
        """Take clients from a listening socket."""
        listener.setblocking(False)
        self._listener = listener
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def adopt(self, connected: socket.socket) -> None:
        """Take this client."""
        connection = Connection(connected, self._limits, self._clock, self._kinds)
        self._by_fd[connected.fileno()] = connection
        self.order.append(connection)
        connection.registered = connection.wants
        self._epoll.register(connected.fileno(), connection.registered)

    def send(self, connection: Connection, frame: bytes) -> None:
        """Send to a client that is still there; one that does not take it is hung up on."""
        if connection.gone:
            return
        try:
            connection.send_frame(frame)
        except Overrun as error:
            self.hang_up(connection, str(error))
        except OSError:
            self.drop(connection)

    def read(self, connection: Connection) -> bool:
        """Read what a client has sent; whether there was anything."""
        try:
            came = connection.read()
        except WireError as error:
            self.malformed(connection, error)
            return True
        except OSError:
            self.drop(connection)
            return True
        if came and (connection.full or connection.ended):
            self.after(connection)
        return came

    def take(self, connection: Connection) -> Waiting | None:
        """The request whose turn it is; None when what lay behind it was no message, which ends the connection."""
        try:
            return connection.take()
        except WireError as error:
            self.malformed(connection, error)
            return None

    def malformed(self, connection: Connection, error: WireError) -> None:
        """Hang up on a client that sent what is no message."""
        self.error = error
        self.hang_up(connection, f"the server could not read a request: {error}")

    def after(self, connection: Connection) -> None:
        """Wait for what this connection needs next; let go of it when that is nothing."""
        if connection.wants == connection.registered and not (connection.ended or connection.closing):
            return
        if connection.gone:
            return
        asked = connection.count or connection is self.busy
        done = connection.closing or (connection.ended and not asked)
        if done and not connection.unsent:
            self.drop(connection)
            return
        wants = connection.wants
        if wants != connection.registered:
            connection.registered = wants
            self._epoll.modify(connection.socket.fileno(), wants)

    def hang_up(self, connection: Connection, reason: str) -> None:
        """End a connection for what its client did, and tell it, if it still listens."""
        if connection.gone:
            return
        self._tally.dropped += 1
        with contextlib.suppress(OSError):
            connection.send_frame(failure("failed", reason))
        self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Forget a client."""
        del self._by_fd[connection.socket.fileno()]
        self._epoll.unregister(connection.socket.fileno())
        connection.close()
        self.order.remove(connection)
        self._on_leave(connection)

    def check_deadlines(self) -> None:
        """Hang up on clients that are overdue."""
        self._checked_ns = self._clock()
        for connection in list(self.order):
            if reason := connection.overdue():
                self.hang_up(connection, reason)

    def look(self, seconds: float) -> bool:
        """Read, send and accept what is ready now, or within `seconds`; whether there was anything."""
        events = self._epoll.poll(seconds)
        for number, event in events:
            connection = self._by_fd.get(number)
            if connection is None:
                self._accept()
            else:
                self._serve_event(connection, event)
        if self._clock() - self._checked_ns > CHECK_S * S:
            self.check_deadlines()
        return bool(events)

    def _serve_event(self, connection: Connection, event: int) -> None:
        if event & select.EPOLLIN:
            self.read(connection)
        if connection.gone:
            return
        if event & _HANGUP:
            self.drop(connection)
        elif event & select.EPOLLOUT:
            try:
                connection.flush()
            except OSError:
                self.drop(connection)
            else:
                self.after(connection)

    def _accept(self) -> None:
        """Take one new client, if it is this user's and there is room."""
        assert self._listener is not None  # noqa: S101  for the type checker
        try:
            connected, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        if peer_uid(connected) != os.getuid():
            self._tally.refused += 1
            connected.close()
        elif len(self.order) >= self._limits.clients and not self._make_room():
            self._tally.refused += 1
            with connected, contextlib.suppress(OSError):
                connected.setblocking(False)
                connected.send(failure("busy", f"the server has {self._limits.clients} clients already: try again"))
        else:
            self.adopt(connected)

    def _make_room(self) -> bool:
        """Hang up on who has been silent for longest, if that is too long; whether somebody was."""
        idle = [one for one in self.order if not (one.count or one.unsent or one is self.busy)]
        longest = min(idle, key=lambda one: one.heard_ns, default=None)
        if longest is None or self._clock() - longest.heard_ns <= self._limits.idle_s * S:
            return False
        self.hang_up(longest, f"silent for {self._limits.idle_s:g} s, and others want to connect")
        return True

    def close(self) -> None:
        """Hang up on all."""
        for connection in list(self.order):
            self.drop(connection)
        self._epoll.close()


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel says (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])
