"""The blocks of a layer from compiled kernels: matrix-vector products for one row, tensor cores for more."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from cases.runtime.kernels.attention import Scratch, attend_one
from cases.runtime.kernels.causal import attend_rows
from cases.runtime.kernels.gemv import empty_like_rows, gemv
from cases.runtime.kernels.linear import products
from cases.runtime.kernels.rowwise import rms_norm, write_cache
from cases.runtime.llama import State
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LayerWeights, LlamaWeights


class TritonBlocks:
    """Five kernels a layer for one token; for a prefill eight where the products are our own, else nine."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, device: str = "cuda") -> None:
        self.shape = shape
        self.products = products(shape, dtype)
        self.eps = shape.rms_norm_eps
        self.scratch = Scratch.make(shape, device)
        self.name = f"Triton {triton.__version__} kernels, prefill products by {self.products.name}"
        self.products.compile(shape)

    def norm_qkv(self, residual: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks."""
        if residual.shape[0] == 1:
            out = empty_like_rows(layer.qkv)
            return gemv(layer.qkv, residual, out, norm=layer.attention_norm, eps=self.eps).unsqueeze(0)
        return self.products.linear(rms_norm(residual, layer.attention_norm, self.eps), layer.qkv)

    def attend(self, qkv: Tensor, state: State, layer: int) -> Tensor:
        """See Blocks."""
        tables, cache = (state.cosines, state.sines), (state.keys[layer], state.values[layer])
        write_cache(qkv, state.words, tables, cache, self.shape)
        return attend_rows(qkv, state.words, tables, cache, self.shape)

    def attend_last(self, qkv: Tensor, state: State, layer: int) -> Tensor:
        """See Blocks."""
        tables, cache = (state.cosines, state.sines), (state.keys[layer], state.values[layer])
        fresh = qkv.shape[0] == 1
        if not fresh:
            write_cache(qkv, state.words, tables, cache, self.shape)
        return attend_one(qkv, state.words, tables, cache, self.scratch, self.shape, fresh=fresh)

    def add_out(self, residual: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks. Writes in place."""
        if residual.shape[0] == 1:
            gemv(layer.out, attended, residual, residual=residual)
            return residual
        return self.products.add_linear(residual, attended, layer.out)

    def add_mlp(self, residual: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks. Writes in place."""
        if residual.shape[0] == 1:
            inner = empty_like_rows(layer.gate_up, gated=True)
            gemv(layer.gate_up, residual, inner, norm=layer.mlp_norm, eps=self.eps, gated=True)
            gemv(layer.down, inner, residual, residual=residual)
            return residual
        normed = rms_norm(residual, layer.mlp_norm, self.eps)
        return self.products.add_linear(residual, self.products.gated_linear(normed, layer.gate_up), layer.down)

    def head(self, residual: Tensor, weights: LlamaWeights, logits: Tensor) -> None:
        """See Blocks."""
        gemv(weights.head, residual, logits, norm=weights.norm, eps=self.eps)
