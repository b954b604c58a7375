"""A stand-in for the API of vLLM 0.23.0, for tests alone: its argument names and defaults, its steps, no model.

What the real signatures do not take is a TypeError here as there. A step answers as the engine's core in process does:
with asynchronous scheduling the first one only launches, and later ones launch a step before they take the last.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

ENGINE_ARGUMENTS = """
model enable_return_routed_experts model_weights served_model_name tokenizer hf_config_path runner convert
skip_tokenizer_init enable_prompt_embeds tokenizer_mode trust_remote_code allowed_local_media_path
allowed_media_domains download_dir safetensors_load_strategy safetensors_prefetch_num_threads
safetensors_prefetch_block_size load_format config_format dtype kv_cache_dtype seed max_model_len
cudagraph_capture_sizes max_cudagraph_capture_size ir_op_priority distributed_executor_backend
pipeline_parallel_size master_addr master_port nnodes node_rank distributed_timeout_seconds
cpu_distributed_timeout_seconds numa_bind numa_bind_nodes numa_bind_cpus tensor_parallel_size
prefill_context_parallel_size decode_context_parallel_size dcp_comm_backend dcp_kv_cache_interleave_size
cp_kv_cache_interleave_size data_parallel_size data_parallel_rank data_parallel_start_rank data_parallel_size_local
data_parallel_address data_parallel_rpc_port data_parallel_hybrid_lb data_parallel_external_lb
data_parallel_multi_port_external_lb data_parallel_backend enable_expert_parallel enable_ep_weight_filter
moe_backend linear_backend all2all_backend enable_elastic_ep enable_dbo ubatch_size dbo_decode_token_threshold
dbo_prefill_token_threshold disable_nccl_for_dp_synchronization eplb_config enable_eplb expert_placement_strategy
max_parallel_loading_workers block_size enable_prefix_caching prefix_caching_hash_algo disable_sliding_window
disable_cascade_attn offload_backend cpu_offload_gb cpu_offload_params offload_group_size offload_num_in_group
offload_prefetch_step offload_params gpu_memory_utilization kv_cache_memory_bytes max_num_batched_tokens
max_num_partial_prefills max_long_partial_prefills long_prefill_token_threshold max_num_seqs max_logprobs
logprobs_mode use_fp64_gumbel disable_log_stats aggregate_engine_logging revision code_revision hf_token
hf_overrides tokenizer_revision quantization quantization_config allow_deprecated_quantization enforce_eager
disable_custom_all_reduce language_model_only limit_mm_per_prompt enable_mm_embeds interleave_mm_strings
media_io_kwargs mm_processor_kwargs mm_processor_cache_gb mm_processor_cache_type mm_shm_cache_max_object_size_mb
mm_encoder_only mm_encoder_tp_mode mm_encoder_attn_backend mm_encoder_attn_dtype mm_encoder_fp8_scale_path
mm_encoder_fp8_scale_save_path mm_encoder_fp8_scale_save_margin io_processor_plugin renderer_num_workers
skip_mm_profiling video_pruning_rate mm_tensor_ipc enable_lora max_loras max_lora_rank default_mm_loras
fully_sharded_loras max_cpu_loras lora_dtype lora_target_modules enable_tower_connector_lora specialize_active_lora
enable_mixed_moe_lora_format ray_workers_use_nsight num_gpu_blocks_override model_loader_extra_config
ignore_patterns enable_chunked_prefill disable_chunked_mm_input scheduler_reserve_full_isl
disable_hybrid_kv_cache_manager structured_outputs_config reasoning_parser reasoning_parser_plugin
speculative_config spec_method spec_model spec_tokens show_hidden_metrics_for_version otlp_traces_endpoint
collect_detailed_traces kv_cache_metrics kv_cache_metrics_sample cudagraph_metrics enable_layerwise_nvtx_tracing
enable_mfu_metrics enable_logging_iteration_details enable_mm_processor_stats scheduling_policy scheduler_cls
pooler_config compilation_config attention_config mamba_config kernel_config enable_flashinfer_autotune worker_cls
worker_extension_cls profiler_config kv_transfer_config kv_events_config ec_transfer_config reasoning_config
generation_config enable_sleep_mode enable_cumem_allocator override_generation_config model_impl
override_attention_dtype attention_backend calculate_kv_scales kv_cache_dtype_skip_layers mamba_cache_dtype
mamba_ssm_cache_dtype mamba_block_size mamba_cache_mode mamba_backend enable_mamba_cache_stochastic_rounding
mamba_cache_philox_rounds additional_config use_tqdm_on_load pt_load_map_location logits_processors async_scheduling
stream_interval kv_sharing_fast_prefill optimization_level performance_mode kv_offloading_size kv_offloading_backend
tokens_only shutdown_timeout weight_transfer_config fail_on_environ_validation gdn_prefill_backend
""".split()  # noqa: SIM905
Mode = Enum("Mode", "NONE PIECEWISE FULL FULL_DECODE_ONLY FULL_AND_PIECEWISE")
RequestOutputKind = Enum("RequestOutputKind", "CUMULATIVE DELTA FINAL_ONLY")
UsageContext = Enum("UsageContext", "UNKNOWN_CONTEXT LLM_CLASS API_SERVER ENGINE_CONTEXT")


@dataclass
class SamplingParams:
    """Names and defaults of vllm.sampling_params.SamplingParams, and what it makes of them."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: Any = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    output_kind: Any = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if self.seed == -1:
            self.seed = None
        if not (0 < self.top_p <= 1 and self.top_k >= -1 and self.repetition_penalty > 0 and self.temperature >= 0):
            raise ValueError("out of range")
        if self.temperature < 1e-5:
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0


@dataclass
class Seen:
    """What a test may ask for, and what it finds afterwards."""

    tokens_a_step: int = 1
    cached: int = 0
    lose: bool = False
    prefix_caching: bool = False
    core: str = "InprocClient"
    resolved: dict[str, Any] = field(default_factory=dict)
    arguments: Any = None
    usage: Any = None
    environment: dict[str, str] = field(default_factory=dict)
    sampling: list[SamplingParams] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    engine: Any = None


def capture_sizes(sequences: int | None) -> list[int]:
    """Those that vLLM chooses: up to twice the sequences, by themselves 1024 on an H200, and up to 512."""
    most = min(2 * (sequences or 1024), 512)
    return [size for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)) if size <= most]


@dataclass
class Request:
    """One request of the scheduler."""

    prompt: list[int]
    params: SamplingParams
    launched: int = 0
    given: int = 0

    def token(self) -> int:
        self.given += 1
        return (sum(self.prompt) + self.given) % 1000


class Engine:
    """vllm.LLMEngine: add_request, step, abort_request, and what hangs on it."""

    seen: Seen

    @classmethod
    def from_engine_args(
        cls, engine_args: Any, usage_context: Any = UsageContext.ENGINE_CONTEXT, stat_loggers: Any = None,
        enable_multiprocessing: bool = False,
    ) -> Engine:  # fmt: skip
        cls.seen.arguments, cls.seen.usage = engine_args, usage_context
        cls.seen.engine = cls()
        cls.seen.environment = {key: value for key, value in os.environ.items() if key.startswith(("VLLM_", "HF_"))}
        return cls.seen.engine

    def __init__(self) -> None:
        asked, seen = self.seen.arguments, self.seen
        graphs = {
            "cudagraph_mode": "FULL_AND_PIECEWISE",
            "cudagraph_capture_sizes": asked.cudagraph_capture_sizes or capture_sizes(asked.max_num_seqs),
            "compilation_time": 0.0,
            **(asked.compilation_config or {}),
            **seen.resolved,
        }
        graphs["cudagraph_mode"] = Mode[graphs["cudagraph_mode"]]
        backend = SimpleNamespace(get_name=lambda: "FLASH_ATTN")
        layers = {"layers.0": SimpleNamespace(get_attn_backend=lambda: backend), "layers.0.mlp": SimpleNamespace()}
        asynchronous = asked.async_scheduling is not False
        self.vllm_config = SimpleNamespace(
            compilation_config=SimpleNamespace(**graphs, static_forward_context=layers),
            cache_config=SimpleNamespace(enable_prefix_caching=seen.prefix_caching or asked.enable_prefix_caching),
            scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
            max_concurrent_batches=2 if asynchronous else 1,
            use_v2_model_runner=True,
        )
        core = type(seen.core, (), {"shutdown": lambda self, timeout=None: seen.down.append("core")})
        self.engine_core = core()
        self.renderer = SimpleNamespace(shutdown=lambda: seen.down.append("renderer"))
        self._requests: dict[str, Request] = {}
        self._gone = False
        self._queue: deque[str] = deque()

    def add_request(
        self, request_id: str, prompt: Any, params: SamplingParams, arrival_time: float | None = None,
        lora_request: Any = None, tokenization_kwargs: Any = None, trace_headers: Any = None, priority: int = 0,
        prompt_text: str | None = None,
    ) -> str:  # fmt: skip
        assert isinstance(request_id, str)
        assert prompt["type"] == "token"
        self.seen.sampling.append(params)
        self.seen.in_flight.append(len(self._queue))
        self._requests[request_id] = Request(prompt["prompt_token_ids"], params)
        return f"{request_id}-0a1b2c3d"

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        assert not internal
        for name in request_ids:
            if self._requests.pop(name, None) is not None:
                self.seen.aborted.append(name)
                self._gone = True

    def has_unfinished_requests(self) -> bool:
        return bool(self._requests)

    def step(self) -> list[Any]:
        deep = self.vllm_config.max_concurrent_batches
        launched = ""
        if self._requests or self._gone:
            launched = next(
                (name for name, r in self._requests.items() if r.launched < (r.params.max_tokens or 16)), ""
            )
            if launched:
                self._requests[launched].launched += 1
                self.seen.ran.append(launched)
            self._gone = False
            self._queue.append(launched)
            if len(self._queue) < deep:
                return []
        return self._take() if self._queue else []

    def _take(self) -> list[Any]:
        name = self._queue.popleft()
        request = self._requests.get(name)
        if request is None:
            return []
        if self.seen.lose:
            del self._requests[name]
            self._gone = True
            return []
        tokens = [request.token() for _ in range(self.seen.tokens_a_step)]
        finished = request.given >= (request.params.max_tokens or 16)
        if finished:
            del self._requests[name]
            self._gone = True
        output = SimpleNamespace(token_ids=tokens, finish_reason="length" if finished else None)
        return [
            SimpleNamespace(request_id=name, outputs=[output], finished=finished, num_cached_tokens=self.seen.cached)
        ]


def packages(version: str = "0.23.0", arguments: list[str] = ENGINE_ARGUMENTS) -> tuple[dict[str, ModuleType], Seen]:
    """The modules to be put into sys.modules, and what they see."""
    seen = Seen()
    engine = type("LLMEngine", (Engine,), {"seen": seen, "__module__": "vllm.v1.engine.llm_engine"})
    names = ("vllm", "vllm.sampling_params", "vllm.usage", "vllm.usage.usage_lib")
    found = {name: ModuleType(name) for name in names}
    fields = [(name, Any, field(default=None)) for name in arguments]
    arguments_class = make_dataclass("EngineArgs", fields)
    vars(found["vllm"]).update(
        __version__=version, LLMEngine=engine, SamplingParams=SamplingParams, EngineArgs=arguments_class
    )
    vars(found["vllm.sampling_params"]).update(RequestOutputKind=RequestOutputKind, SamplingParams=SamplingParams)
    vars(found["vllm.usage.usage_lib"]).update(UsageContext=UsageContext)
    return found, seen
