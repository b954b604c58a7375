"""vLLM: the real engine in this process, stepped by hand, or `unavailable`; nothing else ever answers."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

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

OPTIONS = ("max_num_seqs", "capture_sizes", "cudagraph_mode", "async_scheduling", "memory_fraction")
MODES = ("FULL_AND_PIECEWISE", "FULL", "FULL_DECODE_ONLY", "PIECEWISE")
LEAST, SHOWN = (0, 23), 16
LEAST_TEMPERATURE = 0.01
"""vLLM raises a lower one to this and says so in its log alone."""
HOW_TO_GET = "`make setup-vllm` puts it into an environment of its own; the case's `python` may name another"
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
"""Read by vLLM when it is imported: the engine in this process, no report to its makers, no look at the hub."""


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
        unknown = sorted(options.keys() - set(OPTIONS))
        if unknown:
            raise ValueError(f"vllm has no option {unknown[0]}, only {', '.join(OPTIONS)}")
        missing = [name for name in OPTIONS if name not in options]
        if missing:
            raise ValueError(f"vllm needs the option {missing[0]}, which conf/case/vllm.yaml gives")
        sequences, sizes, mode = options["max_num_seqs"], options["capture_sizes"], options["cudagraph_mode"]
        if sequences is not None and not is_size(sequences):
            raise ValueError(f"max_num_seqs must be null or a whole number from 1 on, not {sequences!r}")
        if sizes is not None and not (isinstance(sizes, list | tuple) and sizes and all(map(is_size, sizes))):
            raise ValueError(f"capture_sizes must be null or a list of whole numbers from 1 on, not {sizes!r}")
        if mode is not None and mode not in MODES:
            raise ValueError(f"cudagraph_mode must be null or one of {', '.join(MODES)}, not {mode!r}")
        if not (options["async_scheduling"] is None or isinstance(options["async_scheduling"], bool)):
            raise ValueError(f"async_scheduling must be null, true or false, not {options['async_scheduling']!r}")
        fraction = options["memory_fraction"]
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise ValueError(f"memory_fraction must lie between 0 and 1, not {fraction!r}")

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

        engine.renderer.shutdown()
        engine.engine_core.shutdown()
        del engine
        gc.collect()  # the engine's objects name each other, and what the GPU holds goes with the last of them
        torch.cuda.empty_cache()


def is_size(value: object) -> bool:
    """Whether it is a number of tokens or of sequences."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def set_environment() -> str:
    """Set what vLLM reads from the environment; returns all of it in words."""
    wanted = dict(ENVIRONMENT)
    if importlib.util.find_spec("flashinfer") is None:
        wanted["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    os.environ.update(wanted)
    return " ".join(f"{name}={value}" for name, value in wanted.items())


def check_version(package: Any) -> str:
    """The version of the imported package. Raises Unavailable below 0.23, the oldest that this was written against."""
    version = str(getattr(package, "__version__", "of no stated version"))
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < LEAST:
        raise Unavailable(f"vllm {version} is here, and {LEAST[0]}.{LEAST[1]} or later is needed: {HOW_TO_GET}")
    return version


def arguments(plan: Plan) -> dict[str, Any]:
    """What the engine is made with; an option that is null leaves the engine its default."""
    options = plan.options
    found: dict[str, Any] = {
        "model": plan.checkpoint,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "skip_tokenizer_init": True,
        "dtype": plan.dtype,
        "max_model_len": plan.context,
        "max_num_seqs": options["max_num_seqs"],
        "enable_prefix_caching": False,
        "gpu_memory_utilization": options["memory_fraction"],
        "async_scheduling": options["async_scheduling"],
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if options["capture_sizes"] is not None:
        found["cudagraph_capture_sizes"] = with_decode(options["capture_sizes"])
    if options["cudagraph_mode"] is not None:
        found["compilation_config"] = {"cudagraph_mode": options["cudagraph_mode"]}
    return found


def with_decode(sizes: Sequence[int]) -> list[int]:
    """The sizes in order, and 1 with them: without it a decode step would be padded to the smallest."""
    return sorted({1, *sizes})


def check_engine(engine: Any, options: Mapping[str, Any]) -> None:
    """Nothing else answers in this name, and nothing was set otherwise than asked. Raises RuntimeError, Unsupported."""
    kind, config = type(engine), engine.vllm_config
    if kind.__module__.partition(".")[0] != "vllm":
        raise RuntimeError(f"vllm.LLMEngine gave a {kind.__module__}.{kind.__name__}, which is not vLLM")
    if type(engine.engine_core).__name__ != "InprocClient":
        raise RuntimeError(f"the engine's core is a {type(engine.engine_core).__name__}, not in this process")
    if config.cache_config.enable_prefix_caching:
        raise RuntimeError("vLLM has prefix caching on, which was asked to be off")
    graphs = config.compilation_config
    mode = graphs.cudagraph_mode.name
    if mode == "NONE" or options["cudagraph_mode"] not in (None, mode):
        took = f"vLLM took cudagraph_mode {mode}, not {options['cudagraph_mode'] or 'one with graphs'}"
        raise Unsupported(f"{took}: its attention kernels decide; cudagraph_mode=null takes what they can on this GPU")
    if left_out := sorted(set(options["capture_sizes"] or ()) - set(graphs.cudagraph_capture_sizes)):
        raise RuntimeError(f"vLLM captures {graphs.cudagraph_capture_sizes}, without the size {left_out[0]} asked for")


def describe(engine: Any) -> str:
    """What the engine resolved its settings to."""
    config = engine.vllm_config
    graphs = config.compilation_config
    layers = [layer for layer in graphs.static_forward_context.values() if hasattr(layer, "get_attn_backend")]
    attention = sorted({layer.get_attn_backend().get_name() for layer in layers})
    sizes = graphs.cudagraph_capture_sizes
    shown = ", ".join(map(str, sizes)) if len(sizes) <= SHOWN else f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
    return (
        f"{type(engine).__name__} in process, model runner {2 if config.use_v2_model_runner else 1}, "
        f"{' '.join(attention)}, CUDA graphs {graphs.cudagraph_mode.name} of {shown} tokens, "
        f"async scheduling {'on' if config.scheduler_config.async_scheduling else 'off'}"
    )
