"""vLLM: the real engine in this process, stepped by hand, or `unavailable`; nothing else ever answers."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from cases.vllm_engine import (
    HOW_TO_GET,
    arguments,
    check_engine,
    check_options,
    check_version,
    describe,
    set_environment,
)
from harness.contract import (
    Capabilities,
    Case,
    Footprint,
    Identity,
    Plan,
    Sampling,
    SetUp,
    Stats,
    Unavailable,
    Unsupported,
)

LEAST_TEMPERATURE = 0.01
"""vLLM raises a lower one to this and says so in its log alone."""


class Vllm(Case):
    """One request at a time from the same checkpoint, with CUDA graphs and without prefix caching.

    Each call steps the engine until a token comes. With asynchronous scheduling, its default, the engine has launched
    the next step by then, so it runs ahead of the client (`push`). A step with more than one new token is a failure,
    because the tokens in it have no time of their own.

    There is no `score`: the API hands out log-probabilities, and asked for logits it would run another model runner
    than the timed one.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(samplers=frozenset({"greedy", "sample"}), pacing="push")

    def __init__(self) -> None:
        self._engine: Any = None
        self._open: str | None = None
        self._requests = 0

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        check_options(options)

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case."""
        if plan.device != "cuda":
            raise Unavailable("vLLM needs a CUDA GPU; this run is on the CPU")
        environment = set_environment()
        try:
            import vllm

            version = check_version(vllm)
            from vllm import EngineArgs, LLMEngine, SamplingParams
            from vllm.sampling_params import RequestOutputKind
            from vllm.usage.usage_lib import UsageContext
        except ImportError as error:
            raise Unavailable(f"the package vllm can't be imported ({error}): {HOW_TO_GET}") from error
        self._class, self._delta = SamplingParams, RequestOutputKind.DELTA
        self.use(plan.sampling)
        started = time.perf_counter()
        asked = arguments(plan)
        unknown = sorted(asked.keys() - {field.name for field in fields(EngineArgs)})
        if unknown:
            raise RuntimeError(f"vllm {version} has no engine argument {unknown[0]}: this case needs one that has it")
        # As the class LLM, whose defaults differ from those of the bare engine.
        self._engine = LLMEngine.from_engine_args(EngineArgs(**asked), usage_context=UsageContext.LLM_CLASS)
        check_engine(self._engine, plan.options)
        config = self._engine.vllm_config
        self._in_flight: int = config.max_concurrent_batches
        compile_s = float(config.compilation_config.compilation_time)
        return SetUp(
            f"vllm {version} {describe(self._engine)}; {environment}",
            load_s=time.perf_counter() - started - compile_s,
            compile_s=compile_s,
        )

    def use(self, sampling: Sampling) -> None:
        """See harness.contract.Case. Refuses what vLLM would change in silence."""
        if sampling.strategy == "sample":
            if sampling.temperature <= 0:
                raise ValueError(f"temperature must be above 0 to sample, not {sampling.temperature}")
            if sampling.temperature < LEAST_TEMPERATURE:
                raise Unsupported(f"vLLM samples at no temperature below {LEAST_TEMPERATURE}: it would take that one")
            if sampling.seed == -1:
                raise Unsupported("vLLM takes the seed -1 for none")
        self._sampling = sampling

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """See harness.contract.Case. What the last request had left is aborted first."""
        if self._engine is None:
            raise RuntimeError("prepare() comes before the first request")
        self._abort()
        self._requests += 1
        self._open = str(self._requests)
        ids = {"type": "token", "prompt_token_ids": list(prompt)}
        self._engine.add_request(self._open, ids, self._parameters(new_tokens))
        return self._next()

    def decode(self) -> int:
        """See harness.contract.Case."""
        if self._open is None:
            raise RuntimeError("prefill(prompt, new_tokens) with new_tokens above 1 comes before decode()")
        return self._next()

    def _parameters(self, new_tokens: int) -> Any:
        sampling = self._sampling
        common: dict[str, Any] = {
            "max_tokens": new_tokens,
            "ignore_eos": True,
            "detokenize": False,
            "output_kind": self._delta,
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.strategy == "greedy":
            return self._class(**common, temperature=0.0)
        return self._class(
            **common, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, seed=sampling.seed
        )

    def _next(self) -> int:
        """Step until a token comes: a step that only launches brings none."""
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            if outputs:
                return self._token(outputs)
        self._open = None
        raise RuntimeError("the engine ended the request before its last token")

    def _token(self, outputs: Sequence[Any]) -> int:
        """The one token of a step's outputs."""
        output = outputs[0]
        if len(outputs) > 1 or output.request_id != self._open:
            named = ", ".join(str(other.request_id) for other in outputs)
            raise RuntimeError(f"a step answered the requests {named} where only {self._open} was asked")
        if output.num_cached_tokens:
            raise RuntimeError(f"{output.num_cached_tokens} prompt tokens came from the prefix cache, which is off")
        ids = output.outputs[0].token_ids
        if len(ids) != 1:
            raise RuntimeError(f"a step of the engine gave {len(ids)} tokens: they have no time of their own")
        if output.finished:
            self._open = None
        return int(ids[0])

    def _abort(self) -> None:
        """End the last request, and take what is in flight, so that it can't overlap with the next."""
        request, self._open = self._open, None
        if request is None:
            return
        self._engine.abort_request([request])
        for _ in range(self._in_flight):
            self._engine.step()

    def identity(self, prompt: Sequence[int]) -> Identity:
        """See harness.contract.Case."""
        from cases.runtime.identity import identify

        return identify(self, prompt, "cuda", f"{self._sampling.strategy} by vLLM's sampler")

    def stats(self) -> Stats:
        """See harness.contract.Case. The engine's streams and graphs are its own: nothing is counted."""
        return Stats()

    def footprint(self) -> Footprint:
        """See harness.contract.Case. Most of it is the KV cache, which fills `memory_fraction` of the GPU."""
        if self._engine is None:
            return Footprint()
        import torch

        return Footprint(torch.cuda.max_memory_reserved())

    def close(self) -> None:
        """See harness.contract.Case."""
        engine, self._engine, self._open = self._engine, None, None
        if engine is None:
            return
        import torch

        with contextlib.ExitStack() as both:  # the core too, where the renderer fails
            both.callback(engine.engine_core.shutdown)
            engine.renderer.shutdown()
        del engine, both
        gc.collect()  # the engine's objects name each other, and what the GPU holds goes with the last of them
        torch.cuda.empty_cache()
