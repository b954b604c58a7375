"""Recorded graphs, few of which are instantiated at a time: only those take device memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Protocol

import torch

from harness.contract import Unsupported


class Driver(Protocol):
    """What is asked of CUDA: graphs by their address, executables as whatever it gives."""

    def instantiate(self, graph: int) -> Any:
        """An executable of a recorded graph."""

    def launch(self, executable: Any) -> None:
        """Run it on the current stream."""

    def destroy(self, executable: Any) -> None:
        """Give it back; one that is running ends first."""


class CudaDriver:
    """See Driver. Raises Unsupported without the package cuda-bindings."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise Unsupported(
                f"graph.executables needs the package cuda-bindings ({error}): install it, or set it to null"
            ) from error
        self._driver = driver

    def instantiate(self, graph: int) -> Any:
        """See Driver."""
        error, made = self._driver.cuGraphInstantiate(self._driver.CUgraph(graph), 0)
        self._check(error)
        return made

    def launch(self, executable: Any) -> None:
        """See Driver."""
        self._check(self._driver.cuGraphLaunch(executable, torch.cuda.current_stream().cuda_stream)[0])

    def destroy(self, executable: Any) -> None:
        """See Driver."""
        self._check(self._driver.cuGraphExecDestroy(executable)[0])

    def _check(self, error: Any) -> None:
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"a call for a CUDA graph failed: {error!r}")


class Executables:
    """At most `most` instantiated graphs, the least recently used one makes room.

    The driver keeps about a quarter of what instantiated graphs take even when they are gone, so of hundreds at a time
    it keeps much (kernels/NOTES.md). One that was let go is instantiated anew; it is not made by updating another,
    whose launch attributes it might keep. One thread launches and another drops, hence the lock.
    """

    def __init__(self, most: int, driver: Driver) -> None:
        self._most, self._driver = most, driver
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def prepare(self, graph: int) -> None:
        """Instantiate it now, outside any request."""
        with self._lock:
            self._ready(graph)

    def launch(self, graph: int) -> None:
        """Run it on the current stream, instantiated first where it is not."""
        with self._lock:
            self._driver.launch(self._ready(graph))

    def drop(self, graph: int) -> None:
        """Give its executable back, if there is one."""
        with self._lock:
            if graph in self._held:
                self._driver.destroy(self._held.pop(graph))

    def _ready(self, graph: int) -> Any:
        if graph not in self._held:
            while len(self._held) >= self._most:
                self._driver.destroy(self._held.popitem(last=False)[1])
            self._held[graph] = self._driver.instantiate(graph)
        self._held.move_to_end(graph)
        return self._held[graph]


class Recorded:
    """A graph that was recorded and kept, run by one of a few executables."""

    def __init__(self, graph: torch.cuda.CUDAGraph, executables: Executables) -> None:
        self._graph, self._executables = graph, executables
        self._address = int(graph.raw_cuda_graph())
        executables.prepare(self._address)

    def replay(self) -> None:
        """See graph_pool.Graph."""
        self._executables.launch(self._address)

    def reset(self) -> None:
        """See graph_pool.Graph."""
        self._executables.drop(self._address)
        self._graph.reset()
