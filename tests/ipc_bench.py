"""A server and its clients in one thread: turns are taken by hand, and no time passes but what a test lets pass."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Sequence
from typing import ClassVar

from harness.contract import Capabilities, Case, Plan, Sampling, SetUp, Stats
from harness.ipc import messages as m
from harness.ipc.answers import Served
from harness.ipc.connection import Limits
from harness.ipc.frames import Frames
from harness.ipc.service import Service
from harness.ipc.wire import decode, encode
from tests.fakes import VOCABULARY, next_token

GREEDY = Sampling()


class ScriptedCase(Case):
    """Right tokens, a log of what was asked in which order, and a hook that tests act in."""

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}))

    def __init__(self) -> None:
        self.log: list[object] = []
        self.sequence: list[int] = []
        self.before = lambda: None
        self.capacity = 2**31

    def prepare(self, plan: Plan) -> SetUp:
        raise AssertionError("prepared before the first client")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        self.before()
        if prompt[0] == 666:
            raise RuntimeError("the engine failed")
        if len(prompt) + new_tokens > self.capacity:
            raise ValueError(f"the context is {self.capacity} tokens")
        self.log.append(("prefill", list(prompt)))
        self.sequence = list(prompt)
        return self._next()

    def decode(self) -> int:
        self.before()
        self.log.append(("decode", self.sequence[0]))
        return self._next()

    def use(self, sampling: Sampling) -> None:
        if not sampling.temperature > 0:
            raise ValueError("the temperature must be above 0")
        self.log.append(("use", sampling))

    def stats(self) -> Stats:
        return Stats(replays=len(self.log))

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        raise AssertionError("only benchmarks score")

    def close(self) -> None:
        self.log.append("close")

    def _next(self) -> int:
        self.sequence.append(next_token(self.sequence))
        return self.sequence[-1]


class Clock:
    """Nanoseconds that stand still until told."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Peer:
    """The other end of a connection: sends what it is told, remembers what came."""

    def __init__(self, service: Service, buffer: int | None = None) -> None:
        ours, self.socket = socket.socketpair()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.socket.setblocking(False)
        self.frames, self.ended = Frames(), False
        service.adopt(ours)

    def send(self, *requests: m.Message) -> None:
        self.socket.sendall(b"".join(encode(request) for request in requests))

    def received(self) -> list[m.Message]:
        """All that has come since the last call."""
        found: list[m.Message] = []
        while True:
            while (body := self.frames.next()) is not None:
                found.append(decode(body))
            try:
                count = self.socket.recv_into(self.frames.room())
            except BlockingIOError:
                return found
            except ConnectionResetError:
                count = 0
            if not count:
                self.ended = True
                return found
            self.frames.came(count)


class Bench:
    """A service over the scripted case, advanced by hand."""

    def __init__(self, **limits: float) -> None:
        self.case, self.clock = ScriptedCase(), Clock()
        served = Served(self.case, SetUp("scripted 1"), "no model", "/no/folder", VOCABULARY, GREEDY)
        self.service = Service("", served, Limits(**limits), 0, lambda: None, self.clock)  # type: ignore[arg-type]

    def peer(self, buffer: int | None = None) -> Peer:
        return Peer(self.service, buffer)

    def settle(self, turns: int = 400) -> None:
        """Until nothing is left to do."""
        self.service.clients.look(0.0)
        for _ in range(turns):
            if self.service.idle and not self.service.clients.look(0.0):
                return
            self.service.turn()
        raise AssertionError("the service does not come to rest")

    def close(self) -> None:
        self.service.stop()
        self.service.run()


def answer(prompt: Sequence[int], count: int) -> list[int]:
    sequence = list(prompt)
    for _ in range(count):
        sequence.append(next_token(sequence))
    return sequence[len(prompt) :]


def tokens(messages: Sequence[m.Message]) -> list[int]:
    return [message.token_id for message in messages if isinstance(message, m.Token)]
