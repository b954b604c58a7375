"""One streamed request: its tokens one by one, which of them came alone, and the engine's own account of it."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from cases.tensorrt.gates import Account, account


@dataclass
class Watched:
    """Awaits a chunk and remembers whether it had to wait: a chunk that lay there has no time of its own."""

    waited: bool = False

    @types.coroutine
    def next_of(self, stream: Any) -> Generator[Any, Any, Any]:
        """The next chunk. Raises StopAsyncIteration at the stream's end."""
        steps = stream.__anext__().__await__()
        while True:
            try:
                wish = next(steps)
            except StopIteration as end:
                return end.value
            self.waited = True
            yield wish


@dataclass
class Stream:
    """The tokens of one request of `asked` new ones, as `generate_async(..., streaming=True)` hands them out.

    `coalesced` counts tokens without a time of their own: those of a chunk that holds several, and those of a chunk
    that had come before it was asked for.
    """

    request: Any
    asked: int
    seen: int = 0
    taken: int = 0
    coalesced: int = 0
    _rest: deque[int] = field(default_factory=deque)

    async def token(self) -> int:
        """The next token id. Raises RuntimeError where the stream ends before it, or takes tokens back."""
        if self._rest:
            self.coalesced += 1
        else:
            await self._chunk()
        self.taken += 1
        return self._rest.popleft()

    async def _chunk(self) -> None:
        """Wait for a chunk that brings a token; a closing one brings none."""
        watched = Watched()
        while not self._rest:
            try:
                chunk = await watched.next_of(self.request)
            except StopAsyncIteration:
                raise RuntimeError(f"the stream ended after {self.seen} tokens of {self.asked}") from None
            ids = chunk.outputs[0].token_ids
            if not self.seen <= len(ids) <= self.asked:
                raise RuntimeError(f"a chunk holds {len(ids)} tokens after {self.seen} of {self.asked}")
            self._rest.extend(int(token) for token in ids[self.seen :])
            self.seen = len(ids)
        if len(self._rest) > 1 or not watched.waited:
            self.coalesced += 1

    @property
    def whole(self) -> bool:
        """Whether every token that was asked for has been taken."""
        return self.taken == self.asked

    def metrics(self) -> Any:
        """The engine's metrics of the request as they came with the last chunk; None before they come."""
        return self.request.outputs[0].request_perf_metrics

    async def finish(self) -> Account:
        """Wait for the closing chunk of a whole request, and hold the request to the gates."""
        await drain(self.request)
        return account(self.metrics(), len(self.request.outputs[0].token_ids), self.asked)

    async def leave(self) -> None:
        """Abort what is not whole, and take what it still sends, so that it can't overlap with the next request."""
        if not self.request.finished:
            self.request.abort()
        await drain(self.request)


async def drain(request: Any) -> None:
    """Take what a finished or aborted request still sends."""
    if not request.finished:
        await request.aresult()
