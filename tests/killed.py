"""Runs of fake cases, each in a fork that meets a fault, from one process that has all imports already.

As a program: lines of JSON on standard input, each a run, and on standard output how its process ended, what it said,
and how many things it did to its files. A run is {"folder"} and, if wanted: "resume": true to go on; "overrides";
"at": killed at the n-th thing; "after_s": killed after that time; "when" and "do": a command, once a file is there.
`Runs` is its client.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from omegaconf import OmegaConf

from harness import run, start
from harness.settings import resume
from harness.settings.compose import compose_raw, resolved, to_config
from tests.runs import BASE, EXTRA

SHIM = Path(__file__).parent / "killing/sitecustomize.py"
OVERRIDES = ("sweep.decode.sequences=1",)


def shim() -> ModuleType:
    """tests/killing/sitecustomize.py as a module; without a plan beside it, importing it does nothing."""
    spec = importlib.util.spec_from_file_location("killing", SHIM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configured(order: dict[str, Any]) -> dict[str, Any]:
    """The configuration, by `resume=` or as given the first time."""
    if order.get("resume"):
        return resume.stored_settings(Path(order["folder"]), order.get("overrides", []))
    return {**composed(*order.get("overrides", [])), "output": order["folder"]}


@cache
def composed(*overrides: str) -> dict[str, Any]:
    """Composed once, for all forks."""
    return resolved(compose_raw([*BASE, *OVERRIDES, *overrides], EXTRA))


def execute(order: dict[str, Any], killing: ModuleType, beside: Path) -> None:
    """In the fork: one run, to its end or until it is killed."""
    os.setpgid(0, 0)
    folder = Path(order["folder"])
    plan = {"folder": str(folder), "count": str(beside / "count"), "at": order.get("at"), "parent": os.getpid()}
    (beside / "plan.json").write_text(json.dumps(plan))
    killing.install(plan)
    os.environ["PYTHONPATH"] = str(beside)
    plain = configured(order)
    begun = start.begin(to_config(OmegaConf.create(plain)), plain, worker="tests.stub_worker")
    real = subprocess.run
    run.subprocess.run = lambda call, **rest: (  # type: ignore[assignment]
        subprocess.CompletedProcess(call, 0) if "reports" in call else real(call, **rest)
    )
    sys.stdout.flush()
    os._exit(run.carry_out(begun))


def ended(order: dict[str, Any], killing: ModuleType, beside: Path) -> dict[str, Any]:
    """Fork, kill when told to, wait; exit code, negative for a signal, and the count."""
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    shutil.copy(SHIM, beside)
    if not order.get("resume"):
        composed(*order.get("overrides", []))
    child = os.fork()
    if child == 0:
        log = os.open(beside / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            execute(order, killing, beside)
        except ValueError as error:
            print(f"error: {error}", flush=True)
            os._exit(2)
        except BaseException:  # noqa: BLE001  the border of the fork
            traceback.print_exc()
            os._exit(9)
    if order.get("after_s") is not None:
        time.sleep(order["after_s"])
        os.kill(child, signal.SIGKILL)
    if "when" in order:
        while not Path(order["when"]).exists():
            time.sleep(0.01)
        subprocess.run(order["do"], check=True)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = beside / "count"
    return {"code": code, "count": count.stat().st_size if count.exists() else 0, "log": (beside / "log").read_text()}


def main() -> None:
    """Serve orders until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    killing, beside = shim(), Path(sys.argv[1])
    for text in sys.stdin:
        answers.write(json.dumps(ended(json.loads(text), killing, beside)) + "\n")


class Runs:
    """The client: a process of this program, a run a call."""

    def __init__(self, beside: Path) -> None:
        call = [sys.executable, "-m", "tests.killed", str(beside)]
        self._process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __call__(self, folder: Path, **order: Any) -> SimpleNamespace:
        """One run: `code`, `log`, `count`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), **order}) + "\n")
        return SimpleNamespace(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


if __name__ == "__main__":
    main()
