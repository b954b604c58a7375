"""Which TensorRT-LLM is here, and what it is given: the names that change from release to release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.contract import Plan, Unavailable, Unsupported

LEAST = (1, 0)
LLM_METRICS = (1, 1)
"""From here `LLM` itself takes return_perf_metrics; 1.0 has it in SamplingParams alone."""
CHECKED = "1.0, 1.1 and 1.2"
"""The releases whose names this case was checked against; see tensorrt_llm.md."""
HOW_TO_GET_IT = (
    "`make setup-tensorrt-llm` installs it in an environment of its own; another one is named by "
    "cases.tensorrt_llm.python"
)
NO_TOKEN_ID = -1
"""As end and padding id: nothing ends a sequence early. Needed because there is no tokenizer to take them from."""


class Version(NamedTuple):
    """A release: as the package states it, and its first two numbers."""

    text: str
    numbers: tuple[int, int]


def version_of(package: Any) -> Version:
    """The version of the imported package. Raises Unavailable below 1.0, whose LLM API is another."""
    text = str(getattr(package, "__version__", "of no stated version"))
    found = re.match(r"(\d+)\.(\d+)", text)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    if numbers < LEAST:
        raise Unavailable(f"tensorrt_llm {text} is here, and 1.0 or later is needed: {HOW_TO_GET_IT}")
    return Version(text, numbers)


def llm_arguments(plan: Plan, version: Version) -> dict[str, Any]:
    """The plain arguments of `LLM`; its two sub-configurations have functions of their own below."""
    arguments: dict[str, Any] = {
        "model": plan.checkpoint,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": plan.dtype,
        "tensor_parallel_size": 1,
        "load_format": "auto",
        "max_batch_size": 1,
        "max_seq_len": plan.context,
        "max_num_tokens": plan.context,
        "enable_chunked_prefill": False,
        "disable_overlap_scheduler": not plan.options["overlap_scheduler"],
        "stream_interval": 1,
    }
    if version.numbers >= LLM_METRICS:
        arguments["return_perf_metrics"] = True
    if plan.options["early_first_token"]:
        arguments["enable_early_first_token_response"] = True
    return arguments


def cache_arguments(plan: Plan) -> dict[str, Any]:
    """Arguments of KvCacheConfig: no block of an earlier prompt answers for a later one."""
    return {"enable_block_reuse": False, "free_gpu_memory_fraction": plan.options["memory_fraction"]}


GRAPH_ARGUMENTS: dict[str, Any] = {"batch_sizes": [1]}
"""Arguments of CudaGraphConfig. The engine's graphs are for decode steps alone."""


def per_request_sampler(plan: Plan, known: frozenset[str]) -> dict[str, Any]:
    """1.0 chooses greedily whatever a request says, unless it is told to look; later releases always look."""
    if plan.sampling.strategy == "sample" and "enable_mixed_sampler" in known:
        return {"enable_mixed_sampler": True}
    return {}


def sampling_arguments(plan: Plan, new_tokens: int) -> dict[str, Any]:
    """Arguments of SamplingParams for one request of `new_tokens`. Raises Unsupported for a repetition penalty."""
    sampling = plan.sampling
    if sampling.repetition_penalty != 1.0:
        raise Unsupported("nothing says that TensorRT-LLM's PyTorch backend penalises repetitions: leave it at 1.0")
    common = {
        "max_tokens": new_tokens,
        "end_id": NO_TOKEN_ID,
        "pad_id": NO_TOKEN_ID,
        "ignore_eos": True,
        "detokenize": False,
        "return_perf_metrics": True,
    }
    if sampling.strategy == "greedy":
        return {**common, "top_k": 1}
    # Both left out would be greedy: top_p says that it is not, 1.0 included.
    chosen = {"temperature": sampling.temperature, "top_k": sampling.top_k or None, "top_p": sampling.top_p}
    return {**common, **chosen, "seed": sampling.seed}


def refuse_unknown(version: Version, made: str, known: frozenset[str], given: Mapping[str, Any]) -> None:
    """Raises Unsupported, naming the version, for an argument that it does not have. Nothing is ever left out."""
    if unknown := sorted(set(given) - known):
        raise Unsupported(
            f"tensorrt_llm {version.text} has no argument {unknown[0]} of {made}: this case is written for "
            f"{CHECKED}; install one of them, or leave the option that asks for it at its default"
        )
