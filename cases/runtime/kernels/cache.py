"""Where the keys and values of a layer go, and how they get there when the kernel that computes them writes none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from cases.runtime.kernels.rowwise import write_cache
from cases.runtime.llama import State
from cases.runtime.shape import LlamaShape


@dataclass(frozen=True)
class Place:
    """One layer of the cache from the state's position on, and what rotates the keys.

    `tables`: cosines and sines, float32 [capacity, head_dim / 2]. `cache`: keys and values, [key-value heads, capacity,
    head_dim], contiguous.
    """

    words: Tensor
    tables: tuple[Tensor, Tensor]
    cache: tuple[Tensor, Tensor]
    shape: LlamaShape

    @classmethod
    def of(cls, state: State, layer: int, shape: LlamaShape) -> Place:
        """A layer's."""
        cache = (state.keys[layer], state.values[layer])
        return cls(state.words, (state.cosines, state.sines), cache, shape)

    @cached_property
    def layout(self) -> tuple[int, ...]:
        """Addresses of all tensors, the capacity and the numbers of heads: all that a prepared launch takes of it."""
        heads = (self.shape.num_attention_heads, self.shape.num_key_value_heads)
        parts = (self.words, *self.tables, *self.cache)
        return (*(part.data_ptr() for part in parts), self.cache[0].shape[1], *heads)

    def write(self, qkv: Tensor) -> Tensor:
        """Write keys rotated, and values, of [rows, query + 2 * key-value size], which is returned as it came."""
        write_cache(qkv, self.words, self.tables, self.cache, self.shape)
        return qkv
