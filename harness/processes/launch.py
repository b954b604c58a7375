"""Start one child, follow its events, and say how it ended, whatever it did.

A child speaks through a file descriptor of its own, so nothing that it prints can pass for a verdict. It leads a
process group, which ends with it, and so does whatever it started elsewhere: no server outlives its worker.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.processes import leftovers
from harness.processes.events import Event, EventReader, OnEvent, printable
from harness.processes.interrupt import GRACE_S, Interrupts
from harness.schema import State
from harness.settings.compose import ROOT

WORKER = "harness.worker"
POLL_S = 0.2
READS = 64
"""Reads of the pipe between two looks at the clock: who floods it does not keep the parent from its limit."""
LARGEST_LOG = 256 << 20
"""Bytes that a child may print: who floods its output fills the disk."""
LONGEST_REASON = 1000
PASSED_ON = (
    "PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_*", "HF_*", "TRITON_*", "TORCHINDUCTOR_*", "XDG_CACHE_HOME", "LANG",
    "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "NVIDIA_*", "OMP_NUM_THREADS", "LATENCY_*",
)  # fmt: skip
"""The only environment variables that a child sees, so that two runs with one configuration measure the same."""
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
"""The way to the network, in capitals or not: for the preparation alone, which may have to ask a hub for weights."""


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


def network_environment() -> dict[str, str]:
    """What the environment says of the way to the network."""
    return {key: value for key, value in os.environ.items() if key.upper() in NETWORK}


def command(python: str | None, worker: str, *arguments: str) -> list[str]:
    """How a child is called; `python` is another interpreter, None the harness's own."""
    return [python or sys.executable, "-m", worker, *arguments]


def run_child(
    call: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    timeout_s: float,
    on_event: OnEvent,
    interrupts: Interrupts | None = None,
) -> Outcome:
    """Run `call` with its output in `log` until it ends or `timeout_s` is over; nothing that it started outlives this
    call, nor any folder that its servers listened in. Where `interrupts` says so, the child is asked to stop (SIGTERM),
    and killed when that takes longer than GRACE_S.

    Call it from the main thread: children ask the kernel to end them with the thread that started them.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    interrupts = interrupts or Interrupts()
    started = time.monotonic()
    read_end, write_end = _pipe()
    ours = leftovers.children_now()
    process: subprocess.Popen[bytes] | None = None
    with log.open("ab") as output, leftovers.adopting():
        follower = Follower(read_end, EventReader(on_event), output.fileno(), started + timeout_s, interrupts)
        try:
            try:
                process = _start(call, environment, write_end, output.fileno())
            finally:
                os.close(write_end)
            ended = follower.follow(process)
        except OSError as error:
            if process is not None:
                raise
            return Outcome("failed", f"the worker did not start: {error}", "", -1, 0.0)
        finally:
            with interrupts.shielded():
                stuck = _end(process, ours, log)
                follower.drain()
                os.close(read_end)
    said = f"after its limit of {timeout_s:g} s" if ended == "limit" else ended
    outcome = _judge(follower.events, process.returncode, said, time.monotonic() - started, log)
    return outcome if not stuck else replace(outcome, state="failed", reason=f"{outcome.reason}; {stuck}".strip("; "))


def _pipe() -> tuple[int, int]:
    """A pipe whose reading end does not wait."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    return read_end, write_end


def _start(call: Sequence[str], environment: Mapping[str, str], events: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  this package's own module
        [*call, "--events", str(events), "--began", str(time.monotonic_ns())],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=(events,),
        cwd=ROOT,
        env={**environment, leftovers.MARK: leftovers.mark()},
        process_group=0,
    )


@dataclass
class Follower:
    """Reads a child's events while it runs."""

    pipe: int
    events: EventReader
    output: int
    deadline: float
    interrupts: Interrupts

    def follow(self, process: subprocess.Popen[bytes]) -> str:
        """Until the child has ended by itself (""), or why it has to be ended: "limit", or the words for a reason."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            until: float | None = None
            while not _has_ended(process.pid):
                now = time.monotonic()
                if until is None and self.interrupts.heed():
                    until = now + GRACE_S
                    process.terminate()
                if until is not None and now >= until:
                    return f"when it had not stopped {GRACE_S:g} s after it was asked to"
                if now >= self.deadline:
                    return "limit"
                if os.fstat(self.output).st_size > LARGEST_LOG:
                    return f"when it had printed more than {LARGEST_LOG >> 20} MiB"
                if self.events.breach:
                    return ""
                self._wait(selector)
        return ""

    def _wait(self, selector: selectors.BaseSelector) -> None:
        """For an event, or a moment."""
        if not selector.get_map():
            time.sleep(POLL_S / 10)
        elif selector.select(POLL_S) and not self.drain():
            selector.unregister(self.pipe)

    def drain(self) -> bool:
        """Read what is there now, READS times at most. False at the end of the pipe."""
        for _ in range(READS):
            try:
                data = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.events.feed(data)
        return True


def _has_ended(pid: int) -> bool:
    """Whether the child has ended; it is not reaped, so its id still names its group."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _end(process: subprocess.Popen[bytes] | None, ours: frozenset[int], log: Path) -> str:
    """Kill whatever is left of the child's group, reap the child, then end what left the group, and say so in its log.

    Returns:
        One phrase on processes that could not be ended; "" when none is left.
    """
    if process is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    token = leftovers.mark()
    found, stuck = leftovers.end_all(token, ours)
    leftovers.remove_folders(token)
    if found:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"harness: ended what outlived this process: {', '.join(found)}\n")
    return f"killed, and still there: {', '.join(stuck)}" if stuck else ""


def _judge(events: EventReader, exit_code: int, ended: str, wall_s: float, log: Path) -> Outcome:
    """A verdict counts when it and the exit code agree; everything else is a failure with its reason. `ended`: why the
    parent ended the child, "" when it did not."""
    verdict = events.verdict or {}
    payload = {key: value for key, value in verdict.items() if key not in ("event", "state", "reason", "stage")}
    stage = str(verdict.get("stage") or ("" if verdict.get("state") == "ok" else events.stage))
    state: State = "failed"
    if events.outcome is not None and (ended or events.breach or not verdict):
        reason = f"{_first(events.outcome)}; close: {_how(events, exit_code, ended)}"
        stage = str(events.outcome["stage"])
        payload |= {key: value for key, value in events.outcome.items() if key == "identity"}
    elif ended:
        state = "timeout" if ended.startswith("after its limit") else "failed"
        reason = f"ended {ended} in stage {events.stage or 'start'}"
    elif events.breach:
        reason = f"broke the event protocol: {events.breach}"
    elif events.verdict is None:
        reason = f"no verdict, {describe_exit(exit_code)}{_last_line(log)}"
    elif verdict["state"] != "failed" and exit_code != 0:
        reason = f"said {verdict['state']}, but {describe_exit(exit_code)}{_last_line(log)}"
    else:
        state, reason = verdict["state"], str(verdict.get("reason", ""))[:LONGEST_REASON]
    stage = stage or ("" if state == "ok" else events.stage)
    return Outcome(state, reason, stage, exit_code, round(wall_s, 3), payload)


def _first(outcome: Event) -> str:
    """The error that a worker told before it closed its case, whose closing then ended it."""
    said = "" if outcome["state"] == "failed" else f"said {outcome['state']}: "
    return said + str(outcome["reason"])[: LONGEST_REASON // 2]


def _how(events: EventReader, exit_code: int, ended: str) -> str:
    """How the closing of a case ended its worker."""
    if ended:
        return f"ended {ended}"
    return f"broke the event protocol: {events.breach}" if events.breach else describe_exit(exit_code)


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
        lines = printable(file.read().decode("utf-8", "replace"), but="\n").split("\n")
    said = [line.strip() for line in lines if line.strip() and not line.startswith("harness: ")]
    return f"; last line of the log: {said[-1][:300]}" if said else ""
