"""Results as a release streams them: one mutable output, cumulative ids, metrics that come along."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .behaviour import Behaviour

VOCABULARY = 1024
ARRIVAL = timedelta(seconds=100)
FIRST, STEP = timedelta(milliseconds=7), timedelta(milliseconds=5)
"""What the engine's clock says of every request: to the first token, and from token to token."""


@dataclass(slots=True)
class TimingMetrics:
    arrival_time: timedelta
    first_scheduled_time: timedelta
    first_token_time: timedelta
    last_token_time: timedelta
    kv_cache_transfer_start: timedelta = timedelta()
    kv_cache_transfer_end: timedelta = timedelta()
    kv_cache_size: int = 0


@dataclass(slots=True)
class KvCacheMetrics:
    num_total_allocated_blocks: int = 0
    num_new_allocated_blocks: int = 0
    num_reused_blocks: int = 0
    num_missed_blocks: int = 0
    kv_cache_hit_rate: float = 0.0


@dataclass(slots=True)
class RequestPerfMetrics:
    timing_metrics: TimingMetrics
    kv_cache_metrics: KvCacheMetrics
    first_iter: int | None
    last_iter: int | None
    iter: int | None
    speculative_decoding: Any = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None
    disaggregated_params: Any = None
    request_perf_metrics: RequestPerfMetrics | None = None
    _last_token_ids_len: int = field(default=0, init=False, repr=False)

    @property
    def length(self) -> int:
        return len(self.token_ids)

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]


def next_token(sequence: list[int], salt: str) -> int:
    return int(hashlib.sha256(f"{salt} {sequence}".encode()).hexdigest(), 16) % VOCABULARY


class RequestOutput:
    """A request that is being answered. Its chunks are made when they are asked for: no thread, no time."""

    def __init__(
        self, prompt: list[int], asked: int, salt: str, metrics: bool, acts: Behaviour, interval: int = 1
    ) -> None:
        asyncio.get_running_loop()  # the real queue belongs to the loop that runs when the request is made
        self.request_id, self.prompt_token_ids, self.prompt = 1, prompt, None
        self._asked, self._salt, self._metrics, self._acts = asked, salt, metrics, acts
        self._interval = interval
        self._outputs = [CompletionOutput(0)]
        self._aborted = self._done = False
        self._number = 0
        self._left = self._plan()

    def _plan(self) -> Iterator[int]:
        """Tokens of each chunk to come: without others named, the first alone, then as many as `stream_interval`."""
        total = self._asked if self._acts.stops_after is None else min(self._asked, self._acts.stops_after)
        sent, given = 0, iter(self._acts.chunks)
        while sent < total:
            count = min(next(given, self._interval - sent % self._interval if sent else 1), total - sent)
            sent += count
            self._done = sent == total and not self._acts.closing
            yield count
        self._done = True
        yield 0

    @property
    def outputs(self) -> list[CompletionOutput]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    async def aresult(self) -> RequestOutput:
        while not self._done:
            await self._step()
        return self

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._done:
            raise StopAsyncIteration
        await self._step()
        return self

    async def _step(self) -> None:
        if self._number not in self._acts.early:
            await asyncio.sleep(0)
        self._number += 1
        output = self._outputs[0]
        if self._aborted:
            output.finish_reason, self._done = "cancelled", True
            return
        output._last_token_ids_len = output.length
        for _ in range(next(self._left)):
            output.token_ids.append(next_token([*self.prompt_token_ids, *output.token_ids], self._salt))
        if self._done:
            output.finish_reason = "length"
        if self._metrics and not self._acts.no_metrics and (self._done or not self._acts.metrics_last):
            output.request_perf_metrics = self._account(output.length)

    def _account(self, tokens: int) -> RequestPerfMetrics:
        first = ARRIVAL + FIRST
        steps = tokens - 1
        timing = TimingMetrics(ARRIVAL, ARRIVAL + FIRST / 7, first, first + steps * STEP)
        last = 40 + steps + self._acts.more_iterations
        blocks = KvCacheMetrics(2, 2, self._acts.reused)
        if self._acts.uncounted:
            return RequestPerfMetrics(timing, blocks, None, None, None)
        return RequestPerfMetrics(timing, blocks, 40, last if self._done else None, last)
