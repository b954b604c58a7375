"""What one client may cost another: nothing, whatever it sends, leaves unread or never ends."""

from __future__ import annotations

import socket

import pytest

from harness.contract import Plan
from harness.ipc import messages as m
from harness.ipc.channel import Channel
from harness.ipc.connection import S
from harness.ipc.wire import encode
from tests.ipc_bench import Bench, answer, tokens


def test_more_requests_than_may_wait_stay_in_the_socket(bench):
    peer = bench.peer()
    peer.send(*[m.Generate([1, number], 1, stream=False) for number in range(200)])
    bench.service.clients.look(0.0)
    assert [connection.count for connection in bench.service.clients.order] == [64]
    bench.settle(turns=1000)
    assert [found.tokens for found in peer.received()] == [answer([1, number], 1) for number in range(200)]


def test_who_has_as_many_as_may_wait_is_not_read_from(bench):
    peer = bench.peer()
    peer.send(*[m.Generate([number] * 300, 1, stream=False) for number in range(1, 161)])
    while bench.service.clients.look(0.0):
        assert bench.service.clients.order[0].count <= 64
    assert bench.service.clients.order[0].count == 64
    bench.settle(turns=1000)
    assert [found.tokens for found in peer.received()] == [answer([number] * 300, 1) for number in range(1, 161)]


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


def test_who_reads_on_is_streamed_to_before_the_answer_has_ended(bench):
    peer, found, behind = bench.peer(buffer=4608), [], 0
    peer.send(m.Generate([5], 2000))
    bench.service.clients.look(0.0)
    for _ in range(15):
        for _ in range(100):
            bench.service.turn()
            bench.clock.ns += S // 100
        behind += any(connection.unsent for connection in bench.service.clients.order)
        found += peer.received()
        bench.service.clients.check_deadlines()
        assert bench.service.tally.dropped == 0, "it takes what is there once a second"
    assert behind, "its socket was full at times"
    assert len(found) > 100
    assert tokens(found) == answer([5], 2000)[: len(found)]


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
