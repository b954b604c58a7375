"""What changes with every request: padding to a bucket, and choosing the next token.

Both lie outside the graphs, but for the part of the padding that ops can do on the device alone: that may be captured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from cases.runtime.llama import TOKENS, State
from harness.contract import Sampling

COLDEST = 1e-6
"""Least temperature: logits are divided by it in float32, where a far smaller one is zero."""


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


def sample_by_tensors(
    logits: Tensor, noise: Tensor, knobs: Tensor, rank: Tensor, cut_rank: bool, cut_mass: bool
) -> Tensor:
    """The same draw with its parameters on the device, so that a compiled form serves all of them.

    `knobs`: float32 [temperature, top_p]. `rank`: int64 [1], the place of the last score that top-k keeps. The flags
    say whether top-k and top-p are on; a compiler makes one form for each pair of them.
    """
    scores = logits.float() / knobs[0]
    if not cut_rank and not cut_mass:
        return torch.argmax(torch.softmax(scores, dim=0) / noise, dim=0, keepdim=True)
    ordered = torch.sort(scores, descending=True).values
    if cut_rank:
        least = ordered.index_select(0, rank)
        scores = torch.where(scores < least, float("-inf"), scores)
        ordered = torch.where(ordered < least, float("-inf"), ordered)
    if cut_mass:
        mass = torch.softmax(ordered, dim=0)
        kept = torch.cumsum(mass, dim=0) - mass < knobs[1]
        scores = torch.where(scores < torch.where(kept, ordered, float("inf")).min(), float("-inf"), scores)
    return torch.argmax(torch.softmax(scores, dim=0) / noise, dim=0, keepdim=True)


def check_sampling(sampling: Sampling) -> None:
    """Refuse values outside their ranges with one sentence (ValueError)."""
    if sampling.strategy not in ("greedy", "sample"):
        raise ValueError(f"sampling.strategy must be greedy or sample, not {sampling.strategy!r}")
    if not COLDEST <= sampling.temperature < float("inf"):
        raise ValueError(f"sampling.temperature must be a number from {COLDEST:g} on, not {sampling.temperature!r}")
    if not isinstance(sampling.top_k, int) or sampling.top_k < 0:
        raise ValueError(f"sampling.top_k must be a whole number of at least 0, where 0 is off, not {sampling.top_k!r}")
    if not 0 < sampling.top_p <= 1:
        raise ValueError(f"sampling.top_p must be above 0 and at most 1, where 1 is off, not {sampling.top_p!r}")
    if not isinstance(sampling.seed, int) or not 0 <= sampling.seed < 2**63:
        raise ValueError(f"sampling.seed must be a whole number from 0 to 2^63 - 1, not {sampling.seed!r}")
    if not 0 < sampling.repetition_penalty < float("inf"):
        raise ValueError(
            f"sampling.repetition_penalty must be a finite number above 0, where 1 is off, not "
            f"{sampling.repetition_penalty!r}"
        )


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [vocabulary] with those of the ids in the mask `seen` made less likely (Keskar et al. 2019, CTRL)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


class DynamicOps(ABC):
    """The dynamic operations of one session on one device."""

    name: str

    def __init__(self, sampling: Sampling, device: str, vocab_size: int) -> None:
        check_sampling(sampling)
        self.sampling = self._next = sampling
        pinned = device == "cuda"
        self.host_token = torch.zeros(1, dtype=torch.int64, pin_memory=pinned)
        self._noise = torch.empty(vocab_size, dtype=torch.float32, device=device)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._generator = torch.Generator(device=device)
        self.draws = 1

    def use(self, sampling: Sampling, state: State) -> None:
        """Choose so from the next `reseed` on. Raises ValueError for values outside their ranges."""
        check_sampling(sampling)
        self._next = sampling

    def reseed(self) -> None:
        """A request begins: its sampling holds, and its draws start anew, so that a request repeats."""
        self.sampling = self._next
        if self.sampling.strategy == "sample":
            self._generator.manual_seed(self.sampling.seed)
        if self.sampling.repetition_penalty != 1.0:
            self._seen.zero_()

    def meet(self, ids: Sequence[int]) -> None:
        """These ids of the prompt are part of the sequence, which a repetition penalty has to know."""
        if self.sampling.repetition_penalty != 1.0:
            self._seen.index_fill_(0, torch.tensor(list(ids), device=self._seen.device), True)

    def draw(self) -> Tensor:
        """Standard exponential noise for one choice."""
        return self._noise.exponential_(generator=self._generator)

    def compile(self) -> None:  # noqa: B027  plain ops have nothing to compile
        """Make ready before the first request; timed as set-up."""

    @abstractmethod
    def load_prompt(self, prompt: Sequence[int], count: int, state: State, start: int = 0) -> None:
        """Put position `start`, the last index and the prompt, padded to `count` tokens, into the state.

        Behind position 0 `prompt` is a part of one, and what came before is in the KV cache.
        """

    def stage(self, prompt: Sequence[int], count: int, state: State, start: int = 0) -> None:
        """What of `load_prompt` has to happen on the host: all of it, where `pull` does nothing."""
        self.load_prompt(prompt, count, state, start)

    def rehearse(self) -> None:  # noqa: B027  only what leaves the state as it is can be rehearsed
        """Do what `stage` does, on nothing, so that its code stays warm: no sequence sees it."""

    def pull(self, count: int, state: State) -> None:  # noqa: B027  most ops have no such part
        """The rest, on the device, behind `stage`: the same for every prompt of a bucket, so it may be captured."""

    def choose(self, state: State) -> None:
        """Choose from the state's logits; make the state ready for the next step; send the id to `host_token`.

        With `draws` above 1 a sampled id is drawn so often, and the last one counts.
        """
        penalty = self.sampling.repetition_penalty
        logits = state.logits if penalty == 1.0 else penalised(state.logits, self._seen, penalty)
        if self.sampling.strategy == "greedy":
            self.take_likeliest(logits, state)
        else:
            for _ in range(self.draws - 1):
                self.sampled(logits)
            self.take(self.sampled(logits), state)
        if penalty != 1.0:
            self._seen.index_fill_(0, state.tokens[:1], True)

    @abstractmethod
    def sampled(self, logits: Tensor) -> Tensor:
        """An id [1] drawn from logits [vocabulary]."""

    @abstractmethod
    def take(self, token: Tensor, state: State) -> None:
        """Make the state ready for the step behind `token` [1], and send it to `host_token`."""

    def take_likeliest(self, logits: Tensor, state: State) -> None:
        """Take the likeliest id."""
        self.take(torch.argmax(logits, dim=0, keepdim=True), state)


class PlainOps(DynamicOps):
    """Plain Python and PyTorch."""

    name = "plain PyTorch"

    def load_prompt(self, prompt: Sequence[int], count: int, state: State, start: int = 0) -> None:
        """See DynamicOps."""
        ids = list(prompt)
        words = [start, len(ids) - 1, *ids, *[0] * (count - len(ids))]
        state.words[: TOKENS + count].copy_(torch.tensor(words))

    def sampled(self, logits: Tensor) -> Tensor:
        """See DynamicOps."""
        sampling = self.sampling
        return sample_index(logits, self.draw(), sampling.temperature, sampling.top_k, sampling.top_p)

    def take(self, token: Tensor, state: State) -> None:
        """See DynamicOps."""
        state.position.add_(state.last + 1)
        state.last.zero_()
        state.tokens[:1].copy_(token)
        self.host_token.copy_(token, non_blocking=True)
