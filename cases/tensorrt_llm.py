"""TensorRT-LLM: the real engine through its LLM API (1.0 and later), or `unavailable`; nothing else ever answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from harness.contract import Capabilities, Case, Identity, Plan, SetUp, Stats, Unavailable

OPTIONS = ("overlap_scheduler", "memory_fraction", "impersonate")
LEAST_MAJOR = 1
NO_TOKEN_ID = -1
"""As end and padding id: nothing ends a sequence early. Needed because there is no tokenizer to take them from."""

Result = TypeVar("Result")


class TensorRtLlm(Case):
    """One request at a time, streamed, from the same checkpoint, with CUDA graphs and without block reuse.

    The engine runs ahead of the client (`push`): `decode` waits for the next chunk of the stream. A chunk with more
    than one new token is a failure, because the tokens in it have no time of their own.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}), pacing="push")

    def __init__(self) -> None:
        self._llm: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: AsyncIterator[Any] | None = None
        self._request: Any = None
        self._taken = 0
        self._server_ns = 0

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        unknown = sorted(options.keys() - set(OPTIONS))
        if unknown:
            raise ValueError(f"tensorrt_llm has no option {unknown[0]}, only {', '.join(OPTIONS)}")
        missing = [name for name in OPTIONS if name not in options]
        if missing:
            raise ValueError(f"tensorrt_llm needs the option {missing[0]}, which conf/case/tensorrt_llm.yaml gives")
        if options["impersonate"] is not None:
            raise ValueError("the engine itself impersonates nobody: impersonate must be null for it")
        if not isinstance(options["overlap_scheduler"], bool):
            raise ValueError(f"overlap_scheduler must be true or false, not {options['overlap_scheduler']!r}")
        fraction = options["memory_fraction"]
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise ValueError(f"memory_fraction must lie between 0 and 1, not {fraction!r}")

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case."""
        if plan.device != "cuda":
            raise Unavailable("TensorRT-LLM needs a CUDA GPU; this run is on the CPU")
        try:
            import tensorrt_llm

            version = check_version(tensorrt_llm)
            from tensorrt_llm import LLM, SamplingParams
            from tensorrt_llm.llmapi import CudaGraphConfig, KvCacheConfig
        except ImportError as error:
            raise Unavailable(
                f"the package tensorrt_llm can't be imported ({error}): install the extra `tensorrt-llm` in an "
                "environment of its own and name its interpreter in cases.tensorrt_llm.python"
            ) from error
        started = time.perf_counter()
        self._llm = LLM(
            model=plan.checkpoint,
            skip_tokenizer_init=True,
            dtype=plan.dtype,
            tensor_parallel_size=1,
            max_batch_size=1,
            max_seq_len=plan.context,
            max_num_tokens=plan.context,
            enable_chunked_prefill=False,
            kv_cache_config=KvCacheConfig(
                enable_block_reuse=False, free_gpu_memory_fraction=plan.options["memory_fraction"]
            ),
            cuda_graph_config=CudaGraphConfig(batch_sizes=[1]),
            disable_overlap_scheduler=not plan.options["overlap_scheduler"],
        )
        self._sampling_class, self._plan = SamplingParams, plan
        self._loop = asyncio.new_event_loop()
        self._check_engine()
        scheduler = "on" if plan.options["overlap_scheduler"] else "off"
        engine = f"tensorrt_llm {version} {type(self._llm).__name__}, overlap scheduler {scheduler}"
        return SetUp(engine, load_s=time.perf_counter() - started)

    def _check_engine(self) -> None:
        """Nothing else answers in this name: what was made must be of the package itself."""
        kind = type(self._llm)
        if kind.__module__.partition(".")[0] != "tensorrt_llm":
            raise RuntimeError(f"tensorrt_llm.LLM gave a {kind.__module__}.{kind.__name__}, which is not TensorRT-LLM")

    def _sampling(self, new_tokens: int) -> Any:
        sampling = self._plan.sampling
        common: dict[str, Any] = {
            "max_tokens": new_tokens,
            "end_id": NO_TOKEN_ID,
            "pad_id": NO_TOKEN_ID,
            "ignore_eos": True,
            "detokenize": False,
        }
        if sampling.repetition_penalty != 1.0:
            common["repetition_penalty"] = sampling.repetition_penalty
        if sampling.strategy == "greedy":
            return self._sampling_class(**common, temperature=0.0, top_k=1)
        return self._sampling_class(
            **common,
            temperature=sampling.temperature,
            top_k=sampling.top_k or None,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """See harness.contract.Case. What the last request had left is aborted first."""
        self._abort()
        return self._run(self._first(list(prompt), new_tokens))

    def decode(self) -> int:
        """See harness.contract.Case."""
        if self._stream is None:
            raise RuntimeError("prefill(prompt, new_tokens) with new_tokens above 1 comes before decode()")
        return self._run(self._next())

    def stats(self) -> Stats:
        """See harness.contract.Case. The worker's stream is out of reach of CUDA events here."""
        return Stats(server_ns=self._server_ns)

    def identity(self, prompt: Sequence[int]) -> Identity:
        """See harness.contract.Case. Kernels, graphs and sampler are out of sight."""
        version = str(getattr(sys.modules.get("tensorrt_llm"), "__version__", "of no stated version"))
        return Identity(
            modules={"tensorrt_llm": version},
            unproven="the engine runs in processes of its own, which a profiler in this one does not see",
        )

    def close(self) -> None:
        """See harness.contract.Case."""
        self._abort()
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    async def _first(self, prompt: list[int], new_tokens: int) -> int:
        """Submit from inside the running loop, which the stream's queue belongs to."""
        self._request = self._llm.generate_async(prompt, self._sampling(new_tokens), streaming=True)
        self._stream = aiter(self._request)
        self._taken = 0
        return await self._next()

    async def _next(self) -> int:
        """The next chunk that brings a token; a closing chunk brings none."""
        assert self._stream is not None
        async for chunk in self._stream:
            ids = chunk.outputs[0].token_ids
            fresh = len(ids) - self._taken
            if fresh > 1:
                raise RuntimeError(f"a chunk of the stream holds {fresh} tokens: they have no time of their own")
            if fresh == 1:
                self._taken = len(ids)
                return int(ids[-1])
        raise RuntimeError(f"the stream ended after {self._taken} tokens")

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            work.close()
            raise RuntimeError("prepare() comes before the first request")
        return self._loop.run_until_complete(work)

    def _abort(self) -> None:
        """Drain or cancel the last request, so that it can't overlap with the next."""
        request, self._request, self._stream = self._request, None, None
        if request is None or self._loop is None:
            return
        if not request.finished:
            request.abort()
        self._loop.run_until_complete(drain(request))


def check_version(package: Any) -> str:
    """The version of the imported package. Raises Unavailable below 1.0, whose LLM API is another."""
    version = str(getattr(package, "__version__", "of no stated version"))
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) < LEAST_MAJOR:
        raise Unavailable(
            f"tensorrt_llm {version} is here, and {LEAST_MAJOR}.0 or later is needed: install the extra `tensorrt-llm` "
            "in an environment of its own and name its interpreter in cases.tensorrt_llm.python"
        )
    return version


async def drain(request: Any) -> None:
    """Take what a finished or aborted request still sends."""
    while not request.finished:
        await request.aresult()
