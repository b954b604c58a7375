"""The path of a request played to nobody: real messages over sockets of its own, and no answer changed by it."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from pathlib import Path

import pytest

from harness.contract import REHEARSE_NS, Plan, Sampling
from harness.ipc import messages as m
from harness.ipc.channel import Channel, Spin, Taking
from harness.ipc.client import RemoteCase
from harness.ipc.connection import OWNED, Connection
from harness.ipc.rehearsal import ANSWER, REQUEST, TO_NOBODY, Serving
from harness.ipc.service import ALONE_NS, Service
from harness.ipc.wire import HEADER, decode, encode
from tests.fakes import FakeCase, next_token
from tests.ipc_bench import answer, tokens

PLAN = Plan("fake", "/checkpoint", "cpu", "float32", 64)
POLLING = Spin(client_us=1_000_000, server_us=1_000_000)


class Rehearsed(FakeCase):
    """Says how often it was rehearsed: each of its tokens shows the count in `hits`."""

    def __init__(self) -> None:
        super().__init__()
        self.rehearsals = 0

    def rehearse(self) -> None:
        self.rehearsals += 1
        self.counters = self.counters._replace(hits=self.rehearsals)

    def use(self, sampling: Sampling) -> None:
        """Any will do."""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_server_rehearses_with_the_work_in_the_middle_and_gives_its_sockets_back():
    before, worked = descriptors(), []

    def work() -> None:
        worked.append(descriptors())

    def to(_: Connection, request: m.Prefill) -> list[bytes]:
        worked.append(request)
        return [encode(ANSWER), encode(ANSWER)]

    serving = Serving(to, work)
    for part in serving.parts * 3:
        part()
        serving.reply()  # an engine may work whatever was played last
    assert worked == [REQUEST, before + 2] * 3
    serving.close()
    serving.close()
    assert descriptors() == before


def test_a_client_rehearses_and_gives_its_sockets_back():
    before = descriptors()
    taking = Taking()
    for part in taking.parts * 3:
        part()
    assert descriptors() == before + 2
    taking.close()
    taking.close()
    assert descriptors() == before


def test_a_polling_server_rehearses_its_case_and_answers_as_ever():
    case = RemoteCase("tests.test_ipc_rehearsal.Rehearsed", spin=POLLING)
    try:
        case.prepare(PLAN)
        assert case.prefill([1, 2, 3], 3) == next_token([1, 2, 3])
        first = case.stats().hits
        wait_for_rehearsals(case, first)
        sequence = [1, 2, 3, next_token([1, 2, 3])]
        assert case.decode() == next_token(sequence), "a rehearsal between two tokens changes neither"
    finally:
        case.close()


@pytest.mark.parametrize("spin", [Spin(), Spin(client_us=1_000_000, server_us=1_000_000, rehearse=False)])
def test_who_does_not_poll_or_was_told_not_to_does_not_rehearse(spin):
    case = RemoteCase("tests.test_ipc_rehearsal.Rehearsed", spin=spin)
    try:
        case.prepare(PLAN)
        for _ in range(3):
            case.prefill([1, 2, 3], 2)
            time.sleep(5 * REHEARSE_NS / 1e9)
        assert case.stats().hits == 0
    finally:
        case.close()


@pytest.mark.parametrize(
    ("spin", "rehearse", "sockets", "played"), [(POLLING, True, 2, 4), (POLLING, False, 0, 0), (Spin(), True, 0, 0)]
)
def test_a_client_that_rests_plays_every_other_time_a_request_to_its_polling_server(spin, rehearse, sockets, played):
    case = RemoteCase("tests.test_ipc_rehearsal.Rehearsed", spin=spin, rehearse=rehearse)
    case.rehearse()
    before = descriptors()
    try:
        case.prepare(PLAN)
        assert descriptors() == before + 1 + sockets, "the connection, and a pair for its rehearsals while it waits"
        case.prefill([1, 2, 3], 3)
        first = case.stats().hits
        rest(case)
        assert case.stats().hits >= first + played, "the engine's rehearsal has two parts, and both were played twice"
        assert played or case.stats().hits == 0
        assert case.decode() == next_token([1, 2, 3, next_token([1, 2, 3])]), "the sequence is where it was"
        case.use(Sampling("sample", temperature=0.5))
        rest(case)
        assert case.prefill([1, 2, 3], 3) == next_token([1, 2, 3]), "whatever sampling the client chose"
        assert descriptors() == before + 1 + sockets
    finally:
        case.close()


def test_a_server_whose_client_plays_requests_leaves_that_to_it():
    ours, theirs = socket.socketpair()
    now, rests = [0], []

    def clock() -> int:
        now[0] += REHEARSE_NS
        return now[0]

    service = Service("tests.test_ipc_rehearsal.Rehearsed", None, OWNED, 5 * REHEARSE_NS // 1000, clock=clock)
    service._rehearsal.rest = lambda at: rests.append(at - now[0])
    service.adopt(theirs)
    with ours:
        for request, quiet in ((m.Prepare(PLAN), 0), (m.Prefill([1], 2), 0), (TO_NOBODY, ALONE_NS), (m.Decode(), 0)):
            ours.sendall(encode(request))
            service.turn()
            assert service._polled() is False
            assert rests[-1] == quiet, request
    service._serving.close()
    service.clients.close()


def test_a_server_for_all_plays_nobodys_requests(bench):
    peer = bench.peer()
    peer.send(TO_NOBODY)
    bench.settle()
    (told,) = peer.received()
    assert (told.kind, told.message) == ("unsupported", "this server does not answer Rehearse")


class Working(FakeCase):
    """Polls for its token as a GPU's case does: for five rehearsals' time, however often it is interrupted."""

    def prefill(self, prompt, new_tokens=1):
        began = time.perf_counter_ns()
        while (now := time.perf_counter_ns()) < began + 5 * REHEARSE_NS:
            if self.meanwhile is not None:
                self.meanwhile(now)
        return super().prefill(prompt, new_tokens)


@pytest.mark.parametrize(
    ("spin_us", "rehearse", "played"), [(1000, True, True), (1000, False, False), (0, True, False)]
)
def test_while_an_engine_works_a_polling_server_keeps_the_tokens_way_out_warm(monkeypatch, spin_us, rehearse, played):
    replies, reply = [], Serving.reply
    monkeypatch.setattr(Serving, "reply", lambda serving: replies.append(reply(serving)))
    service = Service("tests.test_ipc_rehearsal.Working", None, OWNED, spin_us, rehearse=rehearse)
    ours, theirs = socket.socketpair()
    service.adopt(theirs)
    channel, told = Channel(ours, 0, lambda: None), []
    for request, last in ((m.Prepare(PLAN), m.Ready), (m.Prefill([1, 2, 3], 2), m.Counted), (m.Decode(), m.Counted)):
        channel.send(request)
        while not select.select([ours], [], [], 0)[0]:
            service.turn()
        told.append(channel.receive())
        while type(told[-1]) is not last:
            told.append(channel.receive())
    assert tokens(told) == answer([1, 2, 3], 2), "what is played changes no token"
    assert bool(replies) is played
    if service._serving is not None:
        service._serving.close()
    service.clients.close()
    channel.close()


def test_a_case_that_was_prepared_before_its_server_is_kept_warm_too(bench):
    bench.service._answers.keep_warm(heard := lambda now: None)
    assert bench.case.meanwhile is heard


class Unwilling(FakeCase):
    """Fails to rehearse, each time; `misses` counts how often it was asked."""

    def rehearse(self) -> None:
        self.counters = self.counters._replace(misses=self.counters.misses + 1)
        raise ArithmeticError("no rehearsal today")


def test_a_benchmark_whose_case_fails_to_rehearse_fails_and_says_why():
    case = RemoteCase("tests.test_ipc_rehearsal.Unwilling", spin=POLLING)
    try:
        case.prepare(PLAN)
        with pytest.raises(RuntimeError, match="failed to rehearse: ArithmeticError: no rehearsal today"):
            wait_for_rehearsals(case, seen=10**9)
    finally:
        case.close()


def test_a_client_that_plays_requests_is_told_when_the_case_fails_to_rehearse():
    case = RemoteCase("tests.test_ipc_rehearsal.Unwilling", spin=POLLING)
    try:
        case.prepare(PLAN)
        with pytest.raises(RuntimeError, match="failed to rehearse: ArithmeticError: no rehearsal today"):
            rest(case)
    finally:
        case.close()


def test_a_server_for_all_asks_a_case_that_fails_to_rehearse_once_and_answers_on(bench):
    asked = []

    def unwilling() -> None:
        asked.append(True)
        raise ArithmeticError("no rehearsal today")

    bench.case.rehearse = unwilling
    for _ in range(3):
        bench.service._answers.rehearse()
    peer = bench.peer()
    peer.send(m.Generate([1, 2], 3))
    bench.settle()
    assert tokens(peer.received()) == answer([1, 2], 3)
    assert asked == [True]


def test_an_understudy_answers_as_the_server_does_and_nobody_is_served_by_it(bench):
    peer = bench.peer()
    peer.send(m.Prefill([1, 2], 2))
    bench.settle()
    rehearsed = []
    bench.case.rehearse = lambda: rehearsed.append(True)
    before = bench.service._answers.status(1, 0).status
    frames = bench.service._answers.understudy()(bench.service.clients.order[0], REQUEST)
    assert [decode(frame[HEADER.size :]) for frame in frames] == [ANSWER, m.Counted(bench.service._answers.stats())]
    assert rehearsed == [True]
    assert bench.service._answers.status(1, 0).status == before, "it counts for nothing"
    peer.send(m.Decode())
    bench.settle()
    assert tokens(peer.received()) == answer([1, 2], 2), "the sequence of a client is where it was"


@pytest.mark.parametrize("part", [Taking, lambda: Serving(lambda *_: [], lambda: None)], ids=["client", "server"])
def test_where_there_is_no_socket_left_who_wants_rehearsals_is_told(monkeypatch, part):
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        part()


def rest(case: RemoteCase) -> None:
    """As the loop does between two requests."""
    for _ in range(4):
        case.rehearse()


def wait_for_rehearsals(case: RemoteCase, seen: int) -> None:
    """Until the server has rehearsed since, as the next prefill shows; then the sequence is begun again."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(5 * REHEARSE_NS / 1e9)
        os.sched_yield()
        case.prefill([1, 2, 3], 3)
        if case.stats().hits > seen:
            return
    raise AssertionError("a minute without a rehearsal")
