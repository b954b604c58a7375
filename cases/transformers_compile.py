"""Transformers as its documentation advises for latency: a static cache, and decode steps compiled by `generate`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cases.baseline import Baseline
from harness.contract import Plan, SetUp

MODES = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "default")
WARM_PROMPT, WARM_STEPS = 8, 4


class TransformersCompile(Baseline):
    """One static cache for all requests, as long as the context; `generate` compiles the forward of a decode step.

    The prompt runs uncompiled, as `generate` has it: each prompt length would be a graph of its own.
    """

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        if set(options) != {"compile_mode"}:
            raise ValueError(f"transformers_compile has the option compile_mode and no other, not {sorted(options)}")
        if options["compile_mode"] not in MODES:
            raise ValueError(f"compile_mode={options['compile_mode']!r} must be one of {', '.join(MODES)}")

    def prepare(self, plan: Plan) -> SetUp:
        """See harness.contract.Case. Compiles by a short sequence, and again: CUDA graphs are recorded the second time.

        Raises:
            RuntimeError: `generate` did not compile.
        """
        from transformers import CompileConfig, StaticCache

        loaded = super().prepare(plan)
        self.report("compile")
        started = time.perf_counter()
        self._cache = StaticCache(config=self._model.config, max_cache_len=plan.context)
        self._compile = CompileConfig(mode=plan.options["compile_mode"])
        self._compile._compile_all_devices = plan.device == "cpu"  # else `generate` compiles on GPUs alone
        for _ in range(3):
            self.prefill(list(range(WARM_PROMPT)), WARM_STEPS + 1)
            for _ in range(WARM_STEPS):
                self.decode()
        if not hasattr(self._model, "_compiled_call"):
            raise RuntimeError("generate ran its decode steps uncompiled: torch.compile was asked for")
        engine = f"{loaded.engine}, static cache of {plan.context}, decode by torch.compile ({self._compile.mode})"
        return replace(loaded, engine=engine, compile_s=time.perf_counter() - started)

    def _generate(self, prompt: Sequence[int], new_tokens: int, **more: Any) -> Any:
        self._cache.reset()
        return super()._generate(prompt, new_tokens, past_key_values=self._cache, compile_config=self._compile, **more)
