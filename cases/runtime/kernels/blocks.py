"""The blocks of a layer from compiled kernels: matrix-vector products for one row, tensor cores for more."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from cases.runtime.kernels.attention import Scratch, attend_one
from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.causal import attend_rows
from cases.runtime.kernels.gemv import empty_like_rows
from cases.runtime.kernels.linear import products
from cases.runtime.kernels.rowwise import rms_norm
from cases.runtime.kernels.vectors import vectors
from cases.runtime.llama import State
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LayerWeights, LlamaWeights


class TritonBlocks:
    """Five kernels a layer for one token; for a prefill seven where the products are our own, else nine."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, device: str = "cuda") -> None:
        self.shape = shape
        self.products = products(shape, dtype)
        self.eps = shape.rms_norm_eps
        self.scratch = Scratch.make(shape, device)
        self.vector = vectors(shape, dtype)
        self.name = (
            f"Triton {triton.__version__} kernels, prefill products by {self.products.name}, "
            f"decode products by {self.vector.name}"
        )
        self.products.compile(shape)
        self.vector.compile(shape)
        self._state: State | None = None
        self._places: list[Place] = []

    def attend(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> Tensor:
        """See Blocks."""
        to = self._place(state, number)
        normed = rms_norm(residual, layer.attention_norm, self.eps)
        queries, rotated = self.products.queries(normed, layer.qkv, to)
        return attend_rows(queries, to.words, to.tables, to.cache, self.shape, rotated=rotated)

    def attend_last(self, residual: Tensor, layer: LayerWeights, state: State, number: int) -> Tensor:
        """See Blocks. The query stays float32 once it is rotated, so it comes raw."""
        to = self._place(state, number)
        fresh = residual.shape[0] == 1
        if fresh:
            out = empty_like_rows(layer.qkv)
            rows = self.vector(layer.qkv, residual, out, norm=layer.attention_norm, eps=self.eps).unsqueeze(0)
        else:
            normed = rms_norm(residual, layer.attention_norm, self.eps)
            rows, _ = self.products.queries(normed, layer.qkv, to, raw=True)
        return attend_one(rows, to.words, to.tables, to.cache, self.scratch, self.shape, fresh=fresh)

    def add_out(self, residual: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks. Writes in place."""
        if residual.shape[0] == 1:
            self.vector(layer.out, attended, residual, residual=residual)
            return residual
        return self.products.add_linear(residual, attended, layer.out)

    def add_mlp(self, residual: Tensor, layer: LayerWeights) -> Tensor:
        """See Blocks. Writes in place."""
        if residual.shape[0] == 1:
            inner = empty_like_rows(layer.gate_up, gated=True)
            self.vector(layer.gate_up, residual, inner, norm=layer.mlp_norm, eps=self.eps, gated=True)
            self.vector(layer.down, inner, residual, residual=residual)
            return residual
        normed = rms_norm(residual, layer.mlp_norm, self.eps)
        return self.products.add_linear(residual, self.products.gated_linear(normed, layer.gate_up), layer.down)

    def head(self, residual: Tensor, weights: LlamaWeights, logits: Tensor) -> None:
        """See Blocks."""
        self.vector(weights.head, residual, logits, norm=weights.norm, eps=self.eps)

    def _place(self, state: State, number: int) -> Place:
        """A layer's: made once for a state, since launches are prepared by it."""
        if state is not self._state:
            self._places = [Place.of(state, layer, self.shape) for layer in range(self.shape.num_hidden_layers)]
            self._state = state
        return self._places[number]
