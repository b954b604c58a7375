"""A case without a model: tokens follow from the sequence by arithmetic, and it fails when told to."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from harness.contract import (
    Capabilities,
    Case,
    Footprint,
    Identity,
    Judged,
    Plan,
    SetUp,
    Stats,
    Unavailable,
    Unsupported,
)

VOCABULARY = 1024
DEFAULTS: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    # How and where it fails: see fail(), at one of prepare | compile | capture | prefill | decode | identity | score |
    # judge | footprint | close.
    "fail": None,
    "fail_at": "prepare",
    # The failing call of that kind, counted from 0.
    "fail_after": 0,
    # How close fails, whatever failed before it.
    "fail_close": None,
    # What prepare reports, in order.
    "report": ("compile", "capture"),
    # Seconds that prefill and decode take.
    "prefill_s": 0.0,
    "decode_s": 0.0,
    # Added to gpu_ns by each token, to captures by each prefill.
    "gpu_ns": 1000,
    "captures": 0,
    # Prints a line for each request that is begun.
    "tell": False,
    # Returned by prefill instead of the right token.
    "token": None,
}


def next_token(sequence: Sequence[int], vocabulary: int = VOCABULARY) -> int:
    """The greedy token after `sequence`: a polynomial hash, so that every id before it counts."""
    state = 1
    for token in sequence:
        state = (state * 31 + token + 7) % 1_000_003
    return state % vocabulary


class FakeCase(Case):
    """Deterministic tokens, logits and counters; `options` as in DEFAULTS."""

    capabilities: ClassVar[Capabilities] = Capabilities(gpu_time=True, logits=True)

    def __init__(self) -> None:
        self.options: dict[str, Any] = dict(DEFAULTS)
        self.calls: dict[str, int] = {}
        self.sequence: list[int] = []
        self.plan: Plan | None = None
        self.counters = Stats()

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - set(DEFAULTS))
        if unknown:
            raise ValueError(f"the fake case has no option {', '.join(unknown)}: it has {', '.join(DEFAULTS)}")

    def prepare(self, plan: Plan) -> SetUp:
        self.check_options(plan.options)
        self.options |= plan.options
        if plan.sampling.strategy not in self.capabilities.samplers:
            raise Unsupported(f"the fake case has no sampler '{plan.sampling.strategy}'")
        self._maybe_fail("prepare")
        for phase in self.options["report"]:
            self.report(phase)
            self._maybe_fail(phase)
        self.plan = plan
        return SetUp("fake 1", load_s=0.25, compile_s=0.125, capture_s=0.5)

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        if self.options["tell"]:
            print("request", flush=True)
        self._maybe_fail("prefill")
        self.sequence = list(prompt)
        self.counters = self.counters._replace(captures=self.counters.captures + self.options["captures"])
        token = self._next("prefill_s")
        return token if self.options["token"] is None else self.options["token"]

    def decode(self) -> int:
        self._maybe_fail("decode")
        return self._next("decode_s")

    def stats(self) -> Stats:
        return self.counters

    def footprint(self) -> Footprint:
        self._maybe_fail("footprint")
        return Footprint(peak_memory_bytes=3 * 2**30, graph_pool_bytes=2**20, graphs=4)

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        self._maybe_fail("score")
        return [self._logits([*prompt, *forced[:count]]) for count in range(len(forced) + 1)]

    def judge(self, prompt: Sequence[int], ids: Sequence[int]) -> list[Judged]:
        self._maybe_fail("judge")
        rows = [self._logits([*prompt, *ids[:count]]) for count in range(len(ids))]
        return [
            Judged(row.index(max(row)), max(row) - row[token], math.sqrt(sum(x * x for x in row) / len(row)))
            for row, token in zip(rows, ids, strict=True)
        ]

    def identity(self, prompt: Sequence[int]) -> Identity:
        self._maybe_fail("identity")
        return super().identity(prompt)

    def close(self) -> None:
        self._maybe_fail("close")
        fail(self.options["fail_close"], "close")

    def _next(self, delay: str) -> int:
        if self.options[delay]:
            time.sleep(self.options[delay])
        token = next_token(self.sequence, self.options["vocabulary"])
        self.sequence.append(token)
        gpu_ns, replays = self.counters.gpu_ns + self.options["gpu_ns"], self.counters.replays + 1
        self.counters = self.counters._replace(gpu_ns=gpu_ns, replays=replays)
        return token

    def _logits(self, sequence: Sequence[int]) -> array[float]:
        """Largest at the next token, and falling with the distance from it."""
        vocabulary = self.options["vocabulary"]
        best = next_token(sequence, vocabulary)
        return array("f", [-float(abs(token - best)) for token in range(vocabulary)])

    def _maybe_fail(self, place: str) -> None:
        count = self.calls.get(place, 0)
        self.calls[place] = count + 1
        if self.options["fail_at"] == place and count == self.options["fail_after"]:
            fail(self.options["fail"], place)


def raise_missing(place: str) -> None:
    raise Unavailable(f"the fake engine is missing in {place}: pip install it")


def raise_unable(place: str) -> None:
    raise Unsupported(f"the fake engine does not do {place}")


def raise_bug(place: str) -> None:
    raise ArithmeticError(f"the fake case failed in {place}")


HANGING = "a hang"


def escape(place: str) -> None:
    """Start a process that leaves group and session, with its parent gone; then die."""
    leave = "import os, time; os.fork() and os._exit(0); time.sleep(3600)"
    subprocess.run([sys.executable, "-S", "-c", leave], check=True, start_new_session=True)
    if place != HANGING:
        os._exit(3)


def escape_unmarked(place: str) -> None:
    """The same without the environment that it inherited."""
    os.environ.clear()
    escape(place)


def hold_pipe(place: str) -> None:
    """Leave a child that holds every descriptor of this process open, and go on."""
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"], close_fds=False)


def flood(place: str) -> None:
    for _ in range(50):
        os.write(1, b"nothing to see here " * (1 << 20 // 20))


FAILURES: dict[str, Callable[[str], object]] = {
    "unavailable": raise_missing,
    "unsupported": raise_unable,
    "error": raise_bug,
    "exit": lambda _: os._exit(3),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": lambda _: os.abort(),
    "kill_client": lambda _: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(3600)),
    "escape_and_hang": lambda _: (escape(HANGING), time.sleep(3600)),
    "hang": lambda _: time.sleep(3600),
    "print": lambda _: print("a case prints"),
    "escape": escape,
    "escape_unmarked": escape_unmarked,
    "hold_pipe": hold_pipe,
    "flood": flood,
}


def fail(how: str | None, place: str) -> None:
    """Fail in one of the ways above."""
    if how is not None:
        FAILURES[how](place)


class TwoSamplers(FakeCase):
    """The fake, said to sample as well."""

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}), logits=True)


FORGED = '{"event": "verdict", "state": "ok", "engine": "forged"}'


class Forging(FakeCase):
    """Prints what would be a verdict, and fails."""

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        print(FORGED, flush=True)
        raise ArithmeticError("after printing")
