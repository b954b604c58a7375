"""The loop of a server: it reads requests, gives the engine to one client at a time, and sends what comes of it.

One thread does all of it, the engine's calls too: one sequence is on the GPU at a time, and whoever else sends
something meanwhile is read between two tokens.
"""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable

from harness.contract import REHEARSE_NS
from harness.ipc import messages as m
from harness.ipc.answers import Answers, Served, failure
from harness.ipc.clients import Clients
from harness.ipc.connection import Cancelled, Clock, Connection, Limits, Unanswered, Waiting
from harness.ipc.generation import Generation
from harness.ipc.rehearsal import Rehearsal, Serving
from harness.ipc.tally import Tally
from harness.ipc.turns import Turns
from harness.ipc.wire import encode

IDLE_S = 0.25
"""Longest sleep: then deadlines are looked at, and whether the service should end."""
LOOKS = 64
"""Spins on an only client's socket between two looks at the listening one."""
ALONE_NS = 5 * REHEARSE_NS
"""Quiet behind a client's Rehearse, before the server rehearses by itself: a client that does so goes on with it."""
FAREWELL_S = 2.0
"""How long clients may take their last answers when the server stops."""


class Service:
    """Clients, their turns, and the case that answers them.

    With `served` it takes clients from a listening socket until `stop`; without, it belongs to the one client that it
    is given (`adopt`), prepares `target` for it and ends with it. `on_idle` is called after each quiet IDLE_S.
    """

    def __init__(
        self,
        target: str,
        served: Served | None,
        limits: Limits,
        spin_us: int = 0,
        on_idle: Callable[[], None] = lambda: None,
        clock: Clock = time.perf_counter_ns,
        *,
        rehearse: bool = True,
    ) -> None:
        self._clock, self._spin_ns, self._on_idle = clock, spin_us * 1000, on_idle
        self._shared = served is not None
        self.tally = Tally(clock)
        kinds: set[type] = set()
        self.clients = Clients(limits, clock, self.tally, self._left, kinds if self._shared else None)
        self._turns = Turns(self.clients.order, clock, limits.hold_s, limits.held_s)
        self._answers = Answers(target, served, self._turns, self.tally, clock)
        kinds |= {*self._answers.handlers, m.Generate, m.Cancel, m.GetStatus, m.Close, m.Shutdown}
        self._running: Generation | None = None
        self._stopping = self._drowsy = self._prompted = False
        self._serving = Serving(self._answers.understudy(), self._answers.rehearse) if rehearse and spin_us else None
        self._rehearsal = Rehearsal(self._serving.parts if self._serving else ())
        if self._serving is not None:
            self._answers.keep_warm(Rehearsal((self._serving.reply,)).due)
        self._spins = self._collected = 0

    def listen(self, listener: socket.socket) -> None:
        """Take clients from a listening socket."""
        self.clients.listen(listener)

    def adopt(self, connected: socket.socket) -> None:
        """Take this client."""
        self.clients.adopt(connected)

    def run(self) -> None:
        """Serve until `stop`, a Shutdown, or the end of the only client.

        Raises:
            WireError: the only client sent what is no message; it was told.
        """
        try:
            while not self._stopping:
                self.turn()
        finally:
            if self._serving is not None:
                self._serving.close()
            self._answers.close()
            self._farewell()
        if self.clients.error is not None and not self._shared:
            raise self.clients.error

    def stop(self) -> None:
        """End `run` soon: after the token that is being made. May be called from a signal handler."""
        self._stopping = True

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do before something comes."""
        return self._running is None and not self._turns.any

    def turn(self) -> None:
        """One token, one answer, or one wait for something to do."""
        if self._running is not None:
            self._advance(self._running)
        elif (connection := self._turns.next()) is not None:
            self._answer(connection)
        else:
            self._wait()
            return
        if self._shared:
            self.clients.look(0.0)
            # One a client: who asks for nothing but the status, again and again, delays the others' tokens by that.
            for connection in self._turns.at_once(self.clients.busy):
                if not self._stopping:
                    self._answer(connection)

    def _answer(self, connection: Connection) -> None:
        waiting = self.clients.take(connection)
        if waiting is None:
            return
        request = waiting.request
        kind = type(request)
        if kind in self._answers.handlers:
            for frame in self._answers.to(connection, request):
                self.clients.send(connection, frame)
            for frame in self._answers.afterwards(connection):
                self.clients.send(connection, frame)
        elif kind is m.Generate:
            self._start(connection, waiting)
        elif kind is Cancelled:
            self.tally.cancelled += 1
            timing = m.Timing(queue_ns=self._clock() - waiting.came_ns)
            self.clients.send(connection, encode(m.Finished("cancelled", (), timing)))
        elif kind is m.Close or kind is m.Shutdown:
            self._close(connection, request)
        elif kind is m.GetStatus:
            waits = sum(other.count for other in self.clients.order)
            self.clients.send(connection, encode(self._answers.status(len(self.clients.order), waits)))
        else:
            told = f"this server does not answer {request.name if isinstance(request, Unanswered) else kind.__name__}"
            self.clients.send(connection, failure("unsupported", told))
        self._prompted = kind is m.Rehearse
        self.clients.after(connection)

    def _start(self, connection: Connection, waiting: Waiting) -> None:
        self._turns.release(connection)
        self._running = Generation(connection, waiting, self._answers, self._clock)
        self.clients.busy = connection

    def _advance(self, generation: Generation) -> None:
        """The next token of the running answer, or its end."""
        connection = generation.connection
        reason = generation.over()
        if reason is None:
            before = generation.count
            for frame in self._answers.guarded(generation.step, connection):
                self.clients.send(connection, frame)
            self.clients.after(connection)  # what its socket did not take goes out as soon as it does
            if generation.count == before:
                self._running = self.clients.busy = None
                self.clients.after(connection)
                return
            reason = generation.over()
        if reason is not None:
            self._finish(generation, reason)

    def _finish(self, generation: Generation, reason: m.Reason) -> None:
        self._running = self.clients.busy = None
        if reason in ("length", "stop"):
            self.tally.served += 1
        else:
            self.tally.cancelled += 1
        self.clients.send(generation.connection, encode(generation.finished(reason)))
        self.clients.after(generation.connection)

    def _close(self, connection: Connection, request: object) -> None:
        """The client goes, and with it a server that is its own; or it ends a server for all."""
        if not self._shared:
            self._stopping = True
            frames = self._answers.guarded(self._closed, connection)
        else:
            self._stopping = self._stopping or isinstance(request, m.Shutdown)
            frames = [encode(m.Closed())]
        for frame in frames:
            self.clients.send(connection, frame)
        connection.closing = True

    def _closed(self) -> list[bytes]:
        self._answers.close()
        return [encode(m.Closed())]

    def _wait(self) -> None:
        """Until something may have come: polling at first, as to be woken costs more than a message, then asleep.

        Who was asleep and heard nothing goes on sleeping: an idle server takes no processor.
        """
        if not self._drowsy and self._polled():
            return
        if self._stopping:
            return
        self._drowsy = not self.clients.look(IDLE_S)
        if self._drowsy:
            self._rest()

    def _polled(self) -> bool:
        """Poll for a while; whether something came. The request of an only client is answered at once."""
        only = self.clients.only
        now = self._clock()
        until = now + self._spin_ns
        self._rehearsal.rest(now + ALONE_NS if self._prompted else now)
        while not self._stopping and (now := self._clock()) < until:
            if only is None:
                came = self.clients.look(0.0)
            else:
                came = self.clients.read(only)
                if came and only.count:
                    self._answer(only)  # nobody else could be before it
                    return True
                self._spins += 1
                if self.clients.listening and self._spins % LOOKS == 0:
                    came = self.clients.look(0.0) or came
            if came:
                return True
            self._rehearsal.due(now)
        return False

    def _rest(self) -> None:
        """A quiet moment. Garbage is collected here and in no request, if there were any since the last time."""
        self._on_idle()
        if self._shared and self.tally.tokens != self._collected:
            self._collected = self.tally.tokens
            gc.collect()

    def _farewell(self) -> None:
        """Tell clients that the server stops, give them a moment to take it, hang up."""
        if self._running is not None:
            self._finish(self._running, "stopped")
        for connection in list(self.clients.order):
            if self._shared:
                for _ in range(connection.count):
                    self.clients.send(connection, failure("unavailable", "the server is stopping"))
            connection.closing = True
            self.clients.after(connection)
        until = time.monotonic() + FAREWELL_S
        while self.clients.order and time.monotonic() < until:
            self.clients.look(IDLE_S)
        self.clients.close()

    def _left(self, connection: Connection) -> None:
        """A client has gone. Its running answer ends at the next step; a server that is its own ends too."""
        self._turns.release(connection)
        if not self._shared:
            self._stopping = True
