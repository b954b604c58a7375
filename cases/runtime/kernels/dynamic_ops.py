"""Dynamic ops by Triton: the prompt is read from pinned host memory and padded, the token written back there."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cases.runtime.dynamic_ops import DynamicOps, sample_by_tensors
from cases.runtime.llama import TOKENS, State
from harness.contract import Sampling

PROMPT_BLOCK = 256
ARGMAX_BLOCK = 8192
SMALLEST_BUFFER = 2**16
REHEARSED = list(range(100))


@triton.jit(do_not_specialize=["count"])
def _pull(host, words, count, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """words = position, last index, ids, padded with zeros to `count`; the host buffer has the same layout.

    All loads go at once: each is a trip over the bus to the host's memory.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    start, last = tl.load(host), tl.load(host + 1)
    ids = tl.load(host + TOKENS + at, mask=at < count, other=0)
    tl.store(words + TOKENS + at, tl.where(at <= last, ids, 0), mask=at < count)
    if tl.program_id(0) == 0:
        tl.store(words, start)
        tl.store(words + 1, last)


@triton.jit
def _advance(words, token):
    """`token` is the next forward's only one, behind the last position."""
    tl.store(words, tl.load(words) + tl.load(words + 1) + 1)
    tl.store(words + 1, 0)
    tl.store(words + 2, token)


@triton.jit
def _greedy(logits, words, host_token, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """The lowest id among those with the highest logit."""
    cols = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    place = tl.zeros((BLOCK,), tl.int32)
    for start in tl.static_range(0, VOCAB, BLOCK):
        at = start + cols
        values = tl.load(logits + at, mask=at < VOCAB, other=float("-inf")).to(tl.float32)
        better = values > best
        best = tl.where(better, values, best)
        place = tl.where(better, at, place)
    highest = tl.max(best, 0)
    token = tl.min(tl.where(best == highest, place, VOCAB), 0).to(tl.int64)
    _advance(words, token)
    tl.store(host_token, token)


@triton.jit
def _accept(chosen, words, host_token):
    """Take a token that another kernel chose."""
    token = tl.load(chosen)
    _advance(words, token)
    tl.store(host_token, token)


class TritonOps(DynamicOps):
    """Padding and greedy choice by Triton; sampling by torch.compile, one form for all temperatures, top-k and top-p.

    Sampling is compiled when it is first wanted: during set-up if the plan samples, else inside `use`, never inside a
    request.
    """

    name = "Triton"

    def compile(self) -> None:
        """See DynamicOps."""
        self._resize(SMALLEST_BUFFER)
        device = self._noise.device
        self._knobs = torch.empty(2, dtype=torch.float32, device=device)
        self._rank = torch.empty(1, dtype=torch.int64, device=device)
        self._known: tuple[float, int, float] | None = None
        self._compiled: Callable[..., Tensor] | None = None
        if self.sampling.strategy == "sample":
            self.name = "Triton, sampling by torch.compile"

    def use(self, sampling: Sampling, state: State) -> None:
        """See DynamicOps. Compiles now what the sampling needs, by a draw that nobody sees."""
        super().use(sampling, state)
        if sampling.strategy == "sample":
            unseen = torch.ones_like(self._noise)
            self._sample(state.logits, unseen, sampling.temperature, sampling.top_k, sampling.top_p)

    def stage(self, prompt: Sequence[int], count: int, state: State, start: int = 0) -> None:
        """See DynamicOps. The last request's kernel has read the host buffer, for its token is here.

        A further part of one prompt waits until the part before it has been read.
        """
        if TOKENS + state.capacity > self._places:
            self._resize(TOKENS + state.capacity)
        if start > 0:
            torch.cuda.current_stream().synchronize()
        self._put(start, prompt)

    def rehearse(self) -> None:
        """See DynamicOps. The host buffer is read by the kernel of a prefill alone."""
        self._put(0, REHEARSED)

    def pull(self, count: int, state: State) -> None:
        """See DynamicOps."""
        grid = (triton.cdiv(count, PROMPT_BLOCK),)
        _pull[grid](self._host, state.words, count, TOKENS=TOKENS, BLOCK=PROMPT_BLOCK, num_warps=4)

    def load_prompt(self, prompt: Sequence[int], count: int, state: State, start: int = 0) -> None:
        """See DynamicOps."""
        self.stage(prompt, count, state, start)
        self.pull(count, state)

    def take_likeliest(self, logits: Tensor, state: State) -> None:
        """See DynamicOps. One kernel."""
        vocab = logits.shape[0]
        block = min(ARGMAX_BLOCK, triton.next_power_of_2(vocab))
        _greedy[(1,)](logits, state.words, self.host_token, VOCAB=vocab, BLOCK=block, num_warps=16)

    def sampled(self, logits: Tensor) -> Tensor:
        """See DynamicOps."""
        sampling = self.sampling
        return self._sample(logits, self.draw(), sampling.temperature, sampling.top_k, sampling.top_p)

    def take(self, token: Tensor, state: State) -> None:
        """See DynamicOps."""
        _accept[(1,)](token, state.words, self.host_token, num_warps=1)

    def _sample(self, logits: Tensor, noise: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """See sample_index. The parameters go to the device when they change."""
        if self._compiled is None:
            self._compiled = torch.compile(sample_by_tensors, dynamic=False)
        if (temperature, top_k, top_p) != self._known:
            self._knobs.copy_(torch.tensor([temperature, top_p]))
            self._rank.fill_(min(top_k, logits.shape[0]) - 1)
            self._known = (temperature, top_k, top_p)
        return self._compiled(logits, noise, self._knobs, self._rank, top_k > 0, top_p < 1.0)

    def _put(self, start: int, ids: Sequence[int]) -> None:
        """Into the host buffer, as State.words has it.

        This lies inside a timed interval, where code is cold: this is one short loop, while NumPy first finds out
        what is in a list.
        """
        struct.pack_into(f"={len(ids) + TOKENS}q", self._bytes, 0, start, len(ids) - 1, *ids)

    def _resize(self, places: int) -> None:
        """Pinned host memory for so many ids, and a view of it."""
        self._places = places
        self._host = torch.zeros(places, dtype=torch.int64, pin_memory=True)
        self._bytes = self._host.numpy().data.cast("B")
