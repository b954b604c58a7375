"""Start one child, follow its events, and say how it ended, whatever it did.

A child speaks through a file descriptor of its own, so nothing that it prints can pass for a verdict. It leads a
process group, which ends with it: no server outlives its worker.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from harness.compose import ROOT
from harness.schema import State

WORKER = "harness.worker"
POLL_S = 0.2
LONGEST_EVENT = 1 << 20
PASSED_ON = (
    "PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_*", "HF_*", "TRITON_*", "TORCHINDUCTOR_*", "XDG_CACHE_HOME", "LANG",
    "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "NVIDIA_*", "OMP_NUM_THREADS", "LATENCY_*",
)  # fmt: skip
"""The only environment variables that a child sees, so that two runs with one configuration measure the same."""

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """How a child ended. `exit_code` is negative for a signal; `payload` is what else its verdict said."""

    state: State
    reason: str
    stage: str
    exit_code: int
    wall_s: float
    payload: dict[str, Any] = field(default_factory=dict)


def child_environment(device: str, gpu: int | None) -> dict[str, str]:
    """The allow-listed environment, with the chosen GPU as the only visible one and the repository importable."""
    passed = {key: value for key, value in os.environ.items() if any(fnmatchcase(key, form) for form in PASSED_ON)}
    inherited = passed.get("PYTHONPATH")
    return {
        **passed,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "" if device == "cpu" or gpu is None else str(gpu),
    }


def command(python: str | None, worker: str, *arguments: str) -> list[str]:
    """How a child is called; `python` is another interpreter, None the harness's own."""
    return [python or sys.executable, "-m", worker, *arguments]


class EventReader:
    """Cuts the bytes of the pipe into events and keeps the last stage and the verdict."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._rest = b""
        self.stage = ""
        self.verdict: Event | None = None
        self.breach = ""

    def feed(self, data: bytes) -> None:
        """Take bytes as they come. A malformed event is remembered in `breach`; nothing after it counts."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self.breach:
                self._take(line)
        if len(self._rest) > LONGEST_EVENT:
            self.breach = f"an event is longer than {LONGEST_EVENT} bytes"

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self.breach = "an event is not JSON"
            return
        kind = event.get("event") if isinstance(event, dict) else None
        if kind not in ("stage", "progress", "verdict"):
            self.breach = f"unknown event {str(kind)[:40]!r}"
        elif self.verdict is not None:
            self.breach = "an event follows the verdict"
        elif kind == "verdict" and event.get("state") not in get_args(State):
            self.breach = f"unknown state {str(event.get('state'))[:40]!r} in the verdict"
        else:
            self._keep(kind, event)

    def _keep(self, kind: str, event: Event) -> None:
        if kind == "verdict":
            self.verdict = event
        elif kind == "stage":
            self.stage = str(event.get("stage", ""))
        self._on_event(event)


def run_child(
    call: Sequence[str], environment: Mapping[str, str], log: Path, timeout_s: float, on_event: OnEvent
) -> Outcome:
    """Run `call` with its output in `log` until it ends or `timeout_s` is over; its group never outlives this call.

    Call it from the main thread: children ask the kernel to end them with the thread that started them.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    events = EventReader(on_event)
    try:
        with log.open("ab") as output:
            process = _start(call, environment, write_end, output.fileno())
    except OSError as error:
        os.close(read_end)
        return Outcome("failed", f"the worker did not start: {error}", "", -1, 0.0)
    finally:
        os.close(write_end)
    try:
        in_time = _follow(process, read_end, events, started + timeout_s)
    finally:
        _end_group(process)
        os.close(read_end)
    return _judge(events, process.returncode, None if in_time else timeout_s, time.monotonic() - started, log)


def _start(call: Sequence[str], environment: Mapping[str, str], events: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*call, "--events", str(events), "--began", str(time.monotonic_ns())],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=(events,),
        cwd=ROOT,
        env=dict(environment),
        process_group=0,
    )


def _follow(process: subprocess.Popen[bytes], pipe: int, events: EventReader, deadline: float) -> bool:
    """Read events until the child has ended (True) or the deadline has passed (False)."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not _has_ended(process.pid):
            if time.monotonic() >= deadline:
                return False
            if events.breach:
                return True
            if selector.get_map() and selector.select(POLL_S):
                if not _drain(pipe, events):
                    selector.unregister(pipe)
            elif not selector.get_map():
                time.sleep(POLL_S / 10)
    _drain(pipe, events)
    return True


def _has_ended(pid: int) -> bool:
    """Whether the child has ended; it is not reaped, so its id still names its group."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _drain(pipe: int, events: EventReader) -> bool:
    """Read what is there now. False at the end of the pipe."""
    while True:
        try:
            data = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        events.feed(data)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the child's process group, then reap the child."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _judge(events: EventReader, exit_code: int, limit_s: float | None, wall_s: float, log: Path) -> Outcome:
    """A verdict counts when it and the exit code agree; everything else is a failure with its reason."""
    verdict = events.verdict or {}
    payload = {key: value for key, value in verdict.items() if key not in ("event", "state", "reason", "stage")}
    stage = str(verdict.get("stage") or ("" if verdict.get("state") == "ok" else events.stage))
    state: State = "failed"
    if limit_s is not None:
        state, reason = "timeout", f"ended after its limit of {limit_s:g} s in stage {events.stage or 'start'}"
    elif events.breach:
        reason = f"broke the event protocol: {events.breach}"
    elif events.verdict is None:
        reason = f"no verdict, {describe_exit(exit_code)}{_last_line(log)}"
    elif verdict["state"] != "failed" and exit_code != 0:
        reason = f"said {verdict['state']}, but {describe_exit(exit_code)}{_last_line(log)}"
    else:
        state, reason = verdict["state"], str(verdict.get("reason", ""))
    stage = stage or ("" if state == "ok" else events.stage)
    return Outcome(state, reason, stage, exit_code, round(wall_s, 3), payload)


def describe_exit(exit_code: int) -> str:
    """`exit code 3`, or the signal by name."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else "unknown"
    hint = " (out of host memory, perhaps)" if name == "SIGKILL" else ""
    return f"killed by signal {-exit_code} {name}{hint}"


def _last_line(log: Path) -> str:
    """`; last line of the log: ...`, empty when the log is."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"; last line of the log: {said[-1][:300]}" if said else ""
