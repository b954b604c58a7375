"""Answers of a server: streamed, stopped, cancelled, counted, told what was wrong."""

from __future__ import annotations

import socket

import pytest

from harness.contract import Sampling
from harness.ipc import messages as m
from tests.fakes import VOCABULARY
from tests.ipc_bench import GREEDY, Bench, answer, tokens


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


def test_a_client_that_asks_nothing_more_is_let_go(bench):
    peer, other = bench.peer(), bench.peer()
    peer.send(m.Generate([5], 1, stream=False))
    bench.settle()
    peer.socket.shutdown(socket.SHUT_WR)
    bench.settle()
    assert [found.tokens for found in peer.received()] == [answer([5], 1)]
    assert peer.ended
    assert len(bench.service.clients.order) == 1
    assert not other.ended


def test_a_token_that_cannot_be_sent_is_a_failure_with_no_counters_behind_it(bench):
    peer = bench.peer()
    bench.case._next = lambda: -1
    peer.send(m.Prefill([5], 2), m.Decode(), m.Prefill([5], 1))
    bench.settle()
    assert [type(found) for found in peer.received()] == [m.Failure] * 3
    assert (bench.service.tally.served, bench.service.tally.tokens, bench.service.tally.failed) == (0, 0, 3)
    del bench.case._next
    peer.send(m.Prefill([5], 1))
    bench.settle()
    assert [type(found) for found in peer.received()] == [m.Token, m.Counted]


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
        m.Generate([666], 1), m.Generate([1], 1), m.Score([1], []), m.Evict(), m.Token(1),
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


def test_a_greedy_request_needs_no_other_sampling_whatever_its_seed(bench):
    bench.case.use = lambda sampling: pytest.fail("changed")
    peer = bench.peer()
    peer.send(m.Generate([5], 2, Sampling(seed=99)), m.Prefill([6], 1))
    bench.settle()
    assert tokens(peer.received()) == [*answer([5], 2), *answer([6], 1)]
