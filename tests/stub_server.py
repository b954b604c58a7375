"""A server of its own process over a case without a model, with faults for those who must notice them.

    python -m tests.stub_server --socket PATH [--leak BYTES] [--slower US] [--descriptors N]

`--leak`: bytes that are kept of each request; `--slower`: microseconds that each request takes longer than the last;
`--descriptors`: requests to each descriptor that stays open.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from harness.contract import Capabilities, Case, Plan, Sampling, SetUp, Stats
from harness.ipc.answers import Served, freeze
from harness.ipc.connection import Connection, Limits
from harness.ipc.server import listen
from harness.ipc.service import Service
from tests.fakes import VOCABULARY

QUICK = Limits(frame_s=0.5, stall_s=0.5, hold_s=0.05, held_s=0.5, idle_s=0.5, unread_bytes=1 << 20)
CAPACITY = 700


class Quick(Case):
    """The tokens of `tests.fakes.next_token`, without going through the sequence again for each."""

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}))

    def __init__(self, leak: int = 0, slower_us: float = 0.0, descriptors: int = 0) -> None:
        self.leak, self.slower_us, self.descriptors = leak, slower_us, descriptors
        self.kept: list[object] = []
        self.state = self.requests = self.length = 0

    def prepare(self, plan: Plan) -> SetUp:
        return SetUp("stub 1")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        if len(prompt) + new_tokens > CAPACITY:
            raise ValueError(f"the context is {CAPACITY} tokens")
        self.requests += 1
        self._fault()
        self.state = 1
        for token in prompt:
            self._read(token)
        return self.decode()

    def decode(self) -> int:
        token = self.state % VOCABULARY
        self._read(token)
        return token

    def use(self, sampling: Sampling) -> None:
        if not sampling.temperature > 0:
            raise ValueError("the temperature must be above 0")

    def stats(self) -> Stats:
        return Stats(replays=self.requests)

    def close(self) -> None:
        pass

    def _read(self, token: int) -> None:
        self.state = (self.state * 31 + token + 7) % 1_000_003

    def _fault(self) -> None:
        if self.leak:
            self.kept.append(bytearray(os.urandom(self.leak)))
        if self.descriptors and self.requests % self.descriptors == 0:
            self.kept.append(os.open(os.devnull, os.O_RDONLY))
        if self.slower_us:
            until = time.perf_counter() + 2e-4 + self.requests * self.slower_us * 1e-6
            while time.perf_counter() < until:
                pass


def main() -> None:
    """Serve until SIGTERM or a Shutdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--leak", type=int, default=0)
    parser.add_argument("--slower", type=float, default=0.0)
    parser.add_argument("--descriptors", type=int, default=0)
    args = parser.parse_args()
    case = Quick(args.leak, args.slower, args.descriptors)
    frames = counted()
    freeze()
    served = Served(case, SetUp("stub 1"), "stub", "/no/folder", VOCABULARY, Sampling())
    with listen(args.socket) as listener:
        service = Service("", served, QUICK)
        signal.signal(signal.SIGTERM, lambda _signal, _frame: service.stop())
        service.listen(listener)
        service.run()
    print("parsed", frames[0], flush=True)


def counted() -> list[int]:
    """Have frames counted that come to the parser."""
    frames, parse = [0], Connection._parse

    def counting(self: Connection, body: memoryview) -> object:
        frames[0] += 1
        return parse(self, body)

    Connection._parse = counting  # type: ignore[method-assign, assignment]
    return frames


if __name__ == "__main__":
    main()
