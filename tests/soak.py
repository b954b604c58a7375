"""`python -m tests.soak`: many requests through a served engine, and what they leave behind in it.

A server process of its own; one client asks requests of fixed kinds in a random order, block by block the same ones,
and checks every token. In between answers are cancelled, clients vanish amid theirs, several ask at once, and the pool
has a graph too few, so that graphs are evicted and captured in the background the whole time. At the end a fresh server
is asked the same in turns with the old one. `python -m reports.soak FILE` judges the file that this writes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.contract import Sampling
from harness.ipc import messages as m
from harness.ipc.address import connect
from harness.ipc.channel import Channel, spin_here
from harness.output.manifest import commit_text
from harness.processes.progress import watcher
from reports.soak import LEAST_BLOCKS
from reports.soak import main as judge
from tests.served import ROOT, Held, held, server

LENGTHS = (4, 12, 20, 28, 36, 44, 52, 60)
"""Prompt lengths; they need four graphs where the pool keeps three."""
VARIANTS = 8
"""Prompts of each length, which ask for one to three tokens; two of them sample, each with its seed."""
GRAPHS = ["cases.jit_cuda_graph.graph.largest=64", "cases.jit_cuda_graph.graph.max_graphs=3"]
MODELS = {"cpu": ["model=tiny", "device=cpu"], "cuda": ["model=llama2_7b", "device=cuda"]}
BLOCKS = 190
LEAST = LEAST_BLOCKS * len(LENGTHS) * VARIANTS
LONG = 60
"""Tokens of an answer that is cancelled, or whose client vanishes."""
SEED = 20261121
MIB = 1 << 20
Kind = tuple[int, int]


class Wrong(RuntimeError):
    """The server answered otherwise than it had, or not at all."""


@dataclass
class Record:
    """What the file holds."""

    facts: dict[str, Any]
    blocks: list[dict[str, Any]] = field(default_factory=list)
    age: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    ended: str = "whole"

    def count(self, what: str, times: int = 1) -> None:
        """Something happened."""
        self.counts[what] = self.counts.get(what, 0) + times

    def write(self, path: Path) -> None:
        """Whole, or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")
        aside.replace(path)


def request(kind: Kind, stream: bool = False) -> m.Generate:
    """The request of a kind, the same each time."""
    length, variant = kind
    draw = random.Random(length * 100 + variant)
    sampling = Sampling("sample", 0.8, 50, 1.0, variant) if variant % 4 == 3 else Sampling()
    return m.Generate([draw.randrange(2, 1000) for _ in range(length)], 1 + variant % 3, sampling, stream=stream)


class Client:
    """One connection; every answer is checked against the first one to the same request.

    On a GPU a graph and the way without one may round otherwise, so there other tokens are counted and fail nothing.
    """

    def __init__(self, path: Path, known: dict[Kind, list[int]], record: Record) -> None:
        self._record = record
        self.channel = Channel(connect(path), spin_here().client_us, lambda: None)
        self._known = known

    def ask(self, kind: Kind) -> float:
        """Milliseconds from the request to its whole answer."""
        asked = request(kind)
        started = time.perf_counter_ns()
        self.channel.send(asked)
        found = self.channel.receive()
        took = time.perf_counter_ns() - started
        self.check(kind, found)
        return took / 1e6

    def check(self, kind: Kind, found: m.Message | None) -> None:
        """Raises Wrong for an answer that is none, or another than before."""
        if not isinstance(found, m.Finished) or found.reason != "length":
            raise Wrong(f"a request of {kind[0]} tokens was answered with {found}")
        if self._known.setdefault(kind, list(found.tokens)) == list(found.tokens):
            return
        self._record.count("answered with other tokens than before")
        if self._record.facts["device"] == "cpu":
            raise Wrong(f"a request of {kind[0]} tokens got {found.tokens}, before it was {self._known[kind]}")

    def cancelled(self) -> None:
        """Begin a long answer and cancel it after its first token."""
        self.channel.send(m.Generate([5, 6, 7], LONG))
        self.channel.receive()
        self.channel.send(m.Cancel())
        while isinstance(found := self.channel.receive(), m.Token):
            continue
        if not isinstance(found, m.Finished) or found.reason not in ("cancelled", "length"):
            raise Wrong(f"a cancelled request was answered with {found}")

    def status(self) -> m.StatusIs:
        """How the server is."""
        self.channel.send(m.GetStatus())
        found = self.channel.receive()
        if not isinstance(found, m.StatusIs):
            raise Wrong(f"the status was answered with {found}")
        return found

    def graph_pool_mib(self) -> float:
        """Device memory that graphs hold."""
        self.channel.send(m.GetFootprint())
        found = self.channel.receive()
        if not isinstance(found, m.FootprintIs):
            raise Wrong(f"the footprint was answered with {found}")
        return found.footprint.graph_pool_bytes / MIB


class Soak:
    """Requests until there were enough of them; `record` grows block by block."""

    def __init__(self, path: Path, pid: int, requests: int, record: Record, seed: int) -> None:
        self.path, self.pid, self.requests, self.record = path, pid, requests, record
        self.draw = random.Random(seed)
        self.known: dict[Kind, list[int]] = {}
        self.main, *self.others = [Client(path, self.known, record) for _ in range(4)]
        self.done = 0
        self.kinds = [(length, variant) for length in LENGTHS for variant in range(VARIANTS)]
        self.rounds = max(1, requests // (BLOCKS * len(self.kinds)))

    def block(self) -> None:
        """Each kind of request so many times, in a random order, and the rest between them."""
        kinds = self.kinds * self.rounds
        self.draw.shuffle(kinds)
        before, asked = held(self.pid), self.done
        took: dict[int, list[float]] = {length: [] for length in LENGTHS}
        for place, kind in enumerate(kinds):
            took[kind[0]].append(self.main.ask(kind))
            self.done += 1
            if place % 16 == 15:
                self.disturb(place // 16)
        now = held(self.pid)
        self.record.count("asked and checked", len(kinds))
        self.record.blocks.append(
            {
                "requests": self.done,
                "ms": {length: statistics.median(values) for length, values in took.items()},
                "cpu_ms": 1e3 * (now.cpu_s - before.cpu_s) / (self.done - asked),
                **readings(now, held(os.getpid())),
                **self.memory(),
            }
        )

    def disturb(self, turn: int) -> None:
        """Cancel an answer, vanish amid one, or ask with several clients at once."""
        if turn % 4 == 0:
            self.others[0].cancelled()
            self.record.count("cancelled")
            self.done += 1
        elif turn % 4 == 1:
            leaver = Client(self.path, self.known, self.record)
            leaver.channel.send(m.Generate([5, 6, 7], LONG))
            leaver.channel.receive()
            leaver.channel.close()
            self.record.count("left by a client that vanished")
            self.done += 1
        elif turn % 4 == 2:
            kinds = self.draw.sample(self.kinds, len(self.others))
            for other, kind in zip(self.others, kinds, strict=True):
                other.channel.send(request(kind))
            for other, kind in zip(self.others, kinds, strict=True):
                other.check(kind, other.channel.receive())
            self.record.count("asked at once with others", len(kinds))
            self.done += len(kinds)

    def memory(self) -> dict[str, float]:
        """Graphs' counters, and the memory of the card."""
        stats = self.main.status().stats
        found = {name: float(getattr(stats, name)) for name in ("captures", "evictions", "failures", "hits", "misses")}
        found["graph_pool_mib"] = self.main.graph_pool_mib() if len(self.record.blocks) % 10 == 0 else -1.0
        if self.record.facts["device"] == "cuda":
            found["gpu_mib"] = gpu_mib()
        return found

    def age(self, fresh: Path, rounds: int) -> None:
        """Ask a fresh server and this one in turns: the median of old over fresh, block by block."""
        young = Client(fresh, {}, self.record)
        for kind in self.kinds * min(5, rounds // 4):
            young.ask(kind)
        for _ in range(rounds):
            ratios = []
            for kind in self.draw.sample(self.kinds, len(self.kinds)):
                pair = [(self.main, 0), (young, 1)]
                self.draw.shuffle(pair)
                took = {place: client.ask(kind) for client, place in pair}
                ratios.append(took[0] / took[1])
            self.record.age.append(statistics.median(ratios))
        young.channel.close()

    def close(self) -> None:
        """Let go of the server, which would wait for its clients at its end."""
        for client in (self.main, *self.others):
            client.channel.close()


def readings(server_now: Held, client_now: Held) -> dict[str, float]:
    """What both processes hold, by name."""
    return {
        "server_rss_mib": server_now.rss_kib / 1024, "server_descriptors": server_now.descriptors,
        "server_threads": server_now.threads, "client_rss_mib": client_now.rss_kib / 1024,
        "client_descriptors": client_now.descriptors, "client_threads": client_now.threads,
    }  # fmt: skip


def gpu_mib() -> float:
    """Memory in use on the first GPU, whoever uses it."""
    import pynvml

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used) / MIB


def soak(command: Sequence[str], requests: int, record: Record, console: Console, seed: int = SEED) -> None:
    """Start a server with `command`, to which its socket is added, and ask it; then a fresh one beside it."""
    with tempfile.TemporaryDirectory(prefix="s") as made, watcher(console, 1) as shown:
        folder = Path(made)
        shown.begin("soak")
        with server([*command, "--socket", str(folder / "s")], folder / "s", folder / "log") as process:
            work = Soak(folder / "s", process.pid, requests, record, seed)
            record.facts["engine"] = work.main.status().engine
            while work.done < requests:
                work.block()
                shown.event({"event": "progress", "stage": "requests", "done": work.done, "total": requests})
            shown.event({"event": "stage", "stage": "a fresh server beside it"})
            with server([*command, "--socket", str(folder / "f")], folder / "f", folder / "fresh"):
                work.age(folder / "f", max(5, min(40, len(record.blocks) // 4)))
            work.close()
        shown.end("done", True)


def run(command: Sequence[str], requests: int, device: str, to: Path, console: Console) -> int:
    """The whole of it; what there is is written however it ends. 0, 1 for a failure, 130 when interrupted."""
    record = Record({"device": device, "requests": requests, "seed": SEED, "lengths": LENGTHS, "variants": VARIANTS})
    code = 0
    started = time.monotonic()
    try:
        soak(command, requests, record, console)
    except KeyboardInterrupt:
        record.ended, code = "interrupted", 130
    except (Wrong, RuntimeError, OSError) as error:
        record.ended, code = f"{type(error).__name__}: {error}"[:500], 1
        console.print(f"failed: {record.ended}", markup=False)
    record.facts["code"] = commit_text(ROOT, "cases", "harness")
    record.facts["seconds"] = round(time.monotonic() - started)
    record.write(to)
    return code


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--device", choices=sorted(MODELS), default="cpu")
    parser.add_argument("--to", type=Path, help="the file that is written (results/soak/DEVICE-TIME.json)")
    args = parser.parse_args(arguments)
    if args.requests < LEAST:
        parser.error(
            f"--requests={args.requests} must be at least {LEAST}: the judgement compares tenths of the blocks"
        )
    command = [sys.executable, "-m", "cases.runtime.serve", "serve", *MODELS[args.device], *GRAPHS]
    to = args.to or ROOT / "results" / "soak" / f"{args.device}-{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(command, args.requests, args.device, to, Console()) or judge([str(to)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
