"""What vLLM is started with, and whether it took it: options, environment, version, engine arguments, settings."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cases.options import check_memory_fraction, check_names
from harness.contract import Plan, Unavailable, Unsupported

OPTIONS = ("max_num_seqs", "capture_sizes", "cudagraph_mode", "async_scheduling", "memory_fraction")
MODES = ("FULL_AND_PIECEWISE", "FULL", "FULL_DECODE_ONLY", "PIECEWISE")
LEAST, SHOWN = (0, 23), 16
HOW_TO_GET = "`make setup-vllm` puts it into an environment of its own; the case's `python` may name another"
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
"""Read by vLLM when it is imported: the engine in this process, no report to its makers, no look at the hub."""


def check_options(options: Mapping[str, Any]) -> None:
    """See harness.contract.Case."""
    check_names("vllm", OPTIONS, options)
    sequences, sizes, mode = options["max_num_seqs"], options["capture_sizes"], options["cudagraph_mode"]
    if sequences is not None and not is_size(sequences):
        raise ValueError(f"max_num_seqs must be null or a whole number from 1 on, not {sequences!r}")
    if sizes is not None and not (isinstance(sizes, list | tuple) and sizes and all(map(is_size, sizes))):
        raise ValueError(f"capture_sizes must be null or a list of whole numbers from 1 on, not {sizes!r}")
    if mode is not None and mode not in MODES:
        raise ValueError(f"cudagraph_mode must be null or one of {', '.join(MODES)}, not {mode!r}")
    if not (options["async_scheduling"] is None or isinstance(options["async_scheduling"], bool)):
        raise ValueError(f"async_scheduling must be null, true or false, not {options['async_scheduling']!r}")
    check_memory_fraction(options["memory_fraction"])


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
