"""What a client may take of a server in time and count, and what of that another client notices: nothing."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest

from harness.ipc import messages as m
from harness.ipc.channel import Channel
from harness.ipc.connection import Limits, S
from harness.ipc.server import listen
from harness.ipc.wire import HEADER, encode
from tests.ipc_bench import Bench, answer, tokens

NOBODY = 65534


def framed(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


def good_answer(bench: Bench, prompt: list[int]) -> None:
    """A client that behaves is answered right."""
    peer = bench.peer()
    peer.send(m.Generate(prompt, 2))
    bench.settle(turns=2000)
    assert tokens(peer.received()) == answer(prompt, 2)
    peer.socket.close()
    bench.settle()


@pytest.mark.parametrize("depth", [900, 1000, 1019, 1030, 200_000])
def test_lists_in_lists_cost_their_own_connection(bench, fault, depth):
    tried = fault("Socket", "msgpack lists nested 900 to 200,000 levels deep")
    bad = bench.peer()
    bad.socket.sendall(framed(b"\x96\x12" + b"\x91" * depth + b"\x01" * 5))
    bench.settle()
    assert "could not read a request" in bad.received()[-1].message
    assert bad.ended
    good_answer(bench, [5])
    tried.happened("hung up on with one sentence; the client beside it answered")


def test_announced_sizes_take_no_memory(bench, fault):
    tried = fault("Socket", "1,000 nested lists that announce 1,000,000 items each, maps, texts and extensions alike")
    huge = (10**6).to_bytes(4, "big")
    heads = [b"\xdd" + huge, b"\xdf" + huge, b"\xdb" + huge, b"\xc6" + huge, b"\xc9" + huge + b"\x05"]
    for head in heads:
        bad = bench.peer()
        bad.socket.sendall(framed(b"\x96\x12" + head * 1000 + b"\x01" * 1000))
        bench.settle()
        assert "could not read a request: the frame is no msgpack array" in bad.received()[-1].message
    good_answer(bench, [6])
    tried.happened("hung up on with one sentence; the client beside it answered", times=len(heads))


@pytest.mark.parametrize(
    "value", [msgpack.Timestamp(1, 2), msgpack.ExtType(5, b"x" * 9), 2**64 - 1, -(2**63), {"a": 1}]
)
def test_values_that_no_field_has_are_refused(bench, fault, value):
    tried = fault("Socket", "extension types, timestamps, integers of 64 bits and maps as fields")
    bad = bench.peer()
    bad.socket.sendall(framed(msgpack.packb([18, value, 1, ["greedy", 1.0, 0, 1.0, 0, 1.0], b"", True])))
    bench.settle()
    assert "could not read a request" in bad.received()[-1].message
    good_answer(bench, [7])
    tried.happened("hung up on with one sentence; the client beside it answered")


@pytest.mark.parametrize("request_", [m.Cancel(), m.GetStatus()], ids=lambda one: type(one).__name__)
def test_more_messages_within_a_second_than_any_engine_answers_are_hung_up_on(fault, request_):
    tried = fault("Socket", "more than 20,000 messages within a second, answered without the engine")
    bench, frame = Bench(), encode(request_)
    flood, good = bench.peer(), bench.peer()
    left = memoryview(frame * 25_000)
    while not flood.ended:
        with suppress(BlockingIOError, BrokenPipeError):
            left = left[flood.socket.send(left) :]
        bench.settle(turns=30_000)
        flood.received()
    assert "more than 20000 messages came within a second" in str(bench.service.clients.error)
    assert bench.service.tally.dropped == 1
    good.send(m.Generate([5], 2))
    bench.settle()
    assert tokens(good.received()) == answer([5], 2)
    bench.close()
    tried.happened("hung up on with one sentence; the client beside it answered")


def test_as_many_messages_over_two_seconds_are_answered(bench):
    peer = bench.peer()
    for _ in range(2):
        for _ in range(190):
            peer.send(*[m.GetStatus()] * 100)
            bench.settle(turns=1000)
            assert len(peer.received()) == 100
        bench.clock.ns += S
    assert bench.service.tally.dropped == 0


def test_status_asked_without_end_delays_a_token_by_one_answer(bench, fault):
    tried = fault("Socket", "1,000 requests for the status, sent at once beside an answer of 50 tokens")
    asker, busy = bench.peer(), bench.peer()
    asker.send(*[m.GetStatus()] * 1000)
    busy.send(m.Generate([5], 50))
    bench.service.clients.look(0.0)
    answered = []
    for _ in range(40):
        bench.service.turn()
        answered.append(len(asker.received()))
    assert max(answered) == 2
    bench.settle(turns=2000)
    assert tokens(busy.received()) == answer([5], 50)
    tried.happened("one status a token; every request answered, and the tokens right")


def test_a_holder_that_dawdles_loses_its_sequence_after_a_minute_in_sum(bench, fault):
    tried = fault("Socket", "a sequence taken token by token, 9 s of silence before each, while another waits")
    holder, other = bench.peer(), bench.peer()
    holder.send(m.Prefill([1, 2], 400))
    other.send(m.Generate([9], 1))
    bench.settle()
    taken = 0
    while not other.received():
        bench.clock.ns += 9 * S
        bench.settle()
        holder.send(m.Decode())
        bench.settle()
        taken += 1
        assert taken < 10
    assert bench.clock.ns > 60 * S
    assert [type(message) for message in holder.received()] == [m.Token, m.Counted] * taken + [m.Failure]
    tried.happened("the hold ends after 60 s of silence in sum, and the one who waits is answered")


def test_who_dawdles_alone_keeps_its_sequence(bench):
    holder, other = bench.peer(), bench.peer()
    holder.send(m.Prefill([1, 2], 40))
    for _ in range(20):
        bench.clock.ns += 9 * S
        holder.send(m.Decode())
        bench.settle()
    other.send(m.Generate([9], 1))
    bench.settle()
    holder.send(*[m.Decode()] * 19)
    bench.settle()
    assert tokens(holder.received()) == answer([1, 2], 40)
    assert tokens(other.received()) == answer([9], 1)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="s") as made:
        yield Path(made)


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    return made


def test_a_silent_client_makes_room_when_all_places_are_taken(folder, fault):
    tried = fault("Socket", "all 32 places taken by clients that say nothing")
    bench = Bench()
    places = Limits().clients
    with listen(folder / "s") as listener:
        bench.service.listen(listener)
        silent = []
        for _ in range(places):
            silent.append(connected(folder / "s"))
            bench.settle()
        with connected(folder / "s") as early:
            bench.settle()
            assert Channel(early, 0, lambda: None).receive().kind == "busy"
        bench.clock.ns += 61 * S
        with connected(folder / "s") as late:
            bench.settle()
            channel = Channel(late, 0, lambda: None)
            channel.send(m.Generate([5], 2, stream=False))
            bench.settle()
            assert channel.receive().tokens == answer([5], 2)
            told = Channel(silent[0], 0, lambda: None).receive().message
            assert told == "silent for 60 s, and others want to connect"
        assert len(bench.service.clients.order) == places
        for one in silent:
            one.close()
        bench.close()
    tried.happened("the next is told to try again; after 60 s the one that was silent longest makes room", times=places)


def test_a_process_of_another_user_is_hung_up_on(folder, fault):
    tried = fault("Socket", "a process of another user connects, the folder opened to it on purpose")
    if os.getuid() != 0:
        pytest.skip("only root can start a process of another user")
    bench = Bench()
    with listen(folder / "s") as listener:
        bench.service.listen(listener)
        folder.chmod(0o711)
        (folder / "s").chmod(0o777)
        child = as_nobody(folder / "s")
        while bench.service.tally.refused == 0:
            bench.service.clients.look(0.25)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(bench.service.clients.order) == 0
        with connected(folder / "s") as own:
            channel = Channel(own, 0, lambda: None)
            channel.send(m.Generate([5], 2, stream=False))
            bench.settle()
            assert channel.receive().tokens == answer([5], 2)
        bench.close()
    tried.happened("hung up on without a word, and counted; this user's own is answered")


def test_a_process_of_another_user_does_not_reach_the_socket(folder, fault):
    tried = fault("Socket", "a process of another user connects to a socket in its folder of mode 0700")
    if os.getuid() != 0:
        pytest.skip("only root can start a process of another user")
    with listen(folder / "s"):
        assert os.waitstatus_to_exitcode(os.waitpid(as_nobody(folder / "s"), 0)[1]) == 13
    tried.happened("refused by the system: permission denied")


def as_nobody(path: Path) -> int:
    """A child of another user that connects and waits for the end; its exit code is 0, or the error's number."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setuid(NOBODY)
            with connected(path) as made:
                made.settimeout(20)
                code = 98 if made.recv(100) else 0
        except ConnectionResetError:
            code = 0
        except OSError as error:
            code = error.errno or 97
        finally:
            os._exit(code)
    return child
