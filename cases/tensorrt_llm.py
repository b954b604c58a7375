"""TensorRT-LLM: the real engine through its LLM API (1.0 and later), or `unavailable`; nothing else ever answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from cases.tensorrt import gates, options
from cases.tensorrt.engine import Engine, load
from cases.tensorrt.stream import Stream
from harness.contract import Capabilities, Case, Identity, Plan, SetUp, Stats, Unavailable

Result = TypeVar("Result")


class TensorRtLlm(Case):
    """One request at a time, streamed, from the same checkpoint, with CUDA graphs and without block reuse.

    The engine runs ahead of the client (`push`): `decode` returns when the next token of the stream has come. Tokens
    without a time of their own are counted (`coalesced`). A whole request is held to the gates of
    cases/tensorrt/gates.py once its last token has been taken, outside the interval of that token.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}), pacing="push")

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: Stream | None = None
        self._server_ns = self._coalesced = 0
        self._first_is_counted = False

    @classmethod
    def check_options(cls, given: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        options.check(given)

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case."""
        if plan.device != "cuda":
            raise Unavailable("TensorRT-LLM needs a CUDA GPU; this run is on the CPU")
        started = time.perf_counter()
        self._engine = load(plan)
        self._loop = asyncio.new_event_loop()
        return SetUp(self._engine.described, load_s=time.perf_counter() - started)

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """See harness.contract.Case. What the last request had left is ended first; `stats` has ended it before."""
        self._leave()
        return self._run(self._first(list(prompt), new_tokens))

    def decode(self) -> int:
        """See harness.contract.Case."""
        if self._stream is None or self._stream.whole:
            raise RuntimeError(
                "prefill(prompt, new_tokens) with new_tokens above the tokens taken comes before decode()"
            )
        return self._run(self._stream.token())

    def stats(self) -> Stats:
        """See harness.contract.Case. The worker's stream is out of reach of CUDA events here.

        `server_ns` is the engine's own clock. It grows with the first token by the time since the request's arrival,
        and with the last of several by the mean of the steps: the engine has no time for each token.

        Raises:
            RuntimeError: the request that has just ended does not pass a gate.
        """
        if self._stream is not None:
            self._count_first(self._stream)
            if self._stream.whole:
                self._finish(self._stream)
        waiting = self._stream.coalesced if self._stream else 0
        return Stats(server_ns=self._server_ns, coalesced=self._coalesced + waiting)

    def identity(self, prompt: Sequence[int]) -> Identity:
        """See harness.contract.Case. Kernels, graphs and sampler are out of sight."""
        version = str(getattr(sys.modules.get("tensorrt_llm"), "__version__", "of no stated version"))
        return Identity(
            modules={"tensorrt_llm": version},
            unproven="the engine runs in processes of its own, which a profiler in this one does not see",
        )

    def close(self) -> None:
        """See harness.contract.Case. No process of the engine's is left behind."""
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                self._leave()
        finally:
            try:
                if engine is not None:
                    engine.shutdown()
            finally:
                if self._loop is not None:
                    self._loop.close()
                    self._loop = None

    async def _first(self, prompt: list[int], new_tokens: int) -> int:
        """Submit from inside the running loop, which the stream's queue belongs to."""
        assert self._engine is not None  # noqa: S101  opened above
        request = self._engine.llm.generate_async(prompt, self._engine.sampling(new_tokens), streaming=True)
        self._stream, self._first_is_counted = Stream(request, new_tokens), False
        return await self._stream.token()

    def _count_first(self, stream: Stream) -> None:
        """Where the metrics come with the first chunk: of a longer request they are read before its second."""
        if self._first_is_counted or stream.taken != 1 or stream.whole:
            return
        self._first_is_counted = True
        metrics = stream.metrics()
        if metrics is not None:
            gates.check(metrics)
            self._server_ns += gates.first_ns(metrics)

    def _finish(self, stream: Stream) -> None:
        """Hold a whole request to the gates, and count its time by the engine's clock."""
        self._end(stream)
        found = self._run(stream.finish())
        self._server_ns += found.step_ns if stream.asked > 1 else found.first_ns

    def _leave(self) -> None:
        stream = self._stream
        if stream is None:
            return
        if stream.whole:
            self._finish(stream)
        else:
            self._end(stream)
            self._run(stream.leave())

    def _end(self, stream: Stream) -> None:
        self._stream = None
        self._coalesced += stream.coalesced

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None or self._loop.is_closed():
            work.close()
            raise RuntimeError("prepare() comes before the first request")
        return self._loop.run_until_complete(work)
