"""JIT by TorchScript: the published system's compiler, and the one for machines without a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from cases.runtime.dynamic_ops import DynamicOps, sample_index
from cases.runtime.llama import State
from cases.runtime.plain import Functions, PlainBlocks, rms_norm, rotate, silu_times
from cases.runtime.shape import LlamaShape


def script(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile by TorchScript, which newer releases of PyTorch call deprecated but still ship."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        compiled: Callable[..., Any] = torch.jit.script(function)
    return compiled


def scripted_blocks(shape: LlamaShape) -> PlainBlocks:
    """Blocks whose element-wise functions are compiled by TorchScript."""
    functions = Functions("TorchScript", script(rms_norm), script(rotate), script(silu_times))
    return PlainBlocks(shape, functions)


def pad_words(ids: torch.Tensor, count: int, start: int) -> torch.Tensor:
    """State words of a prompt [n]: position, last index n - 1, then the ids padded with zeros to `count`."""
    words = torch.zeros(2 + count, dtype=torch.int64)
    words[0] = start
    words[1] = ids.shape[0] - 1
    words[2 : 2 + ids.shape[0]] = ids
    return words


def advance(words: torch.Tensor, token: torch.Tensor) -> None:
    """Make `token` [1] the next forward's only token, at the position behind the last one."""
    words[0] += words[1] + 1
    words[1] = 0
    words[2:3] = token


class ScriptedOps(DynamicOps):
    """Padding and sampling compiled by TorchScript."""

    name = "TorchScript"

    def compile(self) -> None:
        """See DynamicOps."""
        self._pad, self._advance = script(pad_words), script(advance)
        self._sample = script(sample_index)

    def load_prompt(self, prompt: Any, count: int, state: State, start: int = 0) -> None:
        """See DynamicOps."""
        words = self._pad(torch.as_tensor(prompt, dtype=torch.int64), count, start)
        state.words[: words.shape[0]].copy_(words)

    def sampled(self, logits: torch.Tensor) -> torch.Tensor:
        """See DynamicOps."""
        sampling = self.sampling
        token: torch.Tensor = self._sample(logits, self.draw(), sampling.temperature, sampling.top_k, sampling.top_p)
        return token

    def take(self, token: torch.Tensor, state: State) -> None:
        """See DynamicOps."""
        self._advance(state.words, token)
        self.host_token.copy_(token, non_blocking=True)
