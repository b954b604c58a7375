"""Many clients of one server, turn by turn: who is answered when, and what one may cost another. No time passes."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Sequence
from typing import ClassVar

import pytest

from harness.contract import Capabilities, Case, Plan, Sampling, SetUp, Stats
from harness.ipc import messages as m
from harness.ipc.answers import Served
from harness.ipc.channel import Channel
from harness.ipc.connection import Limits, S
from harness.ipc.frames import Frames
from harness.ipc.service import Service
from harness.ipc.wire import decode, encode
from tests.fakes import VOCABULARY, next_token

GREEDY = Sampling()


class ScriptedCase(Case):
    """Right tokens, a log of what was asked in which order, and a hook that tests act in."""

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}))

    def __init__(self) -> None:
        self.log: list[object] = []
        self.sequence: list[int] = []
        self.before = lambda: None
        self.capacity = 2**31

    def prepare(self, plan: Plan) -> SetUp:
        raise AssertionError("prepared before the first client")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        self.before()
        if prompt[0] == 666:
            raise RuntimeError("the engine failed")
        if len(prompt) + new_tokens > self.capacity:
            raise ValueError(f"the context is {self.capacity} tokens")
        self.log.append(("prefill", list(prompt)))
        self.sequence = list(prompt)
        return self._next()

    def decode(self) -> int:
        self.before()
        self.log.append(("decode", self.sequence[0]))
        return self._next()

    def use(self, sampling: Sampling) -> None:
        if not sampling.temperature > 0:
            raise ValueError("the temperature must be above 0")
        self.log.append(("use", sampling))

    def stats(self) -> Stats:
        return Stats(replays=len(self.log))

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        raise AssertionError("only benchmarks score")

    def close(self) -> None:
        self.log.append("close")

    def _next(self) -> int:
        self.sequence.append(next_token(self.sequence))
        return self.sequence[-1]


class Clock:
    """Nanoseconds that stand still until told."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Peer:
    """The other end of a connection: sends what it is told, remembers what came."""

    def __init__(self, service: Service, buffer: int | None = None) -> None:
        ours, self.socket = socket.socketpair()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.socket.setblocking(False)
        self.frames, self.ended = Frames(), False
        service.adopt(ours)

    def send(self, *requests: m.Message) -> None:
        self.socket.sendall(b"".join(encode(request) for request in requests))

    def received(self) -> list[m.Message]:
        """All that has come since the last call."""
        found: list[m.Message] = []
        while True:
            while (body := self.frames.next()) is not None:
                found.append(decode(body))
            try:
                count = self.socket.recv_into(self.frames.room())
            except BlockingIOError:
                return found
            except ConnectionResetError:
                count = 0
            if not count:
                self.ended = True
                return found
            self.frames.came(count)


class Bench:
    """A service over the scripted case, advanced by hand."""

    def __init__(self, **limits: float) -> None:
        self.case, self.clock = ScriptedCase(), Clock()
        served = Served(self.case, SetUp("scripted 1"), "no model", "/no/folder", VOCABULARY, GREEDY)
        self.service = Service("", served, Limits(**limits), 0, lambda: None, self.clock)  # type: ignore[arg-type]

    def peer(self, buffer: int | None = None) -> Peer:
        return Peer(self.service, buffer)

    def settle(self, turns: int = 400) -> None:
        """Until nothing is left to do."""
        self.service.clients.look(0.0)
        for _ in range(turns):
            if self.service.idle and not self.service.clients.look(0.0):
                return
            self.service.turn()
        raise AssertionError("the service does not come to rest")

    def close(self) -> None:
        self.service.stop()
        self.service.run()


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


def answer(prompt: Sequence[int], count: int) -> list[int]:
    sequence = list(prompt)
    for _ in range(count):
        sequence.append(next_token(sequence))
    return sequence[len(prompt) :]


def tokens(messages: Sequence[m.Message]) -> list[int]:
    return [message.token_id for message in messages if isinstance(message, m.Token)]


def test_an_answer_streams_and_ends(bench):
    peer = bench.peer()
    peer.send(m.Generate([5, 6], 4))
    bench.settle()
    *streamed, last = peer.received()
    assert tokens(streamed) == answer([5, 6], 4)
    assert last == m.Finished("length", answer([5, 6], 4), m.Timing())


def test_an_answer_may_come_in_one_piece(bench):
    peer = bench.peer()
    peer.send(m.Generate([5, 6], 4, stream=False))
    bench.settle()
    assert peer.received() == [m.Finished("length", answer([5, 6], 4), m.Timing())]


def test_an_answer_ends_behind_a_stop_id(bench):
    wanted = answer([5, 6], 9)
    peer = bench.peer()
    peer.send(m.Generate([5, 6], 9, stop=[wanted[2], wanted[5]]))
    bench.settle()
    assert peer.received()[-1] == m.Finished("stop", wanted[:3], m.Timing())


def test_clients_take_turns_and_one_waits_for_one_request_at_most(bench):
    greedy, late = bench.peer(), bench.peer()
    greedy.send(*[m.Generate([1, number], 2) for number in range(20)])
    for _ in range(3):
        bench.service.turn()
    late.send(m.Generate([2, 0], 2), m.Generate([2, 1], 2))
    bench.settle()
    order = [entry[1] for entry in bench.case.log if entry[0] == "prefill"]
    first = order.index([2, 0])
    assert first <= 2
    assert order[first + 2] == [2, 1]
    assert order[first + 3 :] == [[1, number] for number in range(first + 1, 20)]
    assert len([message for message in greedy.received() if isinstance(message, m.Finished)]) == 20


def test_sequences_of_two_clients_never_mix(bench):
    one, other = bench.peer(), bench.peer()
    one.send(m.Prefill([1, 2, 3], 4), m.Decode())
    other.send(m.Prefill([7, 8], 3), m.Decode(), m.Decode())
    bench.settle()
    assert tokens(one.received()) == answer([1, 2, 3], 4)[:2]
    assert other.received() == []
    one.send(m.Decode(), m.Decode())
    bench.settle()
    assert tokens(one.received()) == answer([1, 2, 3], 4)[2:]
    assert tokens(other.received()) == answer([7, 8], 3)


def test_a_holder_that_is_silent_while_others_wait_loses_its_sequence(bench):
    holder, other = bench.peer(), bench.peer()
    holder.send(m.Prefill([1, 2], 4))
    other.send(m.Generate([9], 1))
    bench.settle()
    assert other.received() == []
    bench.clock.ns += 10 * S + 1
    bench.settle()
    assert tokens(other.received()) == answer([9], 1)
    holder.send(m.Decode())
    bench.settle()
    assert [type(message) for message in holder.received()] == [m.Token, m.Failure]
    holder.send(m.Prefill([1, 2], 2), m.Decode())
    bench.settle()
    assert tokens(holder.received()) == answer([1, 2], 2)


def test_silence_costs_nothing_while_nobody_waits(bench):
    holder = bench.peer()
    holder.send(m.Prefill([1, 2], 3))
    bench.settle()
    bench.clock.ns += 1000 * S
    holder.send(m.Decode())
    bench.settle()
    assert tokens(holder.received()) == answer([1, 2], 2)


def test_a_holder_that_goes_leaves_the_engine_to_others(bench):
    holder, other = bench.peer(), bench.peer()
    holder.send(m.Prefill([1, 2], 4))
    other.send(m.Generate([9], 1))
    bench.settle()
    holder.socket.close()
    bench.settle()
    assert tokens(other.received()) == answer([9], 1)


def test_nobody_goes_on_with_the_sequence_of_another(bench):
    one, other = bench.peer(), bench.peer()
    one.send(m.Generate([1, 2, 3], 2))
    bench.settle()
    other.send(m.Decode())
    bench.settle()
    (told,) = other.received()
    assert (told.kind, "no sequence of this client" in told.message) == ("invalid", True)


def test_cancel_ends_the_running_answer_within_one_token(bench):
    peer = bench.peer()
    bench.case.before = lambda: peer.send(m.Cancel()) if len(bench.case.log) == 3 else None
    peer.send(m.Generate([5, 6], 100))
    bench.settle()
    assert peer.received()[-1] == m.Finished("cancelled", answer([5, 6], 4), m.Timing())
    assert bench.service.tally.status(0, 0)[4:7] == (0, 4, 1)


def test_cancel_ends_what_waits_and_nothing_that_comes_later(bench):
    holder, peer = bench.peer(), bench.peer()
    holder.send(m.Prefill([1], 2))
    bench.settle()
    peer.send(m.Generate([5], 3), m.Generate([6], 3), m.Cancel(), m.Generate([7], 3, stream=False))
    bench.settle()
    holder.send(m.Decode())
    bench.settle()
    ended = [(message.reason, list(message.tokens)) for message in peer.received()]
    assert ended == [("cancelled", []), ("cancelled", []), ("length", answer([7], 3))]


def test_a_client_that_goes_amid_its_answer_ends_it(bench):
    peer, other = bench.peer(), bench.peer()
    bench.case.before = lambda: peer.socket.close() if len(bench.case.log) == 2 else None
    peer.send(m.Generate([5, 6], 100))
    other.send(m.Generate([7], 2))
    bench.settle()
    assert len([entry for entry in bench.case.log if entry == ("decode", 5)]) <= 3
    assert tokens(other.received()) == answer([7], 2)


def test_half_closed_clients_get_all_they_asked_for(bench):
    peer = bench.peer()
    peer.send(m.Generate([5, 6], 3), m.Generate([8], 2, stream=False))
    peer.socket.shutdown(socket.SHUT_WR)
    bench.settle()
    found = peer.received()
    assert (tokens(found), found[-1].tokens, peer.ended) == (answer([5, 6], 3), answer([8], 2), True)


def test_sampling_belongs_to_the_request(bench):
    hot = Sampling("sample", temperature=0.7, top_k=5, seed=3)
    one, other = bench.peer(), bench.peer()
    one.send(m.Generate([1], 1, hot))
    other.send(m.Generate([2], 1))
    bench.settle()
    one.send(m.Use(hot))
    bench.settle()
    other.send(m.Prefill([3], 1))
    bench.settle()
    one.send(m.Prefill([4], 1))
    bench.settle()
    assert bench.case.log == [
        ("use", hot), ("prefill", [1]), ("use", GREEDY), ("prefill", [2]),
        ("use", hot), ("use", GREEDY), ("prefill", [3]), ("use", hot), ("prefill", [4]),
    ]  # fmt: skip


def test_a_mistake_is_told_to_its_client_and_the_next_request_is_answered(bench):
    peer = bench.peer()
    peer.send(
        m.Generate([VOCABULARY], 1), m.Prefill([5000], 1), m.Generate([1], 1, Sampling("sample", temperature=0.0)),
        m.Generate([666], 1), m.Generate([1], 1), m.Score([1], []), m.Evict(), m.Token(1, Stats()),
    )  # fmt: skip
    bench.settle()
    found = peer.received()
    told = [(message.kind, message.message) for message in found if isinstance(message, m.Failure)]
    assert told == [
        ("invalid", "the prompt holds token id 1024: the model has ids from 0 to 1023"),
        ("invalid", "the prompt holds token id 5000: the model has ids from 0 to 1023"),
        ("invalid", "the temperature must be above 0"),
        ("failed", "RuntimeError: the engine failed"),
        ("unsupported", "this server does not answer Score"),
        ("unsupported", "this server does not answer Evict"),
        ("unsupported", "this server does not answer Token"),
    ]
    assert tokens(found) == answer([1], 1)


def test_status_is_answered_while_the_engine_works_for_another(bench):
    holder, busy, asker = bench.peer(), bench.peer(), bench.peer()
    holder.send(m.Prefill([1], 2))
    bench.settle()
    busy.send(m.Generate([5], 3), m.Generate([6], 3))
    bench.clock.ns += S
    asker.send(m.GetStatus())
    bench.settle()
    (found,) = asker.received()
    status = found.status
    assert (status.clients, status.waiting, status.served, status.tokens, status.uptime_ms) == (3, 2, 1, 1, 1000)
    assert (found.model, found.folder, found.engine) == ("no model", "/no/folder", "scripted 1")
    assert found.stats.replays == 1


def test_counters_add_up(bench):
    one, other = bench.peer(), bench.peer()
    one.send(m.Generate([5], 3), m.Generate([666], 1), m.Prefill([6], 2), m.Decode())
    other.send(m.Generate([7], 2), m.Generate([8], 5), m.Cancel())
    bench.settle()
    other.send(m.GetStatus())
    bench.settle()
    status = other.received()[-1].status
    assert (status.served, status.tokens, status.cancelled, status.failed) == (2, 5, 2, 1)
    assert (status.recent, status.ttft_p50_us, status.dropped, status.refused) == (2, 0, 0, 0)


def test_latencies_are_those_of_the_servers_clock(bench):
    def pass_time() -> None:
        bench.clock.ns += 3_000_000 if len(bench.case.log) % 4 == 0 else 1_000_000

    bench.case.before = pass_time
    peer = bench.peer()
    peer.send(m.Generate([5], 4, stream=False))
    bench.settle()
    peer.send(m.Generate([6], 4, stream=False), m.GetStatus())
    bench.settle()
    first, second, found = peer.received()
    assert first.timing == second.timing == m.Timing(0, 3_000_000, 3_000_000)
    assert found.status[-5:] == (3000, 3000, 6, 1000, 1000)


def test_more_requests_than_may_wait_stay_in_the_socket(bench):
    peer = bench.peer()
    peer.send(*[m.Generate([1, number], 1, stream=False) for number in range(200)])
    bench.service.clients.look(0.0)
    assert [connection.count for connection in bench.service.clients.order] == [64]
    bench.settle(turns=1000)
    assert [found.tokens for found in peer.received()] == [answer([1, number], 1) for number in range(200)]


def test_a_connection_beyond_the_limit_is_told_and_costs_nobody(tmp_path):
    bench = Bench(clients=1)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        bench.service.listen(listener)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(path)
            bench.settle()
            second.connect(path)
            bench.settle()
            told = Channel(second, 0, lambda: None).receive()
            assert (told.kind, told.message) == ("busy", "the server has 1 clients already: try again")
            channel = Channel(first, 0, lambda: None)
            channel.send(m.Generate([5], 1, stream=False))
            bench.settle()
            assert channel.receive().tokens == answer([5], 1)
            assert bench.service.tally.refused == 1
        bench.close()


def test_a_frame_that_does_not_come_to_its_end_is_hung_up_on(bench):
    slow, other = bench.peer(), bench.peer()
    frame = encode(m.Generate([5, 6], 1))
    for byte in frame[:12]:
        slow.socket.sendall(bytes([byte]))
        bench.clock.ns += S
        bench.settle()
        bench.service.clients.check_deadlines()
    told = slow.received()
    assert [message.message for message in told] == ["a frame took longer than 10 s to come"]
    assert slow.ended
    other.send(m.Generate([7], 2))
    bench.settle()
    assert tokens(other.received()) == answer([7], 2)


def test_a_client_that_does_not_read_is_hung_up_on_by_size_and_by_time():
    bench = Bench(unread_bytes=20_000)
    deaf, dozing, other = bench.peer(buffer=4608), bench.peer(buffer=4608), bench.peer()
    deaf.send(m.Generate([5], 4000))
    dozing.send(m.Generate([6], 150))
    other.send(m.Generate([7], 2, stream=False))
    bench.settle(turns=10_000)
    assert len(bench.service.clients.order) == 2
    assert [found.tokens for found in other.received()] == [answer([7], 2)]
    assert bench.service.tally.dropped == 1
    bench.clock.ns += 11 * S
    bench.service.clients.check_deadlines()
    assert (len(bench.service.clients.order), bench.service.tally.dropped) == (1, 2)
    bench.close()


def test_what_does_not_fit_the_socket_comes_later_and_whole(bench):
    peer = bench.peer(buffer=4608)
    peer.send(m.Generate([5], 300))
    bench.settle(turns=1000)
    assert any(connection.unsent for connection in bench.service.clients.order)
    found = []
    while not (found and isinstance(found[-1], m.Finished)):
        found += peer.received()
        bench.service.clients.look(0.0)
    assert (tokens(found), found[-1].tokens) == (answer([5], 300), answer([5], 300))


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\0\0\0\1\xc1", b"\0\0\0\0", b"\0\0\0\5abcde", encode(m.Decode())[:3]])
def test_what_is_no_message_costs_its_own_connection(bench, data):
    bad, good = bench.peer(), bench.peer()
    good.send(m.Generate([5], 2))
    bad.send(m.Generate([6], 2))
    bad.socket.sendall(data)
    bad.socket.shutdown(socket.SHUT_WR)
    bench.settle()
    told = bad.received()
    assert "could not read a request" in told[-1].message
    assert bad.ended
    assert tokens(good.received()) == answer([5], 2)
    assert bench.service.tally.dropped == 1


def test_stop_ends_the_running_answer_and_tells_who_waits():
    bench = Bench()
    one, other = bench.peer(), bench.peer()
    one.send(m.Generate([5], 100))
    other.send(m.Generate([7], 2))
    bench.case.before = lambda: bench.service.stop() if len(bench.case.log) == 2 else None
    bench.service.run()
    assert one.received()[-1] == m.Finished("stopped", answer([5], 3), m.Timing())
    (told,) = other.received()
    assert (told.kind, told.message, other.ended) == ("unavailable", "the server is stopping", True)
    assert bench.case.log[-1] == "close"


def test_close_ends_a_client_and_shutdown_the_server():
    bench = Bench()
    one, other = bench.peer(), bench.peer()
    one.send(m.Close())
    bench.settle()
    assert (one.received(), one.ended) == ([m.Closed()], True)
    other.send(m.Shutdown())
    bench.service.run()
    assert (other.received(), other.ended) == ([m.Closed()], True)


def test_who_heard_nothing_while_asleep_does_not_poll_again(bench):
    polls = []
    bench.service._polled = lambda: bool(polls.append(True))
    bench.service.clients.look = lambda seconds: False
    for _ in range(3):
        bench.service.turn()
    assert len(polls) == 1
    bench.service.clients.look = lambda seconds: True
    bench.service.turn()
    bench.service.turn()
    assert len(polls) == 2
    del bench.service.clients.look


def test_what_lies_behind_a_full_queue_costs_its_own_connection_too(bench):
    bad, good = bench.peer(), bench.peer()
    good.send(m.Generate([5], 2))
    bad.socket.sendall(encode(m.Generate([6], 1)) * 64 + b"\0\0\0\5junk!")
    bench.settle(turns=1000)
    assert tokens(good.received()) == answer([5], 2)
    assert "could not read a request" in bad.received()[-1].message
    assert bad.ended
    good.send(m.Generate([7], 1))
    bench.settle()
    assert tokens(good.received()) == answer([7], 1)


def test_a_client_that_begins_anew_each_time_does_not_keep_the_engine(bench):
    eager, other = bench.peer(), bench.peer()
    eager.send(*[m.Prefill([1, number], 5) for number in range(6)])
    bench.service.clients.look(0.0)
    bench.service.turn()
    other.send(m.Generate([9], 2))
    bench.settle()
    order = [entry[1] for entry in bench.case.log if entry[0] == "prefill"]
    assert order.index([9]) <= 2
    assert len(order) == 7


def test_status_and_cancel_do_not_wait_for_the_answer_of_another(bench):
    busy, asker, waiter = bench.peer(), bench.peer(), bench.peer()
    seen: list[tuple[int, list[str]]] = []

    def act() -> None:
        if len(bench.case.log) == 3:
            asker.send(m.GetStatus())
            waiter.send(m.Generate([8], 3), m.Cancel())
        if len(bench.case.log) == 6:
            seen.append((6, [type(found).__name__ for found in [*asker.received(), *waiter.received()]]))

    bench.case.before = act
    busy.send(m.Generate([5], 50))
    bench.settle()
    assert seen == [(6, ["StatusIs", "Finished"])]
    assert tokens(busy.received()) == answer([5], 50)


def test_a_request_after_its_own_answer_keeps_its_place(bench):
    peer = bench.peer()
    peer.send(m.Generate([5], 3), m.GetStatus())
    bench.settle()
    assert [type(found).__name__ for found in peer.received()] == ["Token"] * 3 + ["Finished", "StatusIs"]


def test_what_is_not_answered_is_not_parsed(bench, monkeypatch):
    peer = bench.peer()
    plan = Plan("x", "/c", "cpu", "float32", 8, options={"many": list(range(50_000))})
    monkeypatch.setattr("harness.ipc.connection.decode", lambda body: pytest.fail("parsed"))
    peer.send(m.Prepare(plan))
    bench.settle()
    (told,) = peer.received()
    assert (told.kind, told.message) == ("unsupported", "this server does not answer Prepare")


def test_a_request_longer_than_any_that_is_answered_is_refused_by_its_length(bench):
    peer = bench.peer()
    peer.socket.sendall(encode(m.Generate([1] * 400_000, 1))[:5000])
    bench.settle()
    assert "outside the limit of 1 to 1048576 bytes" in peer.received()[-1].message


def test_who_sends_ahead_is_not_blamed_for_the_wait(bench):
    peer, frame = bench.peer(), encode(m.Generate([1], 1, stream=False))
    peer.socket.sendall(frame * 65 + frame[:10])
    bench.service.clients.look(0.0)
    bench.clock.ns += 60 * S
    bench.service.turn()
    bench.service.clients.check_deadlines()
    bench.settle(turns=1000)
    assert len(peer.received()) == 65
    peer.socket.sendall(frame[10:])
    bench.settle()
    assert len(peer.received()) == 1
    assert bench.service.tally.dropped == 0


def test_a_greedy_request_needs_no_other_sampling_whatever_its_seed(bench):
    bench.case.use = lambda sampling: pytest.fail("changed")
    peer = bench.peer()
    peer.send(m.Generate([5], 2, Sampling(seed=99)), m.Prefill([6], 1))
    bench.settle()
    assert tokens(peer.received()) == [*answer([5], 2), *answer([6], 1)]
