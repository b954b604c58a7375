"""The blocks of a layer in plain PyTorch: what JIT-compiled kernels are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cases.runtime.llama import State
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LayerWeights, LlamaWeights

REPRODUCIBLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, whose masked attention gave other roundings from one replay of a graph to the next."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis, in float32, rounded before the weight as Transformers does (Zhang, Sennrich 2019)."""
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of [rows, heads, head_dim] by [rows, head_dim / 2], halves paired as in Llama's checkpoints."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cosines.unsqueeze(1), sines.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def silu_times(gate_up: Tensor) -> Tensor:
    """SiLU(gate) * up of [rows, 2 * intermediate] (Shazeer 2020)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@dataclass(frozen=True)
class Functions:
    """The element-wise functions of a layer, plain or compiled."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    silu_times: Callable[[Tensor], Tensor]


PLAIN = Functions("plain PyTorch", rms_norm, rotate, silu_times)


class PlainBlocks:
    """Blocks from PyTorch's own operators and the given functions."""

    def __init__(self, shape: LlamaShape, functions: Functions = PLAIN) -> None:
        self.shape, self.functions, self.name = shape, functions, functions.name
        self.heads, self.kv_heads, self.width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.grouped = self.heads != self.kv_heads

    def _cache(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values, rotate, write keys and values: [rows, heads, head_dim] each."""
        rows = residual.shape[0]
        qkv = F.linear(self.functions.rms_norm(residual, layer.attention_norm, self.shape.rms_norm_eps), layer.qkv)
        query, key, value = qkv.split((self.shape.query_size, *(self.shape.key_value_size,) * 2), dim=-1)
        value = value.view(rows, self.kv_heads, self.width)
        positions = state.position + torch.arange(rows, device=qkv.device)
        cosines, sines = state.cosines[positions], state.sines[positions]
        query = self.functions.rotate(query.view(rows, self.heads, self.width), cosines, sines)
        key = self.functions.rotate(key.view(rows, self.kv_heads, self.width), cosines, sines)
        state.keys[number].index_copy_(1, positions, key.transpose(0, 1))
        state.values[number].index_copy_(1, positions, value.transpose(0, 1))
        return query, key, value

    def attend(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> Tensor:
        """See Blocks. Where rows may begin behind position 0 the whole cache is read, masked for each row."""
        query, key, value = self._cache(residual, layer, state, number)
        if state.continues:
            return self._attend_cache(query, state, number)
        query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.grouped)
        return found.squeeze(0).transpose(0, 1).reshape(residual.shape[0], -1)

    def _attend_cache(self, query: Tensor, state: State, number: int) -> Tensor:
        rows = state.position + torch.arange(query.shape[0], device=query.device)
        seen = torch.arange(state.capacity, device=query.device) <= rows.unsqueeze(1)
        keys, values = state.keys[number].unsqueeze(0), state.values[number].unsqueeze(0)
        with sdpa_kernel(REPRODUCIBLE):
            found = F.scaled_dot_product_attention(
                query.transpose(0, 1).unsqueeze(0), keys, values, attn_mask=seen, enable_gqa=self.grouped
            )
        return found.squeeze(0).transpose(0, 1).reshape(query.shape[0], -1)

    def attend_last(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> Tensor:
        """See Blocks. The whole cache is read, and what lies behind the last real token is masked."""
        query, _, _ = self._cache(residual, layer, state, number)
        query = query.index_select(0, state.last).transpose(0, 1).unsqueeze(0)
        seen = torch.arange(state.capacity, device=query.device) <= state.position + state.last
        keys, values = state.keys[number].unsqueeze(0), state.values[number].unsqueeze(0)
        with sdpa_kernel(REPRODUCIBLE):
            found = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=seen.view(1, 1, 1, -1), enable_gqa=self.grouped
            )
        return found.reshape(1, -1)

    def add_out(self, residual: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks."""
        return residual + F.linear(attended, layer.out)

    def add_mlp(self, residual: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks."""
        normed = self.functions.rms_norm(residual, layer.mlp_norm, self.shape.rms_norm_eps)
        return residual + F.linear(self.functions.silu_times(F.linear(normed, layer.gate_up)), layer.down)

    def head(self, residual: Tensor, weights: LlamaWeights, logits: Tensor) -> None:
        """See Blocks."""
        normed = self.functions.rms_norm(residual, weights.norm, self.shape.rms_norm_eps)
        logits.copy_(F.linear(normed, weights.head)[0])
