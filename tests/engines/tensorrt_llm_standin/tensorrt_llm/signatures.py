"""Names and defaults by release. A name that is not here is refused, whether or not the release has it."""

from __future__ import annotations

from typing import Any

NONE, FALSE, TRUE, FACTORY = None, False, True, "made by a factory"

EXPLICIT: dict[str, Any] = {
    "tokenizer": NONE, "tokenizer_mode": "auto", "skip_tokenizer_init": FALSE, "trust_remote_code": FALSE,
    "tensor_parallel_size": 1, "dtype": "auto", "revision": NONE, "tokenizer_revision": NONE,
}  # fmt: skip
"""Arguments that LLM.__init__ spells out behind `model`; all others are fields of TorchLlmArgs, given as keywords."""

OF_ALL: dict[str, Any] = {
    "pipeline_parallel_size": 1, "context_parallel_size": 1, "gpus_per_node": NONE, "moe_cluster_parallel_size": NONE,
    "moe_tensor_parallel_size": NONE, "moe_expert_parallel_size": NONE, "enable_attention_dp": FALSE,
    "cp_config": NONE, "load_format": "auto", "enable_lora": FALSE, "lora_config": NONE, "kv_cache_config": FACTORY,
    "enable_chunked_prefill": FALSE, "guided_decoding_backend": NONE, "batched_logits_processor": NONE,
    "iter_stats_max_iterations": NONE, "request_stats_max_iterations": NONE, "peft_cache_config": NONE,
    "scheduler_config": FACTORY, "cache_transceiver_config": NONE, "speculative_config": NONE,
    "max_batch_size": NONE, "max_input_len": NONE, "max_seq_len": NONE, "max_beam_width": NONE,
    "max_num_tokens": NONE, "gather_generation_logits": FALSE, "num_postprocess_workers": 0,
    "postprocess_tokenizer_dir": NONE, "reasoning_parser": NONE, "decoding_config": NONE, "backend": "pytorch",
    "garbage_collection_gen0_threshold": 20000, "cuda_graph_config": FACTORY, "attention_dp_config": NONE,
    "disable_overlap_scheduler": FALSE, "moe_config": FACTORY, "attn_backend": "TRTLLM",
    "enable_iter_perf_stats": FALSE, "enable_iter_req_stats": FALSE, "print_iter_log": FALSE,
    "torch_compile_config": NONE, "enable_autotuner": TRUE, "enable_layerwise_nvtx_marker": FALSE,
    "enable_min_latency": FALSE, "stream_interval": 1, "force_dynamic_quantization": FALSE,
    "allreduce_strategy": "AUTO", "checkpoint_loader": NONE, "checkpoint_format": NONE,
}  # fmt: skip
LATER: dict[str, Any] = {
    "return_perf_metrics": FALSE, "perf_metrics_max_requests": 0, "batch_wait_timeout_ms": 0.0,
    "batch_wait_timeout_iters": 0, "batch_wait_max_tokens_ratio": 0.0, "kv_connector_config": NONE,
    "mm_encoder_only": FALSE, "sampler_type": "auto", "enable_lm_head_tp_in_adp": FALSE,
    "fail_fast_on_attention_window_too_large": FALSE,
}  # fmt: skip
"""From 1.1 on. Of these 1.0 has none: `return_perf_metrics` is there an argument of SamplingParams alone."""
TORCH_LLM_ARGS: dict[str, dict[str, Any]] = {
    "1.0.0": {
        **OF_ALL, "build_config": NONE, "enable_mixed_sampler": FALSE, "enable_trtllm_sampler": FALSE,
    },
    "1.1.0": {**OF_ALL, **LATER, "build_config": NONE},
    "1.2.0": {
        **OF_ALL, **LATER, "orchestrator_type": NONE, "env_overrides": NONE, "custom_tokenizer": NONE,
        "ray_worker_extension_cls": NONE, "ray_placement_config": NONE, "enable_sleep": FALSE,
        "disable_flashinfer_sampling": FALSE, "max_stats_len": 1000, "sparse_attention_config": NONE,
        "nvfp4_gemm_config": FACTORY, "sampler_force_async_worker": FALSE,
    },
}  # fmt: skip

CUDA_GRAPH_CONFIG: dict[str, Any] = {"batch_sizes": NONE, "max_batch_size": 0, "enable_padding": FALSE}
KV_CACHE_CONFIG: dict[str, Any] = {
    "enable_block_reuse": TRUE, "max_tokens": NONE, "max_attention_window": NONE, "sink_token_length": NONE,
    "free_gpu_memory_fraction": NONE, "host_cache_size": NONE, "onboard_blocks": TRUE,
    "cross_kv_cache_fraction": NONE, "secondary_offload_min_priority": NONE,
}  # fmt: skip
KV_FRACTION = {"1.0.0": NONE, "1.1.0": NONE, "1.2.0": 0.9}
"""The default of free_gpu_memory_fraction."""

FIRST_SAMPLING: dict[str, Any] = {
    "end_id": NONE, "pad_id": NONE, "max_tokens": 32, "bad": NONE, "bad_token_ids": NONE, "stop": NONE,
    "stop_token_ids": NONE, "include_stop_str_in_output": FALSE, "embedding_bias": NONE, "logits_processor": NONE,
    "apply_batched_logits_processor": FALSE, "n": 1, "best_of": NONE, "use_beam_search": FALSE, "top_k": NONE,
    "top_p": NONE, "top_p_min": NONE, "top_p_reset_ids": NONE, "top_p_decay": NONE, "seed": NONE,
    "temperature": NONE, "min_tokens": NONE, "beam_search_diversity_rate": NONE, "repetition_penalty": NONE,
    "presence_penalty": NONE, "frequency_penalty": NONE, "length_penalty": NONE, "early_stopping": NONE,
    "no_repeat_ngram_size": NONE, "min_p": NONE, "beam_width_array": NONE, "logprobs": NONE,
    "prompt_logprobs": NONE, "return_context_logits": FALSE, "return_generation_logits": FALSE,
    "exclude_input_from_output": TRUE, "return_encoder_output": FALSE, "return_perf_metrics": FALSE,
    "additional_model_outputs": NONE, "lookahead_config": NONE, "guided_decoding": NONE, "ignore_eos": FALSE,
    "detokenize": TRUE, "add_special_tokens": TRUE, "truncate_prompt_tokens": NONE, "skip_special_tokens": TRUE,
    "spaces_between_special_tokens": TRUE,
}  # fmt: skip
SAMPLING_PARAMS = {
    "1.0.0": FIRST_SAMPLING, "1.1.0": FIRST_SAMPLING, "1.2.0": {**FIRST_SAMPLING, "prompt_ignore_length": NONE},
}  # fmt: skip
GENERATE_ASYNC = {
    "1.0.0": {"scheduling_params"},
    "1.1.0": {"scheduling_params", "cache_salt"},
    "1.2.0": {"scheduling_params", "cache_salt", "trace_headers"},
}
"""Of its arguments those behind `disaggregated_params`, none of which the case gives."""
