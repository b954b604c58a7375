"""One sequence on one device: dynamic ops, forward, dynamic ops, and the token in host memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch

from cases.runtime.dynamic_ops import DynamicOps
from cases.runtime.llama import Llama
from cases.runtime.runner import Runner
from harness.contract import Stats


class GpuTimer:
    """Time between CUDA events around a request's work; on the CPU it reads nothing and stays at 0."""

    def __init__(self, device: str) -> None:
        self._on = device == "cuda"
        self._pending = False
        self._total_ns = 0
        if self._on:
            self._start = torch.cuda.Event(enable_timing=True)
            self._end = torch.cuda.Event(enable_timing=True)

    def start(self) -> None:
        """Mark the beginning of the work in the stream."""
        if self._on:
            self._collect()
            self._start.record()

    def finish(self) -> None:
        """Mark the end of the work and wait for it."""
        if self._on:
            self._end.record()
            self._end.synchronize()
            self._pending = True

    def total_ns(self) -> int:
        """Nanoseconds so far."""
        self._collect()
        return self._total_ns

    def _collect(self) -> None:
        if self._pending:
            self._total_ns += round(self._start.elapsed_time(self._end) * 1e6)
            self._pending = False


class Session:
    """Prefill, decode and teacher forcing of one sequence at a time."""

    def __init__(self, model: Llama, runner: Runner, ops: DynamicOps, device: str) -> None:
        self._model, self._runner, self._ops = model, runner, ops
        self._timer = GpuTimer(device)
        self._length = 0

    def prefill(self, prompt: Sequence[int], new_tokens: int) -> int:
        """See harness.contract.Case. Raises ValueError for a prompt that the KV cache can't hold."""
        capacity = self._model.state.capacity
        if not 1 <= len(prompt) <= capacity - new_tokens + 1:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and {new_tokens} new ones need a context of 1 to {capacity}"
            )
        self._length = len(prompt)
        self._ops.reseed()
        count = self._runner.padded(len(prompt))
        self._timer.start()
        self._ops.load_prompt(prompt, count, self._model.state)
        self._runner.prefill(count)
        return self._finish()

    def decode(self) -> int:
        """See harness.contract.Case. Raises ValueError before the first prefill and when the KV cache is full."""
        if not 0 < self._length < self._model.state.capacity:
            raise ValueError(f"no room for another token after {self._length} of {self._model.state.capacity}")
        self._length += 1
        self._timer.start()
        self._runner.decode()
        return self._finish()

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        """See harness.contract.Case."""
        self.prefill(prompt, len(forced) + 1)
        rows = [self._logits()]
        for token in forced:
            self._model.state.tokens[:1].fill_(token)
            self.decode()
            rows.append(self._logits())
        return rows

    def stats(self) -> Stats:
        """Counters so far."""
        runner = self._runner
        return Stats(self._timer.total_ns(), 0, runner.captures, runner.replays, runner.ungraphed)

    def _finish(self) -> int:
        self._ops.choose(self._model.state)
        self._timer.finish()
        return int(self._ops.host_token.item())

    def _logits(self) -> array[float]:
        return array("f", self._model.state.logits.float().cpu().numpy().tobytes())
