"""One kernel to be timed, what the card allows it, and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

REST_S, REPLAYS = 0.01, 15
CAPACITY = 512
"""Positions of the KV cache that the kernels write to: a row or a context beyond it has no place."""


@dataclass(frozen=True)
class Kernel:
    """One kernel: `work(layer)` runs it in a layer, `times` layers in a graph; `bytes` and `flops` of one run."""

    phase: str
    name: str
    rows: int
    context: int
    work: Callable[[int], object]
    times: int
    bytes: float
    flops: float = 0.0


@dataclass(frozen=True)
class Ceiling:
    """What the card allows: terabytes and teraflops a second."""

    read_bandwidth_tb_s: float
    matmul_tflop_s: float

    def microseconds(self, kernel: Kernel) -> float:
        """The floor of one run of a kernel."""
        return max(kernel.bytes / self.read_bandwidth_tb_s, kernel.flops / self.matmul_tflop_s) / 1e6


def seconds(work: Callable[[int], object], times: int) -> float:
    """Median seconds of `work(0)` to `work(times - 1)` in one graph, over `times`."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for place in range(times):
            work(place)
    found = []
    for _ in range(REPLAYS + 2):
        time.sleep(REST_S)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3 / times)
    graph.reset()
    return statistics.median(found[2:])
