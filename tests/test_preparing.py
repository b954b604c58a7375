"""What a case may report while it prepares, in process and over the socket."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from harness.contract import PHASES, REPORTS_LIMIT, Plan
from harness.ipc import messages as m
from harness.ipc.channel import Channel
from harness.ipc.client import RemoteCase
from harness.ipc.wire import encode
from harness.measure.preparing import heard
from tests.fakes import FakeCase

TARGET = "tests.fakes.FakeCase"
UNKNOWN = "the case reports a phase 'warmup': it has load, compile, capture"
TOO_MANY = f"the case reports more than {REPORTS_LIMIT} phases while it prepares"


def plan(*phases: str) -> Plan:
    return Plan("fake", "/checkpoint", "cpu", "float32", 400, options={"report": list(phases)})


@pytest.fixture(params=["inproc", "unix"])
def case(request):
    made = FakeCase() if request.param == "inproc" else RemoteCase(TARGET)
    with closing(made):
        yield made


def test_phases_are_heard_in_order_and_only_while_it_prepares(case):
    phases = [PHASES[number % len(PHASES)] for number in range(REPORTS_LIMIT)]
    reported: list[str] = []
    with heard(case, reported.append):
        case.prepare(plan(*phases))
    case.report("capture")
    assert reported == phases


def test_nobody_has_to_listen(case):
    assert case.prepare(plan("compile")).engine.startswith("fake 1")


@pytest.mark.parametrize(
    ("phases", "sentence", "kept"),
    [(["capture", "warmup"], UNKNOWN, 1), (["load"] * (REPORTS_LIMIT + 1), TOO_MANY, REPORTS_LIMIT)],
)
def test_what_is_no_phase_and_too_many_are_refused(case, phases, sentence, kept):
    reported: list[str] = []
    with heard(case, reported.append), pytest.raises(ValueError, match=sentence):
        case.prepare(plan(*phases))
    assert reported == phases[:kept]


@pytest.fixture
def lying():
    """A client, its end of the connection, and what it heard: the server is whoever writes there."""
    ours, theirs = socket.socketpair()
    made, reported = RemoteCase(TARGET), []
    made._channel = Channel(ours, 0, lambda: None)
    with ours, theirs, heard(made, reported.append):
        yield made, theirs, reported


def test_a_server_that_reports_without_end_is_refused(lying, fault):
    injected = fault("Socket", "more phases of a preparation than a case may report")
    made, server, reported = lying
    made._reports = REPORTS_LIMIT
    server.sendall(encode(m.Stage("load")) * (REPORTS_LIMIT + 1))
    with pytest.raises(RuntimeError, match="answered Prepare with Stage"):
        made._ask(m.Prepare(plan()), m.Ready)
    assert reported == ["load"] * REPORTS_LIMIT
    injected.happened(f"{REPORTS_LIMIT} are shown, and the case fails with one sentence")


def test_a_phase_that_answers_a_request_is_refused(lying, fault):
    injected = fault("Socket", "a phase of a preparation as the answer to a request")
    made, server, reported = lying
    server.sendall(encode(m.Stage("capture")))
    with pytest.raises(RuntimeError, match="answered Decode with Stage"):
        made.decode()
    assert reported == []
    injected.happened("the case fails with one sentence")
