"""Clients of a server process: one that behaves and checks each answer, and a crowd that does not."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from harness.ipc import messages as m
from harness.ipc.address import connect
from harness.ipc.channel import Channel
from tests.fuzz_frames import Source
from tests.ipc_bench import answer

CROWD = 12
REMEMBERED = 2000
"""Pieces that were sent last, written down when the good client fails."""
HASTY_S, PATIENT_S = 0.05, 1.0
"""How long a connection of the crowd waits to be hung up on; the second is longer than a frame may take."""
READ = 1 << 16
PATIENCE_S = 30
"""Longest wait of the good client for one answer: nobody may take the engine for longer."""


class Good(threading.Thread):
    """Asks again and again, and checks every token. `error` is what went wrong, None while nothing did."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.error: BaseException | None = None
        self._waited = 0
        self._channel = Channel(connect(path), 0, self._idle)
        self._over, self._may, self._paused = threading.Event(), threading.Event(), threading.Event()
        self._may.set()

    def run(self) -> None:
        """Ask until told to stop."""
        try:
            while not self._over.is_set():
                if not self._may.is_set():
                    self._paused.set()
                    self._may.wait()
                    self._paused.clear()
                self.ask(self.answered)
        except BaseException as error:  # noqa: BLE001  the border of a thread: the test raises it
            self.error = error
            self._paused.set()

    def ask(self, number: int) -> None:
        """One request, streamed or whole. Raises AssertionError for any other answer than the right one."""
        prompt, count = [number % 1000 + 1, *range(number % 37)], 1 + number % 5
        wanted = answer(prompt, count)
        self._waited = 0
        self._channel.send(m.Generate(prompt, count, stream=number % 2 == 0))
        streamed: list[int] = []
        while isinstance(found := self._channel.receive(), m.Token):
            streamed.append(found.token_id)
        assert isinstance(found, m.Finished), found
        assert (found.reason, list(found.tokens)) == ("length", wanted)
        assert streamed == (wanted if number % 2 == 0 else [])
        self.answered += 1

    def status(self) -> m.Status:
        """How the server is."""
        self._channel.send(m.GetStatus())
        found = self._channel.receive()
        assert isinstance(found, m.StatusIs)
        return found.status

    def pause(self) -> None:
        """Wait until no request is under way, and ask none. Raises what went wrong."""
        self._may.clear()
        self._paused.wait()
        self.check()

    def go_on(self) -> None:
        """Ask again."""
        self._may.set()

    def stop(self) -> None:
        """Ask no more. Raises what went wrong."""
        self._over.set()
        self._may.set()
        self.join()
        self.check()

    def check(self) -> None:
        """Raises what went wrong."""
        if self.error is not None:
            raise self.error

    def _idle(self) -> None:
        self._waited += 1
        assert self._waited < PATIENCE_S, "the server does not answer the client that behaves"


class Bad:
    """One connection of the crowd: what it still has to send, and what it does then."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.socket = connect(path)
        self.socket.setblocking(False)
        self.left = memoryview(b"")
        self.frames = 0
        self.slow, self.end = False, "waited"
        self.bad = False
        self.until = 0.0

    def push(self) -> bytes:
        """Send more of it: all that the socket takes, or one byte. Raises OSError when the server has hung up."""
        piece = self.left[:1] if self.slow else self.left
        with suppress(BlockingIOError):
            sent = self.socket.send(piece)
            piece, self.left = piece[:sent], self.left[sent:]
            return bytes(piece)
        return b""

    def take(self) -> bool:
        """Read what is here; whether the server still holds the connection."""
        with suppress(BlockingIOError):
            return bool(self.socket.recv(READ))
        return True


class Crowd:
    """Connections that send batches of frames; `ways` counts how, and how they ended.

    A frame that is no message comes last in its batch, so that the server reads all before it.
    """

    def __init__(self, path: Path, source: Source, record: Path) -> None:
        self.source, self.record = source, record
        self.frames = self._made = 0
        self.ways: dict[str, int] = {}
        self._path = path
        self._members: list[Bad] = []
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)

    def send(self, frames: int, good: Good) -> None:
        """Until so many frames were sent since the beginning. Raises what the good client found, after writing down."""
        try:
            while self.frames < frames:
                while len(self._members) < CROWD:
                    self._members.append(Bad(self._path, self._made))
                    self._made += 1
                self._act(self.source.draw.choice(self._members))
                good.check()
        except (OSError, AssertionError):
            lines = [f"{number} {data.hex()}" for number, data in self._sent]
            self.record.write_text("\n".join(lines), encoding="utf-8")
            print(f"sent last, connection and hex; all {len(lines)} are in {self.record}:", *lines[-20:], sep="\n")
            raise

    def leave(self) -> None:
        """Close all connections."""
        while self._members:
            self._members.pop().socket.close()

    def _act(self, member: Bad) -> None:
        draw = self.source.draw
        try:
            if member.until:
                self._wait(member)
                return
            if not member.left:
                self._refill(member)
            if piece := member.push():
                self._sent.append((member.number, piece))
            if not member.left:
                self._batch_is_sent(member)
            elif member.end != "deaf" and not member.slow and not member.take():
                self._drop(member, "waited")
            elif draw.random() < 0.002:
                self._drop(member, "closed amid")
        except (BrokenPipeError, ConnectionResetError):
            self._drop(member, "waited")

    def _refill(self, member: Bad) -> None:
        """A batch of messages, and perhaps what is none behind them."""
        draw, source = self.source.draw, self.source
        parts = [source.valid() for _ in range(draw.randrange(8))]
        bad = not parts or draw.random() < 0.7
        if bad:
            parts.append(source.bad())
        member.bad = bad
        member.slow = draw.random() < 0.02 and sum(map(len, parts)) < 2000
        member.left, member.frames = memoryview(b"".join(parts)), len(parts)
        ends = ["closed amid", "half-closed", "deaf", *["waited"] * 9] if bad else ["deaf", *["waited"] * 19]
        member.end = draw.choice(ends)

    def _batch_is_sent(self, member: Bad) -> None:
        self.frames += member.frames
        way = "slow" if member.slow else "batch"
        self.ways[way] = self.ways.get(way, 0) + 1
        if member.end == "closed amid":
            self._drop(member, member.end)
        elif member.end == "half-closed":
            member.socket.shutdown(socket.SHUT_WR)
            member.take()
            self._drop(member, member.end)
        elif member.end == "deaf":
            self.ways["deaf"] = self.ways.get("deaf", 0) + 1
            if self.source.draw.random() < 0.2:
                self._drop(member, "closed amid")
        else:
            patience = PATIENT_S if self.source.draw.random() < 0.01 else HASTY_S
            member.until = time.monotonic() + patience if member.bad else 0.0

    def _wait(self, member: Bad) -> None:
        """Be hung up on, or go after a while."""
        if not member.take() or time.monotonic() > member.until:
            self._drop(member, "waited")
        elif all(other.until for other in self._members):
            time.sleep(0.001)

    def _drop(self, member: Bad, way: str) -> None:
        self.ways[way] = self.ways.get(way, 0) + 1
        member.socket.close()
        self._members.remove(member)


def sent_again(path: Path, record: Path) -> str:
    """Send what was written down, with a request of a good client behind each piece; the first that fails."""
    good, members = Good(path), {}
    for place, line in enumerate(record.read_text(encoding="utf-8").splitlines()):
        number, data = line.split()
        member = members.setdefault(number, connect(path))
        member.settimeout(1.0)
        with suppress(OSError):
            member.sendall(bytes.fromhex(data))
        try:
            good.ask(place)
        except (OSError, AssertionError) as error:
            return f"line {place + 1}, {data[:200]}: {type(error).__name__}: {error}"
    return "every request of the client that behaves was answered right"
