"""The server inside this process: who may connect, and what it answers to bytes that no client would send."""

from __future__ import annotations

import gc
import os
import socket

import pytest

from harness.contract import Plan
from harness.ipc import messages as m
from harness.ipc.address import private_folder
from harness.ipc.channel import Channel
from harness.ipc.clients import peer_uid
from harness.ipc.connection import OWNED
from harness.ipc.server import accept, listen
from harness.ipc.service import Service
from harness.ipc.wire import encode

TARGET = "tests.fakes.FakeCase"
PLAN = Plan("fake", "/checkpoint", "cpu", "float32", 400)


@pytest.fixture
def folder():
    """A private folder, emptied and removed at the end."""
    made = private_folder()
    yield made
    for left in made.iterdir():
        left.unlink()
    made.rmdir()


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_the_server_refuses_a_folder_open_to_others(folder, mode):
    folder.chmod(mode)
    with pytest.raises(ValueError, match="closed to others"):
        listen(folder / "s")


def test_the_server_hangs_up_on_another_user(folder, monkeypatch):
    users = iter([os.getuid() + 1, os.getuid()])
    monkeypatch.setattr("harness.ipc.server.peer_uid", lambda _: next(users))
    path = folder / "s"
    with listen(path) as listener, socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as own:
        listener.listen(2)
        other.connect(str(path))
        own.connect(str(path))
        with accept(listener) as connection:
            assert other.recv(1) == b""
            connection.sendall(b"x")
            assert own.recv(1) == b"x"


def test_the_kernel_says_who_the_peer_is():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.getuid()


@pytest.fixture
def served():
    """A server on a socket pair of this process: what it answers to bytes that no client would send."""

    def answers(*requests: bytes) -> tuple[list[m.Message], ValueError | None]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"".join(requests))
            theirs.shutdown(socket.SHUT_WR)
            error = None
            service = Service(TARGET, None, OWNED)
            service.adopt(ours)
            try:
                service.run()
            except ValueError as raised:
                error = raised
            client, received = Channel(theirs, 0, lambda: None), []
            while (message := client.receive()) is not None:
                received.append(message)
            return received, error

    yield answers
    # What serving does to a process of its own is undone in this one.
    gc.enable()
    gc.unfreeze()


def test_a_malformed_request_is_answered_and_ends_the_service(served):
    received, error = served(b"\0\0\0\1\xc1", encode(m.Decode()))
    assert [type(message) for message in received] == [m.Failure]
    assert "could not read a request" in received[0].message
    assert "no msgpack array" in str(error)


def test_an_oversized_request_is_answered_without_reading_it(served):
    received, error = served(b"\xff\xff\xff\xff")
    assert "outside the limit" in received[0].message
    assert "outside the limit" in str(error)


def test_a_client_that_goes_away_inside_a_frame_ends_the_service(served):
    received, error = served(b"\0\0\0\7abc")
    assert "ended inside a frame" in received[0].message
    assert "ended inside a frame" in str(error)


def test_requests_out_of_order_are_failures(served):
    prepare = encode(m.Prepare(PLAN))
    requests = (encode(m.Decode()), encode(m.Closed()), prepare, prepare, encode(m.Close()), encode(m.Decode()))
    received, error = served(*requests)
    assert error is None
    says = [getattr(message, "message", type(message).__name__) for message in received]
    assert says == [
        "RuntimeError: the case is not prepared",
        "this server does not answer Closed",
        *["Stage"] * 2,
        "Ready",
        "RuntimeError: prepare was called twice",
        "Closed",
    ]
