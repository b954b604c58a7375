"""Frames out of a stream: in pieces, several at once, too long, cut off."""

from __future__ import annotations

import socket
import threading

import pytest

from harness.contract import REHEARSE_NS
from harness.ipc import channel as channel_module
from harness.ipc import messages as m
from harness.ipc.channel import BLOCKING, SPIN, Channel, Spin, spin_here
from harness.ipc.fields import WireError
from harness.ipc.frames import CAPACITY
from harness.ipc.rehearsal import Rehearsal
from harness.ipc.wire import FRAME_LIMIT, HEADER, encode

TOKEN = m.Token(7)


def never() -> None:
    raise AssertionError("the channel waited")


@pytest.fixture(params=[0, 500], ids=["blocking", "spin"])
def ends(request):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours, request.param, never), theirs


def test_messages_come_in_order_though_sent_at_once(ends):
    channel, peer = ends
    peer.sendall(encode(TOKEN) + encode(m.Closed()) + encode(m.Decode()))
    assert [channel.receive() for _ in range(3)] == [TOKEN, m.Closed(), m.Decode()]


def test_a_message_may_come_byte_by_byte(ends):
    channel, peer = ends
    frame = encode(TOKEN)

    def dribble() -> None:
        for position in range(len(frame)):
            peer.sendall(frame[position : position + 1])

    sender = threading.Thread(target=dribble)
    sender.start()
    assert channel.receive() == TOKEN
    sender.join()


def test_a_large_message_between_small_ones(ends):
    channel, peer = ends
    large = m.Logits(bytes(range(256)) * (CAPACITY // 64))
    frames = b"".join(encode(message) for message in (TOKEN, large, TOKEN, large, m.Closed()))
    sender = threading.Thread(target=peer.sendall, args=(frames,))
    sender.start()
    assert [channel.receive() for _ in range(5)] == [TOKEN, large, TOKEN, large, m.Closed()]
    sender.join()


def test_many_messages_wrap_around_the_buffer(ends):
    channel, peer = ends
    prompt = m.Prefill(list(range(5000)), 3)
    for _ in range(3 * CAPACITY // 20_000):
        peer.sendall(encode(prompt) + encode(TOKEN))
        assert (channel.receive(), channel.receive()) == (prompt, TOKEN)


def test_send_is_one_frame(ends):
    channel, peer = ends
    channel.send(TOKEN)
    assert peer.recv(4096) == encode(TOKEN)


def test_the_end_between_messages_is_none(ends):
    channel, peer = ends
    peer.sendall(encode(TOKEN))
    peer.close()
    assert channel.receive() == TOKEN
    assert channel.receive() is None


@pytest.mark.parametrize("kept", [1, 3, 4, 5, -1])
def test_the_end_inside_a_frame_is_an_error(ends, kept):
    channel, peer = ends
    peer.sendall(encode(TOKEN)[:kept])
    peer.close()
    with pytest.raises(WireError, match="ended inside a frame"):
        channel.receive()


@pytest.mark.parametrize("length", [0, FRAME_LIMIT + 1, 2**32 - 1])
def test_a_length_outside_the_limit_is_refused_before_it_is_read(ends, length):
    channel, peer = ends
    peer.sendall(HEADER.pack(length))
    with pytest.raises(WireError, match="outside the limit"):
        channel.receive()


def test_an_idle_wait_asks_whether_the_other_side_lives():
    def dead() -> None:
        raise RuntimeError("nobody there")

    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(RuntimeError, match="nobody there"):
        Channel(ours, 0, dead).receive()


@pytest.mark.parametrize(("cpus", "wanted"), [(1, BLOCKING), (3, BLOCKING), (4, SPIN), (16, SPIN)])
def test_spinning_wants_four_cpus(monkeypatch, cpus, wanted):
    monkeypatch.setattr(channel_module.os, "sched_getaffinity", lambda _: set(range(cpus)))
    assert spin_here() == wanted


def test_the_waiting_is_named():
    assert str(Spin()) == "unix, blocking"
    assert str(Spin(300, 200)) == "unix, spin 300 us (client) and 200 us (server)"


def test_rehearsals_come_at_their_time_and_leave_messages_alone():
    played = []
    rehearsal = Rehearsal([lambda: played.append("first"), lambda: played.append("second")])
    rehearsal.rest(1_000_000)
    half = REHEARSE_NS // 2
    for now in (1_000_000, 1_000_000 + half - 1, 1_000_000 + half, 1_000_001 + half, 1_000_000 + 2 * half, 9_000_000):
        rehearsal.due(now)
        played.append(now)
    assert played == [
        1_000_000, 1_099_999, "first", 1_100_000, 1_100_001, "second", 1_200_000, "first", 9_000_000,
    ]  # fmt: skip
    rehearsal.play()
    assert played[-1] == "second", "it goes on where it was"


def test_without_parts_nothing_is_rehearsed():
    rehearsal = Rehearsal()
    rehearsal.rest(0)
    assert rehearsal.due(10**12) is None


def test_a_message_that_comes_late_is_read_between_rehearsals():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours, 10_000_000, never)
        timer = threading.Timer(0.02, theirs.sendall, [encode(TOKEN)])
        timer.start()
        assert channel.receive() == TOKEN
        timer.join()
