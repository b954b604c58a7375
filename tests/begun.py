"""A run of fake cases as a process that a test may signal or kill."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.processes.leftovers import marked, stat_of
from tests.runs import ROOT, execute_in

DEADLINE_S = 90


class Fork:
    """A run as a fork of this process, which has imported what a run needs: it begins at once. As a Popen otherwise."""

    def __init__(self, output: Path, temporary: str, work: Callable[[], int]) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.environ["TMPDIR"], tempfile.tempdir = temporary, None
                sys.stdout = output.open("w", buffering=1)
                code = work()
                sys.stdout.flush()
                os._exit(code)
            finally:
                os._exit(99)

    def poll(self) -> int | None:
        if self._code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self._code = os.waitstatus_to_exitcode(ended[1])
        return self._code

    def wait(self, timeout: float = DEADLINE_S) -> int | None:
        deadline = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Begun:
    """A run as a process of its own, in a folder, with a folder for its sockets; by a command of its own with `how`."""

    def __init__(self, folder: Path, *overrides: str, **how: Any) -> None:
        self.folder = folder
        self.temporary = tempfile.TemporaryDirectory(prefix="p")
        self.output = folder.with_name(f"{folder.name}.said")
        self.output.touch()
        self.process: Any
        if how:
            call = [sys.executable, "-m", "tests.quick_run", str(folder), *overrides]
            self.process = subprocess.Popen(call, cwd=ROOT, env={**os.environ, "TMPDIR": self.temporary.name}, **how)
        else:
            self.process = Fork(self.output, self.temporary.name, lambda: execute_in(folder, *overrides))
        self.mark = f"{self.process.pid}-{stat_of(self.process.pid)[19]}"

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def block(self) -> Path:
        return self.folder / "blocks/fake-0"

    def kept(self) -> Counter[str]:
        """Whole rows of the block's samples."""
        if not (self.block / "samples.csv").is_file():
            return Counter()
        text = (self.block / "samples.csv").read_text()
        return Counter(row["metric"] for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def requests(self) -> int:
        """That the case has begun."""
        return (self.block / "log.txt").read_text().count("request")

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not what():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def left(self) -> list[object]:
        return [*marked(self.mark), *os.listdir(self.temporary.name)]  # noqa: PTH208  names alone

    def end(self) -> int:
        return self.process.wait(DEADLINE_S)


def finish(run: Begun) -> None:
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + DEADLINE_S
    while marked(run.mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.temporary.cleanup()
