"""A lean Llama for one sequence: one forward serves prefill, decode and capture alike.

Everything that changes between two forwards of the same token count lies on the device in buffers that never move,
so a forward can be captured once and replayed for any prompt and any context length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LayerWeights, LlamaWeights

POSITION, LAST, TOKENS = 0, 1, 2
"""Layout of `State.words`."""


class State:
    """Static device buffers of one sequence.

    `words`, int64 [2 + capacity]: the position of the forward's first token, the index of its last real token, and
    its tokens; a decode step reads one token, a prefill as many as its bucket. `logits`: [vocabulary].
    `keys`, `values`: [layers, key-value heads, capacity, head_dim]. `continues`: whether a forward over several tokens
    may begin behind position 0; set before the first forward.
    """

    def __init__(self, shape: LlamaShape, capacity: int, dtype: torch.dtype, device: str) -> None:
        self.capacity = capacity
        self.continues = False
        self.words = torch.zeros(TOKENS + capacity, dtype=torch.int64, device=device)
        self.position = self.words[POSITION : POSITION + 1]
        self.last = self.words[LAST : LAST + 1]
        self.tokens = self.words[TOKENS:]
        self.logits = torch.zeros(shape.vocab_size, dtype=dtype, device=device)
        size = (shape.num_hidden_layers, shape.num_key_value_heads, capacity, shape.head_dim)
        self.keys = torch.zeros(size, dtype=dtype, device=device)
        self.values = torch.zeros(size, dtype=dtype, device=device)
        self.cosines, self.sines = rotary_tables(shape, capacity, device)


def rotary_tables(shape: LlamaShape, capacity: int, device: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position times inverse frequency, float32 [capacity, head_dim / 2] (Su et al. 2021)."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=device) / shape.head_dim
    angles = torch.outer(torch.arange(capacity, dtype=torch.float32, device=device), shape.rope_theta**-exponents)
    return angles.cos(), angles.sin()


class Blocks(Protocol):
    """The parts of a layer that kernels may fuse. `rows` is the number of tokens of the forward."""

    name: str

    def attend(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> Tensor:
        """RMSNorm, queries, keys and values of layer `number`, rotated, keys and values written to the cache.

        Then attention, causal, to all positions up to each row's own: [rows, hidden] to [rows, query size]. The rows
        begin at the state's position, which is 0 unless the state continues; none lies beyond the capacity.
        """

    def attend_last(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> Tensor:
        """The same, but the result for the last real token alone, over the cache: to [1, query size]."""

    def add_out(self, residual: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """Project and add to the residual; may write in place."""

    def add_mlp(self, residual: Tensor, layer: LayerWeights) -> Tensor:
        """RMSNorm, gated MLP, add to the residual; may write in place."""

    def head(self, residual: Tensor, weights: LlamaWeights, logits: Tensor) -> None:
        """RMSNorm of one row and the language-model head into `logits`."""


class Model(Protocol):
    """A model whose forward reads tokens from its state and leaves logits there.

    `name` is that of the software, `kernels` says what computes.
    """

    name: str
    kernels: str
    shape: LlamaShape
    state: State

    def forward(self, count: int, between: Callable[[], None] | None = None) -> None:
        """Run the first `count` tokens of the state; no synchronisation, no host read."""


class Llama:
    """Weights, state and kernels together. `forward` reads tokens from the state and leaves logits there."""

    name = "lean Llama"

    def __init__(self, shape: LlamaShape, weights: LlamaWeights, state: State, blocks: Blocks) -> None:
        self.shape, self.weights, self.state, self.blocks = shape, weights, state, blocks
        self.kernels = blocks.name

    @torch.no_grad()
    def forward(self, count: int, between: Callable[[], None] | None = None) -> None:
        """Run the first `count` tokens of the state; no synchronisation, no host read.

        Only the last real token's logits are wanted, so the last layer does everything behind its keys and values
        for that one row. `between` is called before each layer and at the end, on the host.
        """
        blocks, state = self.blocks, self.state
        residual = F.embedding(state.tokens[:count], self.weights.embedding)
        final = len(self.weights.layers) - 1
        for number, layer in enumerate(self.weights.layers):
            if between is not None:
                between()
            if count > 1 and number < final:
                attended = blocks.attend(residual, layer, state, number)
            else:
                attended = blocks.attend_last(residual, layer, state, number)
                residual = residual.index_select(0, state.last) if count > 1 else residual
            residual = blocks.add_out(residual, attended, layer)
            residual = blocks.add_mlp(residual, layer)
        blocks.head(residual, self.weights, state.logits)
        if between is not None:
            between()
