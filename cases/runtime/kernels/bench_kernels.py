"""The kernels of a layer as `bench` runs them: what each does in a layer, and the bytes and operations that it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cases.runtime.kernels.attention import attend_one
from cases.runtime.kernels.blocks import TritonBlocks
from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.causal import attend_rows
from cases.runtime.kernels.gemv import empty_like_rows
from cases.runtime.kernels.rowwise import rms_norm
from cases.runtime.kernels.timing import CAPACITY, Kernel
from cases.runtime.llama import POSITION, State
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import random_weights

HEADS_IN_A_GRAPH = 8
"""Runs of the language-model head in one graph: there is one in a model, larger than the cache."""


class Bench:
    """Random weights of a shape, its blocks, and buffers of the activations."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, layers: int | None) -> None:
        self.shape, self.dtype = shape, dtype
        self.weights = random_weights(shape, dtype, "cuda")
        self.layers = min(layers or shape.num_hidden_layers, shape.num_hidden_layers)
        self.blocks = TritonBlocks(shape, dtype)
        self.state = State(shape, CAPACITY, dtype, "cuda")

    def random(self, rows: int, width: int) -> Tensor:
        """Activations."""
        return torch.randn(rows, width, dtype=self.dtype, device="cuda")

    def nbytes(self, *tensors: Tensor) -> float:
        """Bytes of tensors that a kernel reads or writes once."""
        return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def kernels(
    shape: LlamaShape, dtype: str, rows: Sequence[int], contexts: Sequence[int], layers: int | None
) -> Iterator[Kernel]:
    """All kernels of a decode step, by context where it matters, and of a prefill, by rows."""
    bench = Bench(shape, getattr(torch, dtype), layers)
    yield from decode(bench, contexts)
    for count in rows:
        yield from prefill(bench, count)


def decode(bench: Bench, contexts: Sequence[int]) -> Iterator[Kernel]:
    """Those of one token."""
    shape, weights, blocks, eps = bench.shape, bench.weights, bench.blocks, bench.shape.rms_norm_eps
    x = bench.random(1, shape.hidden_size)
    attended, inner = bench.random(1, shape.query_size), bench.random(1, shape.intermediate_size)
    first, vector = weights.layers[0], blocks.vector

    def one(name: str, work: Callable[[int], object], weight: Tensor, times: int = bench.layers) -> Kernel:
        return Kernel("decode", name, 1, 0, work, times, bench.nbytes(weight), 2.0 * weight.numel())

    def query_key_value(n: int) -> None:
        layer = weights.layers[n]
        vector(layer.qkv, x, empty_like_rows(layer.qkv), norm=layer.attention_norm, eps=eps)

    yield one("norm, query-key-value", query_key_value, first.qkv)
    qkv = bench.random(1, shape.query_size + 2 * shape.key_value_size)
    for context in contexts:
        read = 2.0 * context * shape.key_value_size * bench.dtype.itemsize

        def attend(n: int) -> None:
            to = Place.of(bench.state, n, shape)
            attend_one(qkv, to.words, to.tables, to.cache, blocks.scratch, shape, fresh=True)

        bench.state.words[POSITION] = context
        yield Kernel("decode", "rotation, cache, attention", 1, context, attend, bench.layers, read)
    yield one("output, residual", lambda n: blocks.add_out(x, attended, weights.layers[n]), first.out)

    def gate_up(n: int) -> None:
        layer = weights.layers[n]
        vector(layer.gate_up, x, empty_like_rows(layer.gate_up, gated=True), norm=layer.mlp_norm, eps=eps, gated=True)

    yield one("norm, gate-up, SiLU", gate_up, first.gate_up)
    yield one("down, residual", lambda n: vector(weights.layers[n].down, inner, x, residual=x), first.down)
    logits = bench.state.logits
    yield one("norm, head", lambda _: blocks.head(x, weights, logits), weights.head, HEADS_IN_A_GRAPH)


def prefill(bench: Bench, count: int) -> Iterator[Kernel]:
    """Those of a prompt of `count` tokens."""
    shape, layers, products = bench.shape, bench.weights.layers, bench.blocks.products
    state, eps = bench.state, bench.shape.rms_norm_eps
    state.words.zero_()
    x, residual = bench.random(count, shape.hidden_size), bench.random(count, shape.hidden_size)
    attended, inner = bench.random(count, shape.query_size), bench.random(count, shape.intermediate_size)
    first = layers[0]

    def one(name: str, work: Callable[[int], object], moved: float, flops: float = 0.0) -> Kernel:
        return Kernel("prefill", name, count, 0, work, bench.layers, moved, flops)

    def product(name: str, work: Callable[[int], object], weight: Tensor, *others: Tensor) -> Kernel:
        return one(name, work, bench.nbytes(weight, *others), 2.0 * count * weight.numel())

    def query_key_value(n: int) -> tuple[Tensor, bool]:
        return products.queries(x, layers[n].qkv, Place.of(state, n, shape))

    queries, rotated = query_key_value(0)

    def attend(n: int) -> None:
        to = Place.of(state, n, shape)
        attend_rows(queries, to.words, to.tables, to.cache, shape, rotated=rotated)

    yield one("RMSNorm", lambda n: rms_norm(x, layers[n].attention_norm, eps), 2 * bench.nbytes(x))
    cached = bench.random(count, 2 * shape.key_value_size)
    yield product("query-key-value, rotation, cache", query_key_value, first.qkv, x, attended, cached)
    flops = 4.0 * shape.query_size * count * (count + 1) / 2
    yield one("attention", attend, bench.nbytes(attended, attended, cached), flops)
    yield product("output, residual", lambda n: products.add_linear(residual, attended, layers[n].out), first.out, x, x)
    yield product("gate-up, SiLU", lambda n: products.gated_linear(x, layers[n].gate_up), first.gate_up, x, inner)
    yield product(
        "down, residual", lambda n: products.add_linear(residual, inner, layers[n].down), first.down, inner, x
    )
