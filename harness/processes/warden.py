"""A small process beside a run that ends what the run's own process, if it is killed, can't end any more.

    python -m harness.processes.warden MARK

Workers and their servers end with their parent by the kernel's help; what an engine starts in a session of its own
does not. The warden hears of the end by the end of a pipe, whose other end only the parent holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.processes.leftovers import MARK, end_all, mark, remove_folders

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def warden() -> Iterator[None]:
    """While it is entered, and when this process is killed in it, nothing marked outlives this process."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  ours
            [sys.executable, "-S", "-m", "harness.processes.warden", mark()],
            cwd=ROOT,
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if key != MARK},  # it must outlive whoever is above
        )
    finally:
        os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        process.wait()


def main() -> None:
    """Wait for the parent's end, whatever it was, and clear up."""
    while os.read(0, 1):
        pass
    end_all(sys.argv[1])
    remove_folders(sys.argv[1])


if __name__ == "__main__":
    main()
