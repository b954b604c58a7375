"""Capturing a forward: a CUDA graph on a GPU, and on the CPU a stand-in that runs the work again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], None]


class CudaCapture:
    """Captures on a stream of its own into one memory pool that all graphs share.

    Graphs that share a pool must never run at the same time; one session replays one at a time.
    """

    name = "CUDA graphs"

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self.pool_bytes = 0

    def __call__(self, work: Work) -> torch.cuda.CUDAGraph:
        """Run `work` once, so that nothing is compiled or allocated for good inside, then capture it.

        `capture_begin` is called directly: torch.cuda.graph collects garbage and empties caches each time.
        """
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            work()
            self._stream.synchronize()
            reserved = torch.cuda.memory_reserved()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.synchronize()
        self.pool_bytes += max(0, torch.cuda.memory_reserved() - reserved)
        return graph


@dataclass
class EagerReplay:
    """Stands in for a graph where there is no GPU: a replay runs the work."""

    work: Work | None

    def replay(self) -> None:
        """Run the work."""
        if self.work is None:
            raise RuntimeError("this graph was given back")
        self.work()

    def reset(self) -> None:
        """Forget the work."""
        self.work = None


class EagerCapture:
    """Captures nothing: the same pool, the same counters, no graph. For machines without a GPU."""

    name = "no graphs on a CPU: replayed eagerly"
    pool_bytes = 0

    def __call__(self, work: Work) -> EagerReplay:
        """Run `work` once, as a real capture does, and remember it."""
        work()
        return EagerReplay(work)
