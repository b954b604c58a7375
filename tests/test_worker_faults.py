"""Each way in which a worker or its server ends badly, in each stage: its row, its samples, and nothing left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.processes.leftovers import marked, stat_of
from tests.runs import ROOT, samples, status

SWEEP = ("sweep.ttft_iterations=60", "sweep.p99_iterations=1", "sweep.warmup_iterations=1", "sweep.pause_ms=0")
DEADLINE_S = 200
LIMIT_S = 4
"""Of a case that hangs: long enough for an interpreter and a server to start on a busy machine."""
NONE: dict[str, int] = {}
COLD = {"cold": 1}
# The 50th request is the 47th timed one: one is cold, two are warm-up.
FIFTIETH, HALF_DECODED, ALL = COLD | {"ttft": 46}, COLD | {"ttft": 60, "decode": 3}, COLD | {"ttft": 60, "decode": 10}


class Place(NamedTuple):
    """A stage, the call that fails there, and the samples that are measured before it."""

    stage: str
    said: str
    fail_at: str
    fail_after: int
    kept: dict[str, int]


LOAD = Place("load", "load", "prepare", 0, NONE)
FIRST = Place("cold", "the first request", "prefill", 0, NONE)
REQUEST = Place("ttft", "the 50th request", "prefill", 49, FIFTIETH)
DECODE = Place("decode", "decode", "decode", 13, HALF_DECODED)
SCORE = Place("score", "score", "score", 0, ALL)
CLOSE = Place("close", "close", "close", 0, ALL)
CAPTURE = Place("capture", "a capture", "capture", 0, NONE)
WARMUP = Place("warmup", "warm-up", "prefill", 1, COLD)
IDENTITY = Place("identity", "identity", "identity", 0, ALL)
PIPE = Place("ttft", "the pipe of events", "", 0, NONE)
PLACES = (LOAD, FIRST, REQUEST, DECODE, SCORE, CLOSE)


class Tried(NamedTuple):
    """A fault, where it strikes, and the row that it leaves."""

    said: str
    how: str
    place: Place
    transport: str
    state: str
    reason: str
    closing: str = ""

    @property
    def name(self) -> str:
        """Of its case; `closing` is how closing it fails as well."""
        return "_".join(filter(None, (self.how, self.place.stage, self.transport, self.closing)))


def server_ends(how: str) -> str:
    return rf"the server of tests\.stub_case\.StubCase ended in \w+ with {how}"


LIMIT = f"after its limit of {LIMIT_S} s"
BUG = r"ArithmeticError: the fake case failed in \w+$"
RAISED = [
    *(Tried("an exception", "error", place, "inproc", "failed", BUG) for place in (*PLACES, CAPTURE, IDENTITY)),
    *(
        Tried("an exception in the server", "error", place, "unix", "failed", BUG)
        for place in (LOAD, CAPTURE, REQUEST, CLOSE)
    ),
]
KILLED = [
    *(
        Tried("SIGKILL", "kill", place, "inproc", "failed", "^no verdict, killed by signal 9 SIGKILL")
        for place in PLACES
    ),
    *(
        Tried("SIGKILL of the server", "kill", place, "unix", "failed", server_ends("signal SIGKILL"))
        for place in PLACES
    ),
    Tried("SIGSEGV", "segv", DECODE, "inproc", "failed", "^no verdict, killed by signal 11 SIGSEGV"),
    Tried("SIGABRT", "abort", DECODE, "inproc", "failed", "^no verdict, killed by signal 6 SIGABRT"),
    Tried("SIGSEGV of the server", "segv", DECODE, "unix", "failed", server_ends("signal SIGSEGV")),
    *(
        Tried("SIGKILL of the worker over its living server", "kill_client", place, "unix", "failed", "SIGKILL")
        for place in (LOAD, REQUEST)
    ),
]
# What tells the row is the first error, not how the closing of what it left ended the process.
CLOSING = [
    *(
        Tried(
            "an exception, and SIGABRT in the close behind it,", "error", place, "inproc", "failed",
            rf"^ArithmeticError: the fake case failed in {place.fail_at}; close: killed by signal 6 SIGABRT$", "abort",
        )
        for place in (LOAD, REQUEST)
    ),
    *(
        Tried(
            "an exception in the server, and SIGABRT in the close behind it,", "error", place, "unix", "failed",
            rf"ArithmeticError: the fake case failed in {place.fail_at}; close: .*ended in Close with signal SIGABRT$",
            "abort",
        )
        for place in (LOAD, REQUEST)
    ),
    Tried(
        "an engine that is missing, and SIGABRT in the close behind it,", "unavailable", LOAD, "inproc", "failed",
        "^said unavailable: the fake engine is missing in prepare: pip install it; close: killed by signal 6", "abort",
    ),
]  # fmt: skip
ESCAPED = [
    Tried("death with a process left in a session of its own", "escape", REQUEST, "inproc", "failed", "exit code 3"),
    Tried(
        "death with such a process left that wiped its environment", "escape_unmarked", DECODE, "inproc", "failed",
        "exit code 3",
    ),
    Tried("a process left by the server, likewise", "escape", REQUEST, "unix", "failed", server_ends("exit code 3")),
    Tried("a child left that holds the pipe of events", "hold_pipe", DECODE, "inproc", "ok", "^$"),
    Tried("50 MiB printed", "flood", DECODE, "inproc", "ok", "^$"),
]  # fmt: skip
SPOKEN = [
    Tried("bytes without end", "endless_event", PIPE, "inproc", "failed", "an event is longer than 1048576 bytes$"),
    Tried("a text for a number", "bad_progress", PIPE, "inproc", "failed", "median_ms is no number$"),
    Tried("lists 200,000 deep", "deep", PIPE, "inproc", "failed", "an event is not JSON$"),
    Tried("an outcome that says ok", "bad_outcome", PIPE, "inproc", "failed", "unknown state 'ok' in the outcome$"),
    Tried(
        "a second outcome", "two_outcomes", PIPE, "inproc", "failed",
        "^the first; close: broke the event protocol: an event other than the closing follows the outcome$",
    ),
    Tried(
        "a forged outcome printed", "forged_outcome", PIPE, "inproc", "failed",
        "^no verdict, exit code 3; last line of the log: {",
    ),
    Tried("a reason of no printable text", "unprintable", PIPE, "inproc", "failed", r"^a b \[2Jc d$"),
]  # fmt: skip
HUNG = [
    Tried("true events without end", "flood_events", PIPE, "inproc", "timeout", LIMIT),
    *(
        Tried("a hang", "hang", place, "inproc", "timeout", rf"^ended {LIMIT} in stage {place.stage}$")
        for place in (*PLACES, CAPTURE, WARMUP, IDENTITY)
    ),
    *(
        Tried("a hang of the server", "hang", place, "unix", "timeout", rf"^ended {LIMIT} in stage {place.stage}$")
        for place in (LOAD, CAPTURE, DECODE, CLOSE)
    ),
    Tried(
        "an exception, and a hang in the close behind it,", "error", REQUEST, "inproc", "failed",
        rf"^ArithmeticError: the fake case failed in prefill; close: ended {LIMIT}$", "hang",
    ),
]  # fmt: skip
ENDED = [*RAISED, *KILLED, *CLOSING, *ESCAPED, *SPOKEN]


def overrides(faults: list[Tried]) -> list[str]:
    """A run of these and of two cases that are well, in the run's random order."""
    made = [f"run=[fake,other,{','.join(tried.name for tried in faults)}]", *SWEEP]
    for tried in faults:
        case, place = f"cases.{tried.name}", tried.place
        made += [f"+case@{case}=fake", f"{case}.title={tried.name}", f"{case}.transport={tried.transport}"]
        made += [f"{case}.timeout_s={LIMIT_S if tried in HUNG else 60}"]
        if tried in (*SPOKEN, *HUNG[:1]):
            made += [f"{case}.behaviour={tried.how}"]
        else:
            made += [f"{case}.fail={tried.how}", f"{case}.fail_at={place.fail_at}"]
            made += [f"{case}.fail_after={place.fail_after}", f"{case}.fail_close={tried.closing or 'null'}"]
    return made


class Over(NamedTuple):
    """A run that is over."""

    folder: Path
    exit_code: int
    output: str
    left: list[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[dict[str, Over]]:
    """Both runs at once: who hangs leaves the processor to the others."""
    with tempfile.TemporaryDirectory(prefix="f") as sockets:
        begun = {}
        for name, faults in (("hung", HUNG), ("ended", ENDED)):
            folder, temporary = tmp_path_factory.mktemp(name), Path(sockets, name)
            temporary.mkdir()
            call = [sys.executable, "-m", "tests.quick_run", str(folder), *overrides(faults)]
            environment = {**os.environ, "TMPDIR": str(temporary)}
            process = subprocess.Popen(
                call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            begun[name] = (process, folder, temporary, f"{process.pid}-{stat_of(process.pid)[19]}")
        over = {}
        for name, (process, folder, temporary, mark) in begun.items():
            output, _ = process.communicate(timeout=DEADLINE_S)
            left = [*(str(pid) for pid in marked(mark)), *(path.name for path in temporary.iterdir())]
            over[name] = Over(folder, process.returncode, output, left)
        yield over


def row_of(over: Over, tried: Tried) -> dict[str, Any]:
    assert (tried.name, "0") in status(over.folder), over.output[-2000:]
    return status(over.folder)[tried.name, "0"]


@pytest.mark.parametrize("tried", [*ENDED, *HUNG], ids=lambda tried: tried.name)
def test_each_fault_is_a_row_with_state_stage_and_reason_and_keeps_what_was_measured(runs, fault, tried):
    injected = fault("Worker", f"{tried.said} in {tried.place.said}")
    over = runs["hung" if tried in HUNG else "ended"]
    row = row_of(over, tried)
    stage = "" if tried.state == "ok" else tried.place.stage
    assert (row["state"], row["stage"]) == (tried.state, stage), row["reason"]
    assert re.search(tried.reason, row["reason"]), row["reason"]
    kept = Counter(sample["metric"] for sample in samples(over.folder, tried.name))
    assert kept == Counter(ALL if tried.state == "ok" else tried.place.kept)
    assert {status(over.folder)[name, "0"]["state"] for name in ("fake", "other")} == {"ok"}
    assert over.left == [], "no process, no socket, no folder"
    told = f"row `{row['state']}`" + (f", stage {stage}" if stage else "")
    injected.happened(f"{told}; {kept.total()} samples kept; the other cases ran; no process and no socket left")


@pytest.mark.parametrize(("name", "faults"), [("ended", ENDED), ("hung", HUNG)])
def test_the_run_fails_and_names_each(runs, name, faults):
    over = runs[name]
    assert over.exit_code == 1
    last = next(line for line in over.output.splitlines() if line.startswith("failed: "))
    bad = {tried.name for tried in faults if tried.state != "ok"}
    assert set(re.findall(r"(\w+) block 0 \(", last)) == bad


def test_what_hid_is_told_in_the_log(runs):
    blocks = runs["ended"].folder / "blocks"
    for tried in ESCAPED[:3]:
        assert "harness: ended what outlived this process: python" in (blocks / f"{tried.name}-0/log.txt").read_text()
