"""Forwards from the rolling pool of graphs: padded to a bucket, in chunks, or without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cases.runtime.background import CaptureThread, Gate
from cases.runtime.buckets import GraphOptions
from cases.runtime.capture import CudaCapture, EagerCapture, Work
from cases.runtime.graph_pool import Captured, Graph, GraphPool, Limits
from cases.runtime.llama import Model
from cases.runtime.runner import Piece, Pull, nothing
from harness.contract import CaptureRecord, Eviction, Stats

DECODE = 0
"""The decode graph's place among the captures, where prefill graphs have their bucket."""

WARM_ROWS = 64


class GraphRunner:
    """Prefill from a rolling pool of graphs, one a bucket; decode from one graph for every context length.

    A missing graph is captured in the background while its request runs without one, over the bucket's count, so that
    all kernels of that count have run when the capture begins; or, blocking, before the request, which is then
    answered by it. Captures and evictions happen on one thread; the decode graph stands outside both caps.
    """

    graphs = True

    def __init__(
        self,
        model: Model,
        options: GraphOptions,
        capture: CudaCapture | EagerCapture,
        pull: Pull = nothing,
        *,
        one_token: bool = True,
    ) -> None:
        capacity = model.state.capacity
        self.gate = Gate()
        self._model, self._options, self._capture, self._one_token = model, options, capture, one_token
        self._pull = pull
        self._thread = CaptureThread()
        self._background = options.capture == "background"
        later = partial(self._thread.later, "edges") if self._background else None
        self._buckets = options.make(capacity, later)
        self._largest = self._buckets.edges[-1]
        self._chunks = options.beyond == "chunks"
        model.state.continues = self._chunks and self._largest < capacity
        pinned = frozenset(options.pinned_edges(capacity))
        limits = Limits(options.max_graphs, options.max_bytes, options.capture_attempts, pinned)
        self._pool = GraphPool(limits, capture.trim, trim_each=not capture.shared)
        self._decode: Graph | None = None
        self._blank: Graph | None = None
        self._decode_bytes = 0
        self._replays = self._ungraphed = 0
        self.name = f"{capture.name}, {len(self._buckets.edges)} buckets up to {self._largest}"
        if options.buckets == "adaptive":
            self.name += " to begin with, then by the lengths seen"

    @property
    def capturing(self) -> bool:
        """See Runner."""
        return self._thread.busy

    def capture(self) -> None:
        """See Runner. A failed bucket is counted and its requests fall back; a failed decode graph is an error.

        Raises ValueError when the pinned graphs hold more than the cap, RuntimeError without a decode graph.
        """
        self._thread.run(self._capture_initial)
        if self._one_token and self._decode is None:
            raise RuntimeError(f"the decode graph could not be captured: {self._pool.records[-1].reason}")

    def pieces(self, length: int) -> Sequence[Piece]:
        """One piece padded to its bucket; beyond the largest bucket chunks of it, or the whole prompt ungraphed."""
        bucket = self._buckets.of(length)
        if bucket is not None:
            return (Piece(0, length, bucket),)
        if not self._chunks:
            return (Piece(0, length, length),)
        return self._chunked(length)

    def prefill(self, count: int) -> None:
        """See Runner."""
        if count <= self._largest:
            graph = self._pool.get(count)
            if graph is None:
                graph = self._missing(count)
            if graph is not None:
                graph.replay()
                self._replays += 1
                return
        else:
            self._run_ungraphed(count)

    def decode(self) -> None:
        """See Runner."""
        graph = self._decode
        if graph is None:
            graph = self._missing_decode()
        if graph is not None:
            graph.replay()
            self._replays += 1

    def blank(self) -> Graph | None:
        """See Runner."""
        return None if self.capturing else self._blank

    def stats(self) -> Stats:
        """See Runner. Counters alone: no memory is asked for, nothing waits."""
        pool = self._pool
        ended = pool.captures, pool.failures
        return Stats(
            captures=ended[0], replays=self._replays, ungraphed=self._ungraphed, hits=pool.hits, misses=pool.misses,
            evictions=pool.evictions, failures=ended[1], begun=pool.begun,
        )  # fmt: skip

    def captured(self) -> list[CaptureRecord]:
        """See Runner."""
        return list(self._pool.records)

    def held(self) -> tuple[int, int]:
        """See Runner."""
        return len(self._pool) + (self._decode is not None), self._pool.bytes + self._decode_bytes

    def evict(self) -> Eviction:
        """See Runner. Waits for captures asked for before."""
        return self._thread.run(self._evict_all)

    def drain(self) -> None:
        """Wait until all captures asked for are done."""
        self._thread.drain()

    def close(self) -> None:
        """See Runner. Joins the capturing thread; captures that wait are dropped."""
        self._thread.stop()
        self._clear()
        blank, self._blank = self._blank, None
        if blank is not None:
            blank.reset()

    def _chunked(self, length: int) -> list[Piece]:
        """Chunks of the largest bucket, and the rest padded to its own.

        Where the padding would go beyond the KV cache the last piece begins earlier and computes some tokens again.
        """
        whole = range(0, length, self._largest)
        pieces = [Piece(start, start + self._largest, self._largest) for start in whole[:-1]]
        count = self._buckets.of(length - whole[-1])
        assert count is not None, "the rest is no longer than the largest bucket"  # noqa: S101  for the type checker
        start = min(whole[-1], self._model.state.capacity - count)
        return [*pieces, Piece(start, length, count)]

    def _missing(self, bucket: int) -> Graph | None:
        """The request goes ungraphed and the capture is asked for; blocking, the graph when it could be captured."""
        if not self._background:
            self._thread.run(partial(self._pool.add, bucket, self._capture_warm))
            graph = self._pool.peek(bucket)
            if graph is None:
                self._run_ungraphed(bucket)
            return graph
        self._run_ungraphed(bucket)
        if bucket in self._buckets.edges and self._pool.wants(bucket):
            self._thread.later(bucket, partial(self._pool.add, bucket, self._capture_politely))
        return None

    def _missing_decode(self) -> Graph | None:
        """The same for the decode graph, which is missing after an eviction of all."""
        if not self._background:
            self._thread.run(partial(self._add_decode, self._capture_warm))
            if self._decode is None:
                self._run_ungraphed(DECODE)
            return self._decode
        self._run_ungraphed(DECODE)
        self._thread.later(DECODE, partial(self._add_decode, self._capture_politely))
        return None

    def _run_ungraphed(self, bucket: int) -> None:
        with self.gate.launching:
            self._forward(bucket)
        self._ungraphed += 1

    def _forward(self, bucket: int, between: Callable[[], None] | None = None) -> None:
        """A prefill over `bucket` tokens, the part of the ops before it included, or a decode step."""
        if bucket == DECODE:
            self._model.forward(1, between)
            return
        self._pull(bucket, self._model.state)
        self._model.forward(bucket, between)

    def _capture_initial(self) -> None:
        """The decode graph first: it alone is a must. Warmed over several rows too, whatever is captured now."""
        capacity = self._model.state.capacity
        self._capture.warm(self._work(min(WARM_ROWS, capacity)))
        self._blank = self._capture.blank()
        if self._one_token:
            self._add_decode(self._capture_warm)
            if self._decode is None:
                return
        self._pool.fill(self._options.initial_edges(capacity), self._capture_warm)

    def _add_decode(self, capture: Callable[[int], Captured]) -> None:
        if self._decode is not None or self._pool.gave_up(DECODE):
            return
        found = self._pool.attempt(DECODE, capture)
        if found is not None:
            self._decode_bytes = found.own_bytes + found.shared_bytes
            self._decode = found.graph

    def _capture_warm(self, bucket: int) -> Captured:
        """With no request in flight, or with one that waits for this and has loaded what it runs over."""
        return self._capture(self._work(bucket), alone=bucket == DECODE)

    def _capture_politely(self, bucket: int) -> Captured:
        """Amid requests: no warm run, and layer by layer when none is in flight."""
        return self._capture(self._work(bucket), partial(self._forward_politely, bucket), alone=bucket == DECODE)

    def _forward_politely(self, bucket: int) -> None:
        with self.gate.turn() as give_way:
            self._forward(bucket, give_way)

    def _work(self, bucket: int) -> Work:
        return partial(self._forward, bucket)

    def _evict_all(self) -> Eviction:
        before = self._capture.free_bytes()
        graphs, held = self.held()
        self._clear()
        self._capture.trim(True)
        return Eviction(graphs, held, before, self._capture.free_bytes())

    def _clear(self) -> None:
        decode, self._decode = self._decode, None
        if decode is not None:
            decode.reset()
        self._decode_bytes = 0
        self._pool.clear()
