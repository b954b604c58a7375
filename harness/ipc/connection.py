"""One client as the server sees it: frames in, frames out, never waiting for either."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from select import EPOLLIN, EPOLLOUT
from typing import NamedTuple

from harness.contract import Sampling
from harness.ipc import messages as m
from harness.ipc.fields import WireError
from harness.ipc.frames import Frames
from harness.ipc.wire import FRAME_LIMIT, ITEMS_LIMIT, decode, kind_of

Clock = Callable[[], int]
"""Nanoseconds from some moment on."""

S = 1_000_000_000
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_READ_FLAGS = int(socket.MSG_DONTWAIT)


@dataclass(frozen=True)
class Limits:
    """What one client may take of a server; beyond it that client is refused or hung up on, and nobody else.

    `frame_bytes`: the longest request. `waiting` and `waiting_bytes`: requests that are read before their turn, by
    count and by size on the wire (one request is read whatever its size); what comes on top stays in the socket.
    `unread_bytes`: answers that the client has not taken. `frame_s`: how long a frame may take to come. `stall_s`: how
    long a client may take nothing while answers wait for it. `hold_s`: how long a client that takes a sequence token
    by token may be silent while others wait for the engine, and `held_s` that in sum over one sequence. `items`: of one
    list in a request. `messages_s`: messages within a second, those that are answered without the engine too. `idle_s`:
    who was silent for so long makes room when all places are taken and another comes.
    """

    clients: int = 32
    frame_bytes: int = 1 << 20
    waiting: int = 64
    waiting_bytes: int = 1 << 20
    unread_bytes: int | None = 8 << 20
    frame_s: float = 10.0
    stall_s: float = 10.0
    hold_s: float = 10.0
    held_s: float = 60.0
    items: int = 16
    messages_s: float = 20_000
    idle_s: float = 60.0


OWNED = Limits(
    clients=1,
    frame_bytes=FRAME_LIMIT,
    unread_bytes=None,
    frame_s=float("inf"),
    stall_s=float("inf"),
    hold_s=float("inf"),
    held_s=float("inf"),
    items=ITEMS_LIMIT,
    messages_s=float("inf"),
    idle_s=float("inf"),
)
"""Of a server that belongs to one client: it waits for it as long as that lives."""


class Overrun(ConnectionError):
    """The client does not take its answers."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Stands in the queue for a Generate whose client has cancelled it."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Stands in the queue for a message that this server has no answer to; it was not even parsed."""

    name: str


class Waiting(NamedTuple):
    """A request that was read, its size on the wire, and when it came."""

    request: m.Message | Cancelled | Unanswered
    size: int
    came_ns: int


class Connection:
    """A connected socket, and what it waits for.

    `ended`: the client sends no more. `gone`: it takes no more either, or was hung up on. `closing`: to be hung up on
    when its answers are sent. `full`: no more requests are read for now. `cancel`: its client has cancelled, until the
    next Generate starts. `sampling`: what it chose by Use, None before. `registered`: the epoll events that are waited
    for, which is the business of who waits. `taken_ns`: when the request that was taken last had come. `heard_ns`: when
    the client last sent something.
    """

    def __init__(
        self, connected: socket.socket, limits: Limits, clock: Clock, kinds: Container[type] | None = None
    ) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.ended = self.gone = self.cancel = self.closing = False
        self.sampling: Sampling | None = None
        self.registered = 0
        self._limits, self._clock, self._kinds = limits, clock, kinds
        self._frames = Frames(limits.frame_bytes)
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = self._generates = 0
        self.full = False
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._since_ns = self._stalled_ns = self.taken_ns = 0
        self.heard_ns = self._second_ns = clock()
        self._messages = 0

    @property
    def first(self) -> m.Message | Cancelled | Unanswered | None:
        """The request whose turn is next in this connection."""
        return self._waiting[0].request if self._waiting else None

    @property
    def came_ns(self) -> int:
        """When that request came. There must be one."""
        return self._waiting[0].came_ns

    @property
    def count(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def unsent(self) -> bool:
        """Whether answers wait for the client to take them."""
        return bool(self._unsent)

    @property
    def wants(self) -> int:
        """The epoll events that would let this connection go on."""
        reads = 0 if self.ended or self.closing or self.full else EPOLLIN
        return reads | (EPOLLOUT if self._unsent else 0)

    def read(self) -> bool:
        """Take what is here; whether something was. Raises WireError for what is no message, OSError at a break."""
        try:
            count = self.socket.recv_into(self._frames.room(), 0, _READ_FLAGS)
        except BlockingIOError:
            return False
        if count:
            now = self.heard_ns = self._clock()
            if not self._frames.partial:
                self._since_ns = now
            self._frames.came(count)
            self._cut(now)
            return True
        self.ended = True
        if self._frames.partial:
            raise WireError("the connection ended inside a frame")
        return True

    def take(self) -> Waiting:
        """The request whose turn it is; room for another is used at once. Raises WireError as `read` does."""
        taken = self._waiting.popleft()
        self.taken_ns = taken.came_ns
        self._waiting_bytes -= taken.size
        self._generates -= type(taken.request) is m.Generate
        if self.full:
            self.full = False
            if not self.closing:
                # What is here of a frame could not be read on: its time begins now.
                self._since_ns = self._clock()
                self._cut(self._since_ns)
        return taken

    def send_frame(self, frame: bytes) -> None:
        """Send what the socket takes now, keep the rest. Raises Overrun for too much of it, OSError at a break."""
        sent = 0
        if not self._unsent:
            sent = self._send(frame)
            if sent == len(frame):
                return
            self._stalled_ns = self._clock()
        self._unsent.append(memoryview(frame)[sent:])
        self._unsent_bytes += len(frame) - sent
        limit = self._limits.unread_bytes
        if limit is not None and self._unsent_bytes > limit:
            raise Overrun(f"the client left more than {limit} bytes unread")

    def flush(self) -> None:
        """Send more of what is kept. Raises OSError at a break."""
        while self._unsent:
            head = self._unsent[0]
            sent = self._send(head)
            if sent:
                self._unsent_bytes -= sent
                self._stalled_ns = self._clock()
            if sent < len(head):
                self._unsent[0] = head[sent:]
                return
            self._unsent.popleft()

    def overdue(self) -> str:
        """Why the client has to be hung up on now, "" when it has not."""
        now = self._clock()
        if self._frames.partial and not self.full and now - self._since_ns > self._limits.frame_s * S:
            return f"a frame took longer than {self._limits.frame_s:g} s to come"
        if self._unsent and now - self._stalled_ns > self._limits.stall_s * S:
            return f"no answer was taken for {self._limits.stall_s:g} s"
        return ""

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.gone = True
        self._waiting.clear()
        self._unsent.clear()
        self.socket.close()

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data, _SEND_FLAGS)
        except BlockingIOError:
            return 0

    def _cut(self, now: int) -> None:
        """Requests out of the bytes that are here, as many as may wait."""
        limits = self._limits
        while not self.full and (body := self._frames.next()) is not None:
            size, message = len(body), self._parse(body)
            self._since_ns = now
            self._count_message(now)
            if type(message) is m.Cancel:
                self._cancel()
                continue
            self._generates += type(message) is m.Generate
            self._waiting.append(Waiting(message, size, now))
            self._waiting_bytes += size
            self.full = len(self._waiting) >= limits.waiting or self._waiting_bytes >= limits.waiting_bytes

    def _parse(self, body: memoryview) -> m.Message | Unanswered:
        """The message, if it is of a kind that is answered here: what is not may take long to parse."""
        if self._kinds is not None:
            kind = kind_of(body)
            if kind not in self._kinds:
                return Unanswered(kind.__name__)
        return decode(body, self._limits.items)

    def _count_message(self, now: int) -> None:
        """Raises WireError for more messages within a second than any engine answers."""
        if now - self._second_ns >= S:
            self._second_ns, self._messages = now, 0
        self._messages += 1
        if self._messages > self._limits.messages_s:
            raise WireError(f"more than {self._limits.messages_s:g} messages came within a second")

    def _cancel(self) -> None:
        self.cancel = True
        if self._generates == 0:
            return
        self._generates = 0
        for place, waiting in enumerate(self._waiting):
            if type(waiting.request) is m.Generate:
                self._waiting[place] = waiting._replace(request=Cancelled())
