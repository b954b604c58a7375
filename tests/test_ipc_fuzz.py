"""One well-behaved client beside others that send anything: it gets every token, and the server goes on.

For a longer run: `python -m tests.test_ipc_fuzz FRAMES SEED`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

from harness.contract import Sampling, Stats
from harness.ipc import messages as m
from harness.ipc.wire import HEADER, encode
from tests.ipc_bench import Bench, Peer, answer, tokens

FRAMES, SEED = 3000, 20260423
EVERY = 25
"""Fuzzed frames between two requests of the client that behaves."""


def valid(draw: random.Random) -> bytes:
    """A request as a client may send it, sensible or not."""
    prompt = [draw.randrange(draw.choice([1024, 2**31])) for _ in range(draw.choice([1, 5, 600]))]
    sampling = Sampling(draw.choice(["greedy", "sample"]), draw.choice([0.0, 0.5, 1e300]), draw.randrange(9), 0.9, 7)
    requests: list[m.Message] = [
        m.Generate(prompt, draw.choice([1, 3, 50, 2**31 - 1]), sampling, prompt[:2], draw.random() < 0.5),
        m.Prefill(prompt, draw.choice([1, 4])), m.Decode(), m.Cancel(), m.GetStatus(), m.Use(sampling),
        m.GetCaptures(), m.GetFootprint(), m.Evict(), m.Score([1], [2]), m.Token(3, Stats()), m.Closed(), m.Close(),
    ]  # fmt: skip
    return encode(draw.choice(requests))


def noise(draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice([1, 3, 40, 5000]))


def damaged(draw: random.Random) -> bytes:
    """A valid frame with some bytes changed, its length as it was."""
    frame = bytearray(valid(draw))
    for _ in range(draw.choice([1, 3])):
        frame[draw.randrange(HEADER.size, len(frame))] = draw.randrange(256)
    return bytes(frame)


def cut(draw: random.Random) -> bytes:
    frame = valid(draw)
    return frame[: draw.randrange(len(frame))]


def huge(draw: random.Random) -> bytes:
    return HEADER.pack(draw.choice([0, 2**23 + 1, 2**32 - 1])) + noise(draw)


KINDS: list[Callable[[random.Random], bytes]] = [valid, valid, valid, noise, damaged, cut, huge]


def poke(peer: Peer, data: bytes, draw: random.Random) -> bool:
    """Send it, perhaps read, perhaps go; whether the peer is still to be used."""
    try:
        peer.socket.sendall(data)
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        peer.socket.close()
        return False
    if draw.random() < 0.3:
        peer.received()
    if peer.ended or draw.random() < 0.05:
        peer.socket.close()
        return False
    return True


def fuzz(frames: int, seed: int) -> Bench:
    """Send so many frames over changing connections; every request of the good client is answered right."""
    draw = random.Random(seed)
    bench = Bench(waiting=8, unread_bytes=1 << 20)
    bench.case.capacity = 700
    good, bad = bench.peer(), [bench.peer() for _ in range(4)]
    for count in range(frames):
        place = draw.randrange(len(bad))
        if not poke(bad[place], draw.choice(KINDS)(draw), draw):
            bad[place] = bench.peer()
        for _ in range(draw.randrange(4)):
            if not bench.service.idle:
                bench.service.turn()
        bench.service.clients.look(0.0)
        if count % EVERY == 0:
            check_good(bench, good, [count % 1000 + 1, 2, 3])
            bench.clock.ns += 11 * 10**9  # who has sent half a frame, or holds the engine, has lost it by now
            bench.service.clients.check_deadlines()
    return bench


def check_good(bench: Bench, good: Peer, prompt: list[int]) -> None:
    """A request of the good client, answered whole while the others do what they do."""
    good.send(m.Generate(prompt, 3))
    found: list[m.Message] = []
    for _ in range(20_000):
        bench.clock.ns += 10**8
        if not bench.service.idle:
            bench.service.turn()
        bench.service.clients.look(0.0)
        found += good.received()
        if found and isinstance(found[-1], m.Finished):
            break
    assert (tokens(found), found[-1].tokens) == (answer(prompt, 3), answer(prompt, 3))


def test_a_good_client_beside_fuzzed_ones_is_answered_right(capfd):
    bench = fuzz(FRAMES, SEED)
    tally = bench.service.tally
    assert tally.served >= FRAMES // EVERY
    assert tally.dropped > FRAMES // 100
    assert tally.failed > FRAMES // 100
    bench.close()
    assert bench.case.log[-1] == "close"


if __name__ == "__main__":
    done = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    print(done.service.tally.status(0, 0))
    done.close()
