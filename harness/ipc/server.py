"""The process behind the socket: one case, one client, requests answered in order.

    python -m harness.ipc.server --socket PATH --target DOTTED --parent PID --ready-fd FD --spin-us N

It lives no longer than its client: it ends on Close, when the connection ends, and when the parent process dies.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import stat
import struct
import time
import traceback
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.contract import Case, Unavailable, Unsupported
from harness.ipc import messages as m
from harness.ipc.channel import Channel
from harness.ipc.fields import TEXT_LIMIT, WireError
from harness.ipc.wire import encode
from harness.loader import load_case
from harness.orphan import die_with_parent

_CREDENTIALS = struct.Struct("3i")


class Server:
    """Answers the messages of one client with the calls of one case."""

    def __init__(self, target: str, channel: Channel) -> None:
        self._target = target
        self._channel = channel
        self._case: Case | None = None
        self._ready = False
        self._open = True
        self._server_ns = 0
        self._handlers: dict[type, Callable[[Any], list[m.Message]]] = {
            m.Prepare: self._prepare,
            m.Prefill: self._prefill,
            m.Decode: self._decode,
            m.Score: self._score,
            m.GetFootprint: self._footprint,
            m.Use: self._use,
            m.GetCaptures: self._captures,
            m.Evict: self._evict,
            m.Close: self._close,
        }

    def serve(self) -> None:
        """Answer until the client closes or goes away. A frame that is no message ends the service: the stream is lost.

        Raises:
            WireError: after a Failure that says so has been sent.
        """
        try:
            while self._open:
                try:
                    request = self._channel.receive()
                except WireError as error:
                    self._channel.send(m.Failure("failed", f"the server could not read a request: {error}"))
                    raise
                if request is None:
                    return
                for frame in self._answer(request):
                    self._channel.send_frame(frame)
        finally:
            if self._case is not None:
                self._case.close()

    def _answer(self, request: m.Message) -> list[bytes]:
        """Frames ready to send: what a case gives that can't be sent is a failure of the case too."""
        try:
            handler = self._handlers.get(type(request))
            if handler is None:
                raise RuntimeError(f"a server does not answer {type(request).__name__}")
            return [encode(answer) for answer in handler(request)]
        except Unavailable as error:
            return [_failure("unavailable", str(error))]
        except Unsupported as error:
            return [_failure("unsupported", str(error))]
        except WireError as error:
            return [_failure("failed", f"WireError: {error}")]
        except ValueError as error:
            return [_failure("invalid", str(error))]
        except Exception as error:  # noqa: BLE001  the border of the process: whatever it was, the client is told
            traceback.print_exc()
            return [_failure("failed", f"{type(error).__name__}: {error}")]

    def _prepare(self, request: m.Prepare) -> list[m.Message]:
        if self._case is not None:
            raise RuntimeError("prepare was called twice")
        self._case = load_case(self._target)()
        setup = self._case.prepare(request.plan)
        # What lives now lives on; from here nothing is collected inside a request (see _footprint and _score).
        gc.collect()
        gc.freeze()
        gc.disable()
        self._ready = True
        return [m.Ready(setup, self._case.stats())]

    def _prepared(self) -> Case:
        if self._case is None or not self._ready:
            raise RuntimeError("the case is not prepared")
        return self._case

    def _prefill(self, request: m.Prefill) -> list[m.Message]:
        case = self._prepared()
        started = time.perf_counter_ns()
        token = case.prefill(request.prompt, request.new_tokens)
        self._server_ns += time.perf_counter_ns() - started
        return [m.Token(token, case.stats()._replace(server_ns=self._server_ns))]

    def _decode(self, _: m.Decode) -> list[m.Message]:
        case = self._prepared()
        started = time.perf_counter_ns()
        token = case.decode()
        self._server_ns += time.perf_counter_ns() - started
        return [m.Token(token, case.stats()._replace(server_ns=self._server_ns))]

    def _score(self, request: m.Score) -> list[m.Message]:
        rows = self._prepared().score(request.prompt, request.forced)
        gc.collect()
        if len(rows) != len(request.forced) + 1 or any(row.typecode != "f" for row in rows):
            raise RuntimeError(f"score gave {len(rows)} rows, wanted are {len(request.forced) + 1} of float32")
        return [m.Logits(array("f", row).tobytes()) for row in rows]

    def _footprint(self, _: m.GetFootprint) -> list[m.Message]:
        gc.collect()
        return [m.FootprintIs(self._prepared().footprint())]

    def _use(self, request: m.Use) -> list[m.Message]:
        self._prepared().use(request.sampling)
        return [m.Used()]

    def _captures(self, _: m.GetCaptures) -> list[m.Message]:
        return [m.CapturesAre(self._prepared().captured())]

    def _evict(self, _: m.Evict) -> list[m.Message]:
        case = self._prepared()
        return [m.Evicted(case.evict(), case.stats()._replace(server_ns=self._server_ns))]

    def _close(self, _: m.Close) -> list[m.Message]:
        self._open = False
        if self._case is not None:
            self._case.close()
        return [m.Closed()]


def _failure(kind: m.FailureKind, message: str) -> bytes:
    """The frame of a Failure that can be sent, whatever text the exception holds."""
    return encode(m.Failure(kind, message[:TEXT_LIMIT].encode("utf-8", "replace").decode()))


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`. Raises ValueError when its folder is open to others than this user."""
    folder = path.parent.stat()
    if folder.st_uid != os.getuid() or stat.S_IMODE(folder.st_mode) & 0o077:
        raise ValueError(f"the socket's folder {path.parent} must be this user's and closed to others: chmod 700 it")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    """The first connection by a process of this user; others are hung up on."""
    while True:
        connection, _ = listener.accept()
        if peer_uid(connection) == os.getuid():
            return connection
        connection.close()


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel says (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[1]


def arguments() -> argparse.Namespace:
    """The command line, which only the client writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen, inside a folder of mode 0700")
    parser.add_argument("--target", required=True, help="dotted name of the case's class")
    parser.add_argument("--parent", type=int, required=True, help="process that this one must not outlive")
    parser.add_argument("--ready-fd", type=int, required=True, help="one byte is written here once it listens")
    parser.add_argument("--spin-us", type=int, required=True, help="microseconds of polling before a wait blocks")
    return parser.parse_args()


def main() -> None:
    """Listen, say so, serve one client. The socket is unlinked as soon as the client is connected."""
    args = arguments()
    die_with_parent(args.parent)
    # An interrupt from the terminal reaches the whole process group; the client ends its server in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = listen(args.socket)
    try:
        os.write(args.ready_fd, b"1")
        os.close(args.ready_fd)
        connection = accept(listener)
    finally:
        listener.close()
        args.socket.unlink()

    def check_parent() -> None:
        if os.getppid() != args.parent:
            raise SystemExit("the client is gone")

    channel = Channel(connection, args.spin_us, check_parent)
    try:
        Server(args.target, channel).serve()
    except ConnectionError:
        raise SystemExit("the client is gone") from None
    finally:
        channel.close()


if __name__ == "__main__":
    main()
