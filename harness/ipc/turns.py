"""Whose turn it is: round robin over clients, one request each, and a hold for who takes a sequence token by token."""

from __future__ import annotations

from collections import deque

from harness.ipc import messages as m
from harness.ipc.connection import Cancelled, Clock, Connection, S

AT_ONCE = (m.GetStatus, m.Shutdown)
"""Requests that need no engine: answered even while it works for somebody else."""


class Turns:
    """Picks from the connections in `order`, which it turns.

    A Prefill of more than one token gives its client a hold: only that client's requests reach the engine until its
    tokens are taken, it asks for something else, it goes, or it was silent for `hold_s` while others wait, or for
    `held_s` in sum over its sequence.
    """

    def __init__(self, order: deque[Connection], clock: Clock, hold_s: float, held_s: float = float("inf")) -> None:
        self._order = order
        self._clock, self._hold_s, self._held_s = clock, hold_s, held_s
        self._silent_ns = 0
        self._holder: Connection | None = None
        self._left = 0
        self._since_ns = 0

    @property
    def held(self) -> bool:
        """Whether a client holds the engine."""
        return self._holder is not None

    @property
    def any(self) -> bool:
        """Whether a request could be answered now."""
        self._settle()
        return any(self._due(connection) for connection in self._order)

    def next(self) -> Connection | None:
        """The connection whose first request is to be answered now, None when there is none."""
        self._settle()
        order = self._order
        for _ in range(len(order)):
            connection = order[0]
            order.rotate(-1)
            if self._due(connection):
                return connection
        return None

    def at_once(self, busy: Connection | None) -> list[Connection]:
        """Connections whose first request needs no engine. Not the `busy` one: its answers keep their order."""
        kinds = (*AT_ONCE, Cancelled)
        return [found for found in self._order if found is not busy and isinstance(found.first, kinds)]

    def hold(self, connection: Connection, tokens: int) -> None:
        """`tokens` more will be taken by this client."""
        self._holder, self._left = (connection, tokens) if tokens > 0 else (None, 0)
        self._since_ns, self._silent_ns = self._clock(), 0

    def taken(self) -> None:
        """The holder has taken a token."""
        if self._holder is not None:
            silent_ns = self._silent_ns + self._silence(self._holder, self._holder.taken_ns)
            self.hold(self._holder, self._left - 1)
            self._silent_ns = silent_ns

    def release(self, connection: Connection | None = None) -> None:
        """The hold is over: that of `connection`, or whoever's it is."""
        if connection is None or connection is self._holder:
            self._holder = None

    def _due(self, connection: Connection) -> bool:
        first = connection.first
        return first is not None and (isinstance(first, AT_ONCE) or self._may(connection))

    def _may(self, connection: Connection) -> bool:
        return self._holder is None or self._holder is connection

    def _settle(self) -> None:
        """End a hold that its client has given up, by asking for something else or by silence while others wait."""
        holder = self._holder
        if holder is None:
            return
        if holder.first is None:
            now = self._clock()
            silent = now - self._since_ns > self._hold_s * S and any(other.first is not None for other in self._order)
            given_up = silent or self._silent_ns + self._silence(holder, now) > self._held_s * S
        else:
            given_up = not isinstance(holder.first, (m.Decode, m.Rehearse, *AT_ONCE))
        if given_up:
            self._holder = None

    def _silence(self, holder: Connection, until_ns: int) -> int:
        """Nanoseconds before `until_ns` in which the holder had its token, asked for none, and others waited."""
        came = [other.came_ns for other in self._order if other is not holder and other.first is not None]
        return max(0, until_ns - max(self._since_ns, min(came))) if came else 0
