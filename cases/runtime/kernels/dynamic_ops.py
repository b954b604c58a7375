"""Dynamic ops by Triton: the prompt is read from pinned host memory and padded, the token written back there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from cases.runtime.dynamic_ops import DynamicOps, sample_index
from cases.runtime.llama import TOKENS, State

PROMPT_BLOCK = 256
ARGMAX_BLOCK = 8192


@triton.jit(do_not_specialize=["length", "count"])
def _pad(host, words, length, count, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """words = position 0, last index, ids padded with zeros to `count`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(host + at, mask=at < length, other=0)
    tl.store(words + TOKENS + at, ids, mask=at < count)
    if tl.program_id(0) == 0:
        tl.store(words, 0)
        tl.store(words + 1, length - 1)


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
    """Padding and greedy choice by Triton; sampling by torch.compile."""

    name = "Triton"

    def compile(self) -> None:
        """See DynamicOps."""
        self._host = torch.zeros(2**16, dtype=torch.int64, pin_memory=True)
        self._view = self._host.numpy()
        if self.sampling.strategy == "sample":
            self.name = "Triton, sampling by torch.compile"
            self._sample = torch.compile(sample_index, dynamic=False)

    def load_prompt(self, prompt: Sequence[int], count: int, state: State) -> None:
        """See DynamicOps. The last request's kernel has read the host buffer: its token is here."""
        length = len(prompt)
        self._view[:length] = np.asarray(prompt, dtype=np.int64)
        _pad[(triton.cdiv(count, PROMPT_BLOCK),)](
            self._host, state.words, length, count, TOKENS=TOKENS, BLOCK=PROMPT_BLOCK, num_warps=4
        )

    def choose(self, state: State) -> None:
        """See DynamicOps."""
        if self.sampling.strategy == "greedy":
            vocab = state.logits.shape[0]
            block = min(ARGMAX_BLOCK, triton.next_power_of_2(vocab))
            _greedy[(1,)](state.logits, state.words, self.host_token, VOCAB=vocab, BLOCK=block, num_warps=16)
            return
        _accept[(1,)](self._choose_sampled(state), state.words, self.host_token, num_warps=1)

    def _choose_sampled(self, state: State) -> Tensor:
        sampling = self.sampling
        return self._sample(state.logits, self.draw(state), sampling.temperature, sampling.top_k, sampling.top_p)
