"""What changes with every request and so lies outside the graphs: padding to a bucket, and choosing the next token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from cases.runtime.llama import TOKENS, State
from harness.contract import Sampling


def sample_index(logits: Tensor, noise: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw one id [1] from logits [vocabulary]: temperature, then top-k, then top-p, then the draw.

    `noise` holds standard exponential draws e; argmax(p / e) is a draw from p (the exponential race).
    """
    scores = logits.float() / temperature
    if top_k > 0:
        least = torch.topk(scores, min(top_k, scores.shape[0])).values[-1]
        scores = torch.where(scores < least, torch.full_like(scores, float("-inf")), scores)
    if top_p < 1.0:
        ordered = torch.sort(scores, descending=True).values
        mass = torch.softmax(ordered, dim=0)
        kept = torch.cumsum(mass, dim=0) - mass < top_p
        least = torch.where(kept, ordered, torch.full_like(ordered, float("inf"))).min()
        scores = torch.where(scores < least, torch.full_like(scores, float("-inf")), scores)
    return torch.argmax(torch.softmax(scores, dim=0) / noise, dim=0, keepdim=True)


class DynamicOps(ABC):
    """The dynamic operations of one session on one device."""

    name: str

    def __init__(self, sampling: Sampling, device: str, vocab_size: int) -> None:
        self.sampling = sampling
        pinned = device == "cuda"
        self.host_token = torch.zeros(1, dtype=torch.int64, pin_memory=pinned)
        self._noise = torch.empty(vocab_size, dtype=torch.float32, device=device)
        self._generator = torch.Generator(device=device)

    def reseed(self) -> None:
        """Start the draws of a request anew, so that a request repeats."""
        if self.sampling.strategy == "sample":
            self._generator.manual_seed(self.sampling.seed)

    def draw(self, state: State) -> Tensor:
        """Standard exponential noise for one choice."""
        return self._noise.exponential_(generator=self._generator)

    def compile(self) -> None:  # noqa: B027  plain ops have nothing to compile
        """Make ready before the first request; timed as set-up."""

    @abstractmethod
    def load_prompt(self, prompt: Sequence[int], count: int, state: State) -> None:
        """Put position 0, the last index and the prompt, padded to `count` tokens, into the state."""

    @abstractmethod
    def choose(self, state: State) -> None:
        """Choose from the state's logits; make the state ready for the next step; send the id to `host_token`."""


class PlainOps(DynamicOps):
    """Plain Python and PyTorch."""

    name = "plain PyTorch"

    def load_prompt(self, prompt: Sequence[int], count: int, state: State) -> None:
        """See DynamicOps."""
        ids = list(prompt)
        words = [0, len(ids) - 1, *ids, *[0] * (count - len(ids))]
        state.words[: TOKENS + count].copy_(torch.tensor(words))

    def choose(self, state: State) -> None:
        """See DynamicOps."""
        sampling = self.sampling
        if sampling.strategy == "greedy":
            token = torch.argmax(state.logits, dim=0, keepdim=True)
        else:
            token = sample_index(state.logits, self.draw(state), sampling.temperature, sampling.top_k, sampling.top_p)
        state.position.add_(state.last + 1)
        state.last.zero_()
        state.tokens[:1].copy_(token)
        self.host_token.copy_(token, non_blocking=True)
