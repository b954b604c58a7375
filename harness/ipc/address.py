"""Where a Unix socket lies, and a connection to it."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from harness.processes.leftovers import MARK, socket_prefix

PATH_LIMIT = 107
"""Bytes in the path of a Unix socket (sun_path is 108 with its end)."""


def connect(path: Path) -> socket.socket:
    """A connection to the server that listens at `path`. Raises OSError when none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def private_folder() -> Path:
    """A new folder for a socket, mode 0700. Raises ValueError when the folder for temporary files lies too deep."""
    folder = Path(tempfile.mkdtemp(prefix=socket_prefix(os.environ.get(MARK))))
    if len(os.fsencode(folder / "s")) > PATH_LIMIT:
        folder.rmdir()
        raise ValueError(f"TMPDIR is too long for a Unix socket ({PATH_LIMIT} bytes): set it to a shorter path")
    return folder
