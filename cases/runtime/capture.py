"""Capturing a forward: a CUDA graph on a GPU, and on the CPU a stand-in that runs the work again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from cases.runtime.executables import CudaDriver, Executables, Recorded
from cases.runtime.graph_pool import Captured, Graph

Work = Callable[[], None]


class Memory(NamedTuple):
    """Device bytes in use, and of them those in PyTorch's segments, of whatever pool."""

    used: int
    segments: int


class CudaCapture:
    """Captures on a stream of its own, into one memory pool that all graphs share or into a pool for each.

    Graphs that share a pool must never run at the same time; one session replays one at a time, on one stream. The
    same holds for the cuBLAS workspace: PyTorch keeps one for each pair of thread and stream, so all graphs hold that
    of the capturing thread and this stream, which nothing but their replays and warm runs ever use; the forwards that
    a request launches itself use that of its own thread and stream. It is made in a warm run, hence in no graph's pool.

    To be called from one thread only, and not while a request launches kernels of the same forward.
    With `executables` only so many graphs are instantiated at a time; Unsupported where that can't be done.
    """

    def __init__(self, *, shared: bool = True, executables: int | None = None) -> None:
        self.shared = shared
        self.name = "CUDA graphs" if executables is None else f"CUDA graphs, {executables} instantiated at a time"
        self._executables = None if executables is None else Executables(executables, CudaDriver())
        self._device = torch.cuda.current_device()
        self._stream = torch.cuda.Stream()
        self._live = torch.cuda.current_stream()
        self._handle: Any = None
        self._anchors: list[torch.cuda.CUDAGraph] = []
        self._word = torch.zeros(1, device="cuda")

    def warm(self, work: Work) -> None:
        """Run `work` behind what the requests' stream holds, and wait: all that compiles or loads has done so."""
        torch.cuda.set_device(self._device)
        self._stream.wait_stream(self._live)
        with torch.cuda.stream(self._stream):
            work()
            self._stream.synchronize()

    def __call__(self, work: Work, politely: Work | None = None, *, alone: bool = False) -> Captured:
        """Capture `work` after running it once, `alone` in a memory pool of its own.

        Amid requests `politely` is recorded instead, the same work that gives way to them, and nothing is run: that
        would overwrite the buffers of the sequence in flight, and the request that wanted this graph has run the work.
        `capture_begin` is called directly: torch.cuda.graph synchronises the device, collects garbage and empties
        caches each time. The bytes are measured on the device, so they include what the driver takes for an
        instantiated graph, and, amid requests, by what PyTorch's other pool grew meanwhile.
        """
        if politely is None:
            self.warm(work)
        torch.cuda.set_device(self._device)
        with torch.cuda.stream(self._stream):
            handle = self._pool(alone)
            before = _memory()
            started = time.perf_counter()
            graph = self._graph(politely or work, handle)
            seconds = time.perf_counter() - started
            after = _memory()
        grown = max(0, after.used - before.used)
        shared = max(0, after.segments - before.segments) if self.shared and not alone else 0
        return Captured(graph, seconds, max(0, grown - shared), shared)

    def blank(self) -> Graph:
        """A graph of one tiny kernel, in no memory pool that others share."""
        torch.cuda.set_device(self._device)
        with torch.cuda.stream(self._stream):
            return self._record(self._touch, torch.cuda.graph_pool_handle())

    def trim(self, emptied: bool) -> None:
        """Hand back to the device what graphs that were reset held; all of the shared pool once it is `emptied`."""
        if emptied:
            for anchor in self._anchors:
                anchor.reset()
            self._anchors.clear()
            self._handle = None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        if emptied:
            _press()

    def free_bytes(self) -> int:
        """Free device memory, other caches than the graphs' emptied first."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def _pool(self, alone: bool) -> Any:
        """A memory pool's handle. The shared one is held by an anchor, a graph of one small kernel.

        PyTorch ends a pool with its last graph, and its handle can't be used again; with the anchor the pool may
        become empty between an eviction and the next capture.
        """
        if alone or not self.shared:
            return torch.cuda.graph_pool_handle()
        if self._handle is None:
            handle = torch.cuda.graph_pool_handle()
            self._anchors.append(self._record(self._touch, handle))
            self._handle = handle
        return self._handle

    def _touch(self) -> None:
        self._word.zero_()

    def _graph(self, work: Work, handle: Any) -> Graph:
        """A graph that is ready to be replayed."""
        if self._executables is None:
            return self._record(work, handle)
        return Recorded(self._record(work, handle, kept=True), self._executables)

    def _record(self, work: Work, handle: Any, *, kept: bool = False) -> torch.cuda.CUDAGraph:
        """Record, and instantiate unless the graph is `kept` to be instantiated elsewhere."""
        graph = torch.cuda.CUDAGraph(keep_graph=kept)
        graph.capture_begin(pool=handle, capture_error_mode="thread_local")
        done = False
        try:
            work()
            graph.capture_end()
            done = True
        finally:
            if not done:
                self._abandon(graph, handle)
        return graph

    def _abandon(self, graph: torch.cuda.CUDAGraph, handle: Any) -> None:
        """End what is left of a capture that failed: the stream's state, the routes of allocations, the graph.

        When CUDA itself calls the capture invalid, `capture_end` raises before it ends the routes. That of device
        memory can be ended by the two calls that torch.cuda.use_mem_pool makes; that of pinned memory can't, and while
        it is open no capture may begin with this handle. So the shared pool is given up: the graphs that are in it
        stay, later ones go to a new one.
        """
        try:
            graph.capture_end()
        except RuntimeError:
            if handle == self._handle:
                self._handle = None
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._device, handle)
                torch._C._cuda_releasePool(self._device, handle)
        graph.reset()


def _press() -> None:
    """Have the driver hand over what it keeps of graphs that are gone: it does when memory is asked for in vain."""
    with suppress(torch.OutOfMemoryError):
        torch.empty(torch.cuda.mem_get_info()[1], dtype=torch.uint8, device="cuda")


def _memory() -> Memory:
    """Now. PyTorch could list the segments of one pool alone, but that call (2.11) writes over memory of others."""
    free, total = torch.cuda.mem_get_info()
    return Memory(total - free, torch.cuda.memory_reserved())


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
    """Captures nothing: the same pool, the same counters, no graph, no bytes. For machines without a GPU."""

    name = "no graphs on a CPU: replayed eagerly"

    def __init__(self, *, shared: bool = True, executables: int | None = None) -> None:
        self.shared = shared

    def warm(self, work: Work) -> None:
        """Run `work`."""
        work()

    def __call__(self, work: Work, politely: Work | None = None, *, alone: bool = False) -> Captured:
        """Remember `work`, after running it once where a real capture does."""
        started = time.perf_counter()
        if politely is None:
            work()
        return Captured(EagerReplay(work), time.perf_counter() - started)

    def blank(self) -> Graph:
        """Nothing to replay."""
        return EagerReplay(lambda: None)

    def trim(self, emptied: bool) -> None:
        """Nothing to do."""

    def free_bytes(self) -> int:
        """Nothing is held, so nothing is measured."""
        return 0
