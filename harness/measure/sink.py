"""Where a worker's samples and events go: a CSV that is valid after every line, and a pipe to the parent."""

from __future__ import annotations

import csv
import errno
import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from harness.contract import Footprint, Stats
from harness.measure.adaptive import Stop
from harness.measure.host import cpu_of, host_loop_us
from harness.measure.loop import Place, Timed, latency_ns
from harness.measure.proof import Replayed
from harness.schema import MEMORY, P99_STOPS, SAMPLES

EVENT_PERIOD_S = 0.2
MEDIAN_WINDOW = 101
MIB = 2**20


class Events:
    """JSON lines on a file descriptor of their own: what a case prints can't pass for them."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)

    def send(self, event: str, **fields: Any) -> None:
        """Send one line."""
        self._file.write(json.dumps({"event": event, **fields}) + "\n")


def set_aside(path: Path) -> None:
    """Rename a file that an interrupted worker left, so that nothing measured is overwritten."""
    if path.exists():
        number = sum(1 for _ in path.parent.glob(f"{path.stem}.interrupted-*"))
        path.rename(path.with_name(f"{path.stem}.interrupted-{number}{path.suffix}"))


class BlockSink:
    """Appends each sample to the block's samples.csv as soon as its interval is over."""

    host_loop: Callable[[], float] = staticmethod(host_loop_us)
    """How fast the processor is beside a sample, on the thread that asked for it."""
    cpu: Callable[[int | None], int | None] = staticmethod(cpu_of)
    """On which CPU the process `engine` runs, None: the thread that asks."""
    engine: int | None = None
    """The process that launches, where that is another: on which CPU is written beside each sample."""

    def __init__(self, folder: Path, case: str, block: int, events: Events, clock: str = "client") -> None:
        path = folder / "samples.csv"
        set_aside(path)
        self._file = path.open("x", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(SAMPLES)
        self._file.flush()
        self._folder, self._case, self._block, self._events = folder, case, block, events
        self._by_server = clock == "server"
        self._recent: dict[tuple[str, int], deque[float]] = defaultdict(lambda: deque(maxlen=MEDIAN_WINDOW))
        self._next_event = 0.0
        self.current_stage = ""
        self.replayed = Replayed()

    def keep(self, samples: Sequence[tuple[Place, Timed]]) -> None:
        """Write samples, one line each with the processor's speed now, and hand them to the operating system."""
        beside, cpu = f"{self.host_loop():.3f}", self.cpu(self.engine)
        for place, timed in samples:
            self._rows.writerow([*self._row(place, timed), beside, timed.given_id, cpu])
            self._count(timed)
            self._recent[place.metric, place.prompt_length].append(self._latency_ms(timed))
        self._file.flush()

    def _count(self, timed: Timed) -> None:
        """By whom the sample was answered, as the case's counters say."""
        before, after, so_far = timed.before, timed.after, self.replayed
        graph = after.replays > before.replays
        other = not graph and after.ungraphed > before.ungraphed
        self.replayed = Replayed(so_far.graphs + graph, so_far.ungraphed + other, so_far.samples + 1)

    def memory(self, request: int, held: Footprint, rss_bytes: int) -> None:
        """Append a reading of memory to memory.csv; the parent adds what the device had in use."""
        path = self._folder / "memory.csv"
        fresh = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            if fresh:
                rows.writerow(MEMORY)
            sizes = [round(held.graph_pool_bytes / MIB, 1), round(rss_bytes / MIB, 1), ""]
            rows.writerow([self._case, self._block, request, time.perf_counter_ns(), held.graphs, *sizes])

    def stops(self, found: Sequence[Stop]) -> None:
        """Write p99_stops.csv: why each length got no more requests."""
        with (self._folder / "p99_stops.csv").open("x", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(P99_STOPS)
            rows.writerows([self._case, self._block, *stop[:2], f"{stop[2]:.6g}", stop[3]] for stop in found)

    def stage(self, name: str) -> None:
        """Tell the parent that a stage begins."""
        self.current_stage = name
        self._next_event = 0.0
        self._events.send("stage", stage=name)

    def outcome(self, state: str, reason: str, stage: str, **more: str) -> None:
        """Tell the parent how the block ends, if nothing more comes: it is not well, and its case is closed next.

        `more`: what of the verdict must not be lost even so.
        """
        self._events.send("outcome", state=state, reason=reason, stage=stage, **more)

    def progress(self, stage: str, prompt_length: int, done: int, total: int) -> None:
        """Tell the parent how far the stage is, a few times a second and at its end."""
        now = time.monotonic()
        if now < self._next_event and done < total:
            return
        self._next_event = now + EVENT_PERIOD_S
        running = round(median(self._recent[stage, prompt_length]), 4)
        self._events.send(
            "progress", stage=stage, prompt_length=prompt_length, done=done, total=total, median_ms=running
        )

    def close(self) -> None:
        """Put the samples on the disk; the file is closed in any case.

        Raises:
            OSError: the disk does not take them, or the file was removed meanwhile.
        """
        with closing(self._file):
            self._file.flush()
            os.fsync(self._file.fileno())
            if os.fstat(self._file.fileno()).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "removed while the block ran", str(self._folder / "samples.csv"))

    def _latency_ms(self, timed: Timed) -> float:
        return latency_ns(timed, by_server=self._by_server) / 1e6

    def _row(self, place: Place, timed: Timed) -> list[object]:
        before, after = timed.before, timed.after
        gpu_ns = after.gpu_ns - before.gpu_ns
        server_ns = after.server_ns - before.server_ns
        return [
            self._case,
            self._block,
            place.metric,
            place.prompt_length,
            place.context_length,
            place.iteration,
            timed.started_ns,
            f"{(timed.ended_ns - timed.started_ns) / 1e6:.6f}",
            f"{gpu_ns / 1e6:.6f}" if gpu_ns else "",
            f"{server_ns / 1e6:.6f}" if server_ns else "",
            timed.token_id,
            after.captures - before.captures,
            "",
            "",
            after.ungraphed - before.ungraphed,
            after.hits - before.hits,
            after.misses - before.misses,
            after.evictions - before.evictions,
            after.failures - before.failures,
            int(capturing(before) or capturing(after) or after.begun > before.begun),
            f"{self._latency_ms(timed):.6f}",
            after.coalesced - before.coalesced,
            after.replays - before.replays,
            *[""] * 4,
        ]


def capturing(stats: Stats) -> bool:
    """Whether a capture was going on when the counters were read."""
    return stats.begun > stats.captures + stats.failures
