"""The LLM API: classes that take the arguments of the release and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

from .. import RELEASE, signatures
from ..behaviour import behaviour
from ..executor import RequestOutput

__all__ = ["LLM", "CudaGraphConfig", "KvCacheConfig", "RequestOutput", "SamplingParams", "TorchLlmArgs"]
WORKER = [sys.executable, "-c", "import time; time.sleep(600)"]


class LoadFormat(Enum):
    AUTO = 0
    DUMMY = 1


class Strict:
    """Takes the arguments in `fields` by name, and refuses others with `refusal`."""

    fields: dict[str, Any]
    refusal: type[Exception] = ValueError

    def __init__(self, **given: Any) -> None:
        if unknown := sorted(given.keys() - self.fields.keys()):
            raise self.refusal(f"{type(self).__name__}: extra inputs are not permitted: {', '.join(unknown)}")
        self.__dict__.update(self.fields | given)


class CudaGraphConfig(Strict):
    fields = signatures.CUDA_GRAPH_CONFIG


class KvCacheConfig(Strict):
    fields = signatures.KV_CACHE_CONFIG | {"free_gpu_memory_fraction": signatures.KV_FRACTION[RELEASE]}


class SamplingParams(Strict):
    fields = signatures.SAMPLING_PARAMS[RELEASE]
    refusal = TypeError

    @property
    def _greedy_decoding(self) -> bool:
        if RELEASE < "1.2":  # a temperature alone samples nothing there
            return not self.use_beam_search and self.top_k in (None, 1) and self.top_p in (None, 0.0)
        unset = self.temperature is None and self.top_p is None and self.top_k is None
        chosen = self.top_k == 1 or self.top_p == 0.0 or self.temperature == 0
        return not self.use_beam_search and (unset or chosen)


class TorchLlmArgs(Strict):
    fields = {"model": None} | signatures.EXPLICIT | signatures.TORCH_LLM_ARGS[RELEASE]
    model_fields = fields

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.load_format = LoadFormat[str(self.load_format).upper()]
        assert isinstance(self.kv_cache_config, KvCacheConfig)
        assert isinstance(self.cuda_graph_config, CudaGraphConfig)


class LLM:
    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        for key in kwargs:
            if key not in TorchLlmArgs.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        assert skip_tokenizer_init, "this stand-in has no tokenizer"
        self.args = TorchLlmArgs(
            model=model, skip_tokenizer_init=True, tensor_parallel_size=tensor_parallel_size, dtype=dtype, **kwargs
        )
        acts = behaviour()
        self.args.backend = acts.backend
        self.args.kv_cache_config.enable_block_reuse |= acts.block_reuse
        if not (Path(model) / "config.json").is_file():
            raise FileNotFoundError(f"{model} has no config.json")
        single = os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS", "0") == "1"
        self._worker = None if single else subprocess.Popen(WORKER, start_new_session=True)
        self._last: RequestOutput | None = None
        self._down = False

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        **more: Any,
    ) -> RequestOutput:
        if unknown := sorted(more.keys() - signatures.GENERATE_ASYNC[RELEASE]):
            raise TypeError(f"generate_async() got an unexpected keyword argument {unknown[0]!r}")
        assert not self._down, "the engine is shut down"
        assert streaming, "without it there is one chunk for all tokens"
        assert self._last is None or self._last.finished, "the request before this one still runs"
        sampling: Any = sampling_params or SamplingParams()
        if sampling.end_id is None:
            raise ValueError("tokenizer is required to set end_id")
        if len(inputs) > self.args.max_num_tokens or len(inputs) + sampling.max_tokens > self.args.max_seq_len:
            raise ValueError(f"{len(inputs)} tokens and {sampling.max_tokens} new ones do not fit")
        # 1.0 reads what a request says of sampling only where it is told to.
        greedy = sampling._greedy_decoding or not getattr(self.args, "enable_mixed_sampler", True)
        salt = "greedy" if greedy else f"{sampling.seed} {sampling.temperature} {sampling.top_k} {sampling.top_p}"
        metrics = sampling.return_perf_metrics or getattr(self.args, "return_perf_metrics", False)
        asked, interval = sampling.max_tokens, self.args.stream_interval
        self._last = RequestOutput(list(inputs), asked, salt, metrics, behaviour(), interval)
        return self._last

    def shutdown(self) -> None:
        self._down = True
        if self._worker is not None and not behaviour().orphan:
            self._worker.kill()
            self._worker.wait()
            self._worker = None
