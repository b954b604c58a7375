"""The process behind the socket of a benchmark: one case, one client, requests answered in order.

    python -m harness.ipc.server --socket PATH --target DOTTED --parent PID --ready-fd FD --spin-us N

It lives no longer than its client: it ends on Close, when the connection ends, and when the parent process dies.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import stat
from pathlib import Path

from harness.ipc.clients import peer_uid
from harness.ipc.connection import OWNED
from harness.ipc.service import Service
from harness.processes.orphan import die_with_parent

BACKLOG = 64


def check_private(folder: Path) -> None:
    """Raises ValueError when a folder is open to others than this user."""
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ValueError(f"the socket's folder {folder} must be this user's and closed to others: chmod 700 it")


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`. Raises ValueError when its folder is open to others than this user."""
    check_private(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    """The first connection by a process of this user; others are hung up on."""
    while True:
        connection, _ = listener.accept()
        if peer_uid(connection) == os.getuid():
            return connection
        connection.close()


def arguments() -> argparse.Namespace:
    """The command line, which only the client writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen, inside a folder of mode 0700")
    parser.add_argument("--target", required=True, help="dotted name of the case's class")
    parser.add_argument("--parent", type=int, required=True, help="process that this one must not outlive")
    parser.add_argument("--ready-fd", type=int, required=True, help="one byte is written here once it listens")
    parser.add_argument("--spin-us", type=int, required=True, help="microseconds of polling before a wait blocks")
    parser.add_argument("--no-rehearsals", action="store_true", help="let the path of a request go cold while polling")
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

    service = Service(args.target, None, OWNED, args.spin_us, check_parent, rehearse=not args.no_rehearsals)
    service.adopt(connection)
    service.run()


if __name__ == "__main__":
    main()
