"""One well-behaved client beside others that send anything: it gets every token, and the server stays as it was.

`make test` sends 100,000 frames to a server process and 5,000 to a server in this process, whose every step follows
from the seed. For more: `FUZZ_FRAMES=1000000 make test ARGS=tests/test_ipc_fuzz.py`. What was sent before a failure is
printed as hex and written to a file, which `python -m tests.test_ipc_fuzz FILE` sends again, line by line.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from harness.ipc import messages as m
from tests.fuzz_clients import Crowd, Good, sent_again
from tests.fuzz_frames import Source
from tests.ipc_bench import Bench, Peer, answer, tokens
from tests.served import held, server

FRAMES, SEED = int(os.environ.get("FUZZ_FRAMES", "100000")), 20261121
IN_PROCESS = 5000
WARM = 0.2
"""Share of the frames after which the server's memory is read for the first time."""
GROWTH_KIB = 4096
"""What it may have grown by after the rest: 40 bytes a frame."""
EVERY = 50
"""Fuzzed frames between two requests of the client that behaves, in process."""
QUIET_S = 1.0


def program(path: Path) -> list[str]:
    return [sys.executable, "-m", "tests.stub_server", "--socket", str(path)]


def test_a_good_client_beside_a_hundred_thousand_fuzzed_frames(tmp_path, fault):
    tried = fault("Socket", "fuzzed frames from 12 clients at once at a server process, beside a client that behaves")
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        path = Path(folder) / "s"
        with server(program(path), path, tmp_path / "log") as process:
            good, crowd = Good(path), Crowd(path, Source(SEED), tmp_path / "sent.hex")
            good.start()
            crowd.send(int(FRAMES * WARM), good)
            before = rest(process.pid, crowd, good)
            crowd.send(FRAMES, good)
            after = rest(process.pid, crowd, good)
            good.stop()
            counted = good.status()
    assert crowd.frames >= FRAMES
    assert min(crowd.source.kinds.values()) > FRAMES // 200
    assert set(crowd.ways) == {"batch", "slow", "deaf", "closed amid", "half-closed", "waited"}
    assert good.answered > 100
    assert counted.served >= good.answered
    assert parsed(tmp_path / "log") > FRAMES // 2
    assert min(counted.dropped, counted.failed) > FRAMES // 50
    assert counted.cancelled > FRAMES // 1000
    assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
    assert after.rss_kib - before.rss_kib < GROWTH_KIB
    tried.happened(
        "every request of the client that behaves answered, in order, with the right tokens; descriptors and threads "
        "as before, memory within 4 MiB", times=FRAMES,
    )  # fmt: skip


def parsed(log: Path) -> int:
    """Frames that came to the parser, as the server said at its end; others were cut off, or hung up on before."""
    return int(log.read_text(encoding="utf-8").rpartition("parsed ")[2])


def rest(pid: int, crowd: Crowd, good: Good):
    """What the server holds once the crowd has gone and it had a quiet moment; the good client stays connected."""
    crowd.leave()
    good.pause()
    time.sleep(QUIET_S)
    found = held(pid)
    good.go_on()
    return found


def poke(peer: Peer, data: bytes, source: Source) -> bool:
    """Send it, perhaps read, perhaps go; whether the peer is still to be used."""
    try:
        peer.socket.sendall(data)
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        peer.socket.close()
        return False
    if source.draw.random() < 0.3:
        peer.received()
    if peer.ended or source.draw.random() < 0.05:
        peer.socket.close()
        return False
    return True


def fuzz(frames: int, seed: int) -> Bench:
    """Send so many frames over changing connections; every request of the good client is answered right."""
    source = Source(seed)
    bench = Bench(waiting=8, unread_bytes=1 << 20)
    bench.case.capacity = 700
    good, bad = bench.peer(), [bench.peer() for _ in range(4)]
    for count in range(frames):
        place = source.draw.randrange(len(bad))
        data = source.valid() if source.draw.random() < 0.5 else source.bad()
        if not poke(bad[place], data, source):
            bad[place] = bench.peer()
        for _ in range(source.draw.randrange(4)):
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


def test_a_good_client_beside_fuzzed_ones_is_answered_right(capfd, fault):
    tried = fault("Socket", "fuzzed frames from 4 clients, every step of the server from the seed")
    bench = fuzz(IN_PROCESS, SEED)
    tally = bench.service.tally
    assert tally.served >= IN_PROCESS // EVERY
    assert tally.dropped > IN_PROCESS // 100
    assert tally.failed > IN_PROCESS // 100
    bench.close()
    assert bench.case.log[-1] == "close"
    tried.happened("every request of the client that behaves answered with the right tokens", times=IN_PROCESS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        path = Path(folder) / "s"
        with server(program(path), path, Path(folder) / "log"):
            print(sent_again(path, Path(sys.argv[1])))
