"""On the PYTHONPATH of a run under test: kills the run at the n-th thing that it does to its files.

It counts writes, renames, new folders and removals below the run's folder, in the parent and in its workers, in one
file. At number `at` the parent and the process itself get SIGKILL: a write is cut in half first, all else is not done.
plan.json beside the copy of this file says {"folder", "count", "at", "parent"}; nothing happens where it is missing.
"""

import builtins
import io
import json
import os
import signal
import sys
from pathlib import Path

PLAN = Path(__file__).with_name("plan.json")


def install(plan):
    """Count from now on in this process, which may be a fork."""
    folder, at = plan["folder"] + os.sep, plan["at"]
    count = os.open(plan["count"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    state = {"parent": plan["parent"]}

    def reached():
        os.write(count, b".")
        return os.lseek(count, 0, os.SEEK_CUR) == at

    def kill():
        os.kill(state["parent"], signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def below(path):
        return isinstance(path, str | os.PathLike) and str(Path(path).absolute()).startswith(folder)

    class Torn(io.FileIO):
        def write(self, data):
            if reached():
                super().write(bytes(data)[: len(data) // 2])
                kill()
            return super().write(data)

    real = io.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **more):
        if not below(file) or not set(mode) & set("wxa"):
            return real(file, mode, buffering, encoding, errors, newline, *rest, **more)
        raw = io.BufferedWriter(Torn(file, mode.replace("b", "").replace("t", "")))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding, errors, newline)

    io.open = builtins.open = opened

    def audit(event, args):
        if event in ("os.rename", "os.remove", "os.mkdir") and below(args[0]) and reached():
            kill()

    sys.addaudithook(audit)


if PLAN.is_file():
    install(json.loads(PLAN.read_text()))
