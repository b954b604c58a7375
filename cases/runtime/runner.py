"""How a forward is run: directly, or from the pool of graphs."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from cases.runtime.buckets import Buckets
from cases.runtime.capture import CudaCapture, EagerCapture
from cases.runtime.graph_pool import Graph, GraphPool
from cases.runtime.llama import Llama


class Runner(Protocol):
    """Runs forwards of a model and counts how."""

    name: str
    replays: int
    ungraphed: int

    @property
    def captures(self) -> int:
        """Graphs captured so far."""

    def capture(self) -> None:
        """Make ready before the first request; timed as set-up."""

    def padded(self, length: int) -> int:
        """Tokens that the forward of a prompt of `length` tokens will run over."""

    def prefill(self, count: int) -> None:
        """Forward over `count` tokens of the state, a value that `padded` gave."""

    def decode(self) -> None:
        """Forward over one token."""

    def held(self) -> tuple[int, int]:
        """Graphs, and bytes of device memory that they hold."""

    def close(self) -> None:
        """Give graphs back."""


class DirectRunner:
    """Every forward launched kernel by kernel, at its exact length."""

    name = "no graphs"
    captures = replays = ungraphed = 0

    def __init__(self, model: Llama) -> None:
        self._model = model

    def capture(self) -> None:
        """Nothing to do."""

    def padded(self, length: int) -> int:
        """The length itself."""
        return length

    def prefill(self, count: int) -> None:
        """See Runner."""
        self._model.forward(count)

    def decode(self) -> None:
        """See Runner."""
        self._model.forward(1)

    def held(self) -> tuple[int, int]:
        """Nothing."""
        return 0, 0

    def close(self) -> None:
        """Nothing to do."""


class GraphRunner:
    """Prefill from a rolling pool of graphs, one a bucket; decode from one graph for every context length."""

    def __init__(self, model: Llama, buckets: Buckets, max_graphs: int, capture: CudaCapture | EagerCapture) -> None:
        self._model, self._buckets, self._capture = model, buckets, capture
        self._pool = GraphPool(self._capture_bucket, max_graphs)
        self._decode: Graph | None = None
        self.name = f"{capture.name}, {len(buckets.edges)} buckets up to {buckets.edges[-1]}"
        self.replays = self.ungraphed = 0

    @property
    def captures(self) -> int:
        """Graphs captured so far, the decode graph included."""
        return self._pool.captures + (self._decode is not None)

    def capture(self) -> None:
        """See Runner. The decode graph never leaves and does not count towards the cap."""
        self._pool.fill(self._buckets.edges)
        self._decode = self._capture(partial(self._model.forward, 1))

    def padded(self, length: int) -> int:
        """The bucket, or the length itself beyond the largest bucket."""
        return self._buckets.of(length) or length

    def prefill(self, count: int) -> None:
        """See Runner. Beyond the largest bucket there is no graph: the forward runs directly and is counted."""
        if self._buckets.of(count) is None:
            self.ungraphed += 1
            self._model.forward(count)
            return
        self._pool.get(count).replay()
        self.replays += 1

    def decode(self) -> None:
        """See Runner."""
        assert self._decode is not None, "capture() comes before decode()"
        self._decode.replay()
        self.replays += 1

    def held(self) -> tuple[int, int]:
        """See Runner."""
        return len(self._pool) + (self._decode is not None), self._capture.pool_bytes

    def close(self) -> None:
        """See Runner."""
        self._pool.clear()
        if self._decode is not None:
            self._decode.reset()
            self._decode = None

    def _capture_bucket(self, bucket: int) -> Graph:
        return self._capture(partial(self._model.forward, bucket))
