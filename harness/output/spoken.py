"""What a command prints, where standard output does not take it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

FAILED = 1


def spoken(command: Callable[[], int | None]) -> int:
    """The exit code of `command`, 0 for None; FAILED where standard output took not all of what it printed.

    A full device is told in one sentence. A reader who has closed the pipe has seen enough, and is told nothing. Who
    closed standard output itself (`>&-`) wants nothing printed: `command` goes on without.
    """
    try:
        try:
            code = command()
        except SystemExit:  # argparse ends so when it has printed its help
            flush()
            raise
        flush()
    except OSError as error:
        if not deaf():
            raise
        if not isinstance(error, BrokenPipeError):
            print(f"error: standard output does not take what this command prints: {error.strerror}", file=sys.stderr)
        return FAILED
    return code or 0


def flush() -> None:
    """Hand over what is printed. Raises OSError; Python has no standard output at all where that was closed."""
    if sys.stdout is not None:
        sys.stdout.flush()


def deaf() -> bool:
    """Whether standard output takes nothing; then it is let go, for Python writes the rest to it when it ends."""
    try:
        print(flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False
