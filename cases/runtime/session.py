"""One sequence on one device: dynamic ops, forward, dynamic ops, and the token in host memory."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence

import torch

from cases.runtime.decoding import make_decoding
from cases.runtime.dynamic_ops import DynamicOps
from cases.runtime.llama import Model
from cases.runtime.runner import Runner
from harness.contract import Sampling, Stats

Meanwhile = Callable[[int], None] | None
"""See harness.contract.Case.meanwhile."""


class GpuTimer:
    """Time between CUDA events around a request's work; on the CPU it reads nothing and stays at 0."""

    def __init__(self, device: str) -> None:
        self._on = device == "cuda"
        self._pending = False
        self._total_ns = 0
        if self._on:
            # Asked for once: `record` by itself asks for it each time, in many steps of Python.
            self._stream = torch.cuda.current_stream()
            self._start = torch.cuda.Event(enable_timing=True)
            self._end = torch.cuda.Event(enable_timing=True)

    def start(self) -> None:
        """Mark the beginning of the work in the stream."""
        if self._on:
            self._collect()
            self._start.record(self._stream)

    def finish(self, meanwhile: Meanwhile) -> None:
        """Mark the end of the work and poll for it; `meanwhile` is called between two looks. Without it, wait for it.

        Behind milliseconds of waiting in the driver this process would find its own code cold when the token has come.
        """
        if self._on:
            self._end.record(self._stream)
            if meanwhile is None:
                self._end.synchronize()
            else:
                ended, clock = self._end.query, time.perf_counter_ns
                while not ended():
                    meanwhile(clock())
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

    def __init__(self, model: Model, runner: Runner, ops: DynamicOps, device: str, decoding: str = "kv_cache") -> None:
        self._state, self._runner, self._ops = model.state, runner, ops
        self._decoding = make_decoding(decoding, runner, ops, model.state)
        self._gate = runner.gate
        self._timer, self._rehearsal = GpuTimer(device), GpuTimer(device)
        self._length = self._token = 0
        # NumPy's reading of the same memory: PyTorch's goes through its dispatcher, which is cold by then.
        self._arrived = ops.host_token.numpy().item
        self._launched = False

    def prefill(self, prompt: Sequence[int], new_tokens: int, meanwhile: Meanwhile = None) -> int:
        """See harness.contract.Case. Raises ValueError for a prompt that the KV cache can't hold."""
        capacity = self._state.capacity
        if not 1 <= len(prompt) <= capacity - new_tokens + 1:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and {new_tokens} new ones need a context of 1 to {capacity}"
            )
        self._length = len(prompt)
        gate = self._gate
        gate.busy = True
        try:
            self._ops.reseed()
            self._timer.start()
            self._decoding.begin(prompt)
            return self._finish(meanwhile)
        finally:
            gate.leave()

    def decode(self, meanwhile: Meanwhile = None) -> int:
        """See harness.contract.Case. Raises ValueError before the first prefill and when the KV cache is full."""
        if not 0 < self._length < self._state.capacity:
            raise ValueError(f"no room for another token after {self._length} of {self._state.capacity}")
        self._length += 1
        gate = self._gate
        gate.busy = True
        try:
            self._timer.start()
            self._decoding.step(self._token)
            return self._finish(meanwhile)
        finally:
            gate.leave()

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        """See harness.contract.Case."""
        self.prefill(prompt, len(forced) + 1)
        rows = [self._logits()]
        for token in forced:
            self._token = token
            self._decoding.force(token)
            self.decode()
            rows.append(self._logits())
        return rows

    def use(self, sampling: Sampling) -> None:
        """See harness.contract.Case. Raises ValueError for values outside their ranges."""
        self._ops.use(sampling, self._state)

    def rehearse(self) -> None:
        """Stage a prompt for nobody and launch a graph that does nothing; with the next call wait for it.

        A launch behind milliseconds of polling takes 0.02 ms, and up to 0.2 where the driver's code has gone cold.
        """
        blank = self._runner.blank()
        if blank is None:
            self._launched = False
        elif not self._launched:
            self._rehearsal.start()
            self._ops.rehearse()
            blank.replay()
            self._launched = True
        else:
            self._launched = False
            self._rehearsal.finish(None)
            self._arrived(0)

    def stats(self) -> Stats:
        """Counters so far."""
        return self._runner.stats()._replace(gpu_ns=self._timer.total_ns())

    def _finish(self, meanwhile: Meanwhile) -> int:
        self._ops.choose(self._state)
        # A thread that captures needs the interpreter, which a loop here would keep from it.
        self._timer.finish(None if self._runner.capturing else meanwhile)
        self._token = int(self._arrived(0))
        return self._token

    def _logits(self) -> array[float]:
        return array("f", self._state.logits.float().cpu().numpy().tobytes())
