"""Where the server's socket lies, and who may be there already."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from harness.ipc.address import PATH_LIMIT
from harness.ipc.server import check_private


def default_socket() -> Path:
    """In a folder of its own, this user's alone: below XDG_RUNTIME_DIR, or else in the user's cache."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path("~/.cache").expanduser()
    return base / "llm-latency-serve" / "socket"


def claim(path: Path) -> None:
    """Make room for a socket: its folder is made, private, and what an ended server left is removed.

    Raises:
        ValueError: the path is too long, or something else is there, or a server that lives.
    """
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise ValueError(f"--socket {path} is longer than {PATH_LIMIT} bytes: give a shorter path")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the folder of --socket {path} can't be made ({error.strerror}): give another path"
        ) from error
    check_private(path.parent)
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise ValueError(f"--socket {path} is there and no socket: give another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ValueError(f"a server listens at {path} already: end it with `stop`, or give another --socket")
