"""Queries, keys, values rotated and cached by the kernel that computes them: bit for bit what separate kernels do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cases.runtime.llama import Llama, State, rotary_tables
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import empty_weights
from tests.gpu.support import assert_near, poison_allocator, randn
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings")

from cases.runtime.kernels.blocks import TritonBlocks
from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.causal import attend_rows
from cases.runtime.kernels.hopper import products as hopper
from cases.runtime.kernels.hopper.products import HopperProducts
from cases.runtime.kernels.hopper.source import compiled
from cases.runtime.kernels.hopper.tiles import tiles
from cases.runtime.plain import rotate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
    ),
]

CAPACITY = 1100
COUNTS = [*range(2, 513, 7), 16, 112, 128, 129, 208, 256, 257, 400, 512, 513, 1000]
HEADS = [
    (32, 32, 128, 4096),
    (32, 8, 128, 4096),
    (28, 4, 128, 3584),
    (8, 2, 128, 1024),
    (32, 8, 64, 2048),
    (9, 3, 64, 576),
]
NAN = float("nan")


def shape_of(heads: int, kv_heads: int, width: int, hidden: int) -> LlamaShape:
    return tiny_shape(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=width, hidden_size=hidden)


class Bench:
    """A weight, and one layer of a cache full of NaN for each way to fill it."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        size = shape.query_size + 2 * shape.key_value_size
        self.weight = randn(size, shape.hidden_size, dtype=dtype, scale=shape.hidden_size**-0.5)
        self.words = torch.zeros(2, dtype=torch.int64, device="cuda")
        self.tables = rotary_tables(shape, CAPACITY, "cuda")
        self.products = HopperProducts(dtype)
        processors = torch.cuda.get_device_properties().multi_processor_count
        sizes = (512, size, shape.hidden_size, processors)
        with ThreadPoolExecutor() as pool:
            wanted = [*tiles("plain", *sizes), *tiles("rotated", *sizes, shape.head_dim)]
            list(pool.map(lambda tile: compiled(tile, dtype is torch.bfloat16), wanted))

    def place(self, kv_heads: int | None = None) -> Place:
        size = (kv_heads or self.shape.num_key_value_heads, CAPACITY, self.shape.head_dim)
        cache = tuple(torch.full(size, NAN, dtype=self.dtype, device="cuda") for _ in range(2))
        return Place(self.words, self.tables, (cache[0], cache[1]), self.shape)

    def input(self, count: int, position: int) -> Tensor:
        self.words.copy_(torch.tensor([position, count - 1]))
        poison_allocator(count * self.shape.query_size * 2)
        return randn(count, self.shape.hidden_size, dtype=self.dtype)

    def rotated(self, queries: Tensor) -> Tensor:
        """Queries rotated by the kernel that rotates keys: [rows, query size]."""
        heads, rows = self.shape.num_attention_heads, queries.shape[0]
        to = replace(self.place(heads), shape=replace(self.shape, num_key_value_heads=heads))
        to.write(queries.repeat(1, 3))
        begin = int(self.words[0])
        return to.cache[0][:, begin : begin + rows].transpose(0, 1).reshape(rows, -1)


def same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> bool:
    """Bit for bit, NaN for NaN."""
    return all(torch.equal(a.view(torch.int16), b.view(torch.int16)) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width", "hidden"), HEADS)
def test_queries_and_cache_are_those_of_separate_kernels(heads, kv_heads, width, hidden, dtype):
    """What was not to be written is still NaN in both."""
    shape = shape_of(heads, kv_heads, width, hidden)
    bench = Bench(shape, dtype)
    for count in COUNTS:
        for position in (0, 1, 100) if count < 1000 else (0, 100):
            x = bench.input(count, position)
            wanted, found, raw = bench.place(), bench.place(), bench.place()
            qkv = wanted.write(bench.products.linear(x, bench.weight))[:, : shape.query_size].contiguous()
            queries, rotated = bench.products.queries(x, bench.weight, found)
            plain, unrotated = bench.products.queries(x, bench.weight, raw, raw=True)
            assert (rotated, unrotated) == (True, False)
            assert same(found.cache, wanted.cache), (count, position)
            assert same(raw.cache, wanted.cache), (count, position)
            assert same((plain,), (qkv,)), (count, position)
            assert same((queries,), (bench.rotated(qkv),)), (count, position)


@pytest.mark.parametrize(("heads", "kv_heads", "width", "hidden"), HEADS)
def test_numbers_are_right(heads, kv_heads, width, hidden):
    """Against float64, and not only against each other."""
    shape = shape_of(heads, kv_heads, width, hidden)
    bench = Bench(shape, torch.float16)
    for count, position in ((5, 3), (130, 17), (400, 0)):
        x, to = bench.input(count, position), bench.place()
        queries, _ = bench.products.queries(x, bench.weight, to)
        wide = (x.double() @ bench.weight.double().t()).float().view(count, -1, width)
        angles = [table[position : position + count] for table in bench.tables]
        both = rotate(wide[:, : heads + kv_heads], *angles)
        assert_near(queries.view(count, heads, width), both[:, :heads], factor=3)
        keys, values = (part[:, position : position + count].transpose(0, 1) for part in to.cache)
        assert_near(keys, both[:, heads:], factor=3)
        assert_near(values, wide[:, heads + kv_heads :], factor=2)


@pytest.mark.parametrize(("heads", "kv_heads", "width", "hidden"), HEADS[:2] + HEADS[4:5])
def test_attention_is_the_same_whoever_rotates_the_queries(heads, kv_heads, width, hidden):
    shape = shape_of(heads, kv_heads, width, hidden)
    bench = Bench(shape, torch.float16)
    for count in (2, 16, 65, 200, 400):
        for position in (0, 77):
            x, to = bench.input(count, position), bench.place()
            for part in to.cache:
                part[:, :position] = randn(kv_heads, position, width)
            queries, _ = bench.products.queries(x, bench.weight, to)
            qkv = bench.products.linear(x, bench.weight)
            wanted = attend_rows(qkv, to.words, to.tables, to.cache, shape)
            found = attend_rows(queries, to.words, to.tables, to.cache, shape, rotated=True)
            assert same((found,), (wanted,)), (count, position)


@pytest.mark.parametrize(("kv_heads", "width"), [(8, 128), (2, 128), (4, 64)])
def test_a_forward_is_the_same_whoever_rotates(monkeypatch, kv_heads, width):
    """Logits and cache, over several layers, behind position 0 too."""
    shape = tiny_shape(
        vocab_size=512, hidden_size=1024, intermediate_size=2816, num_hidden_layers=3,
        num_attention_heads=1024 // width, num_key_value_heads=kv_heads, head_dim=width, max_position_embeddings=1024,
    )  # fmt: skip
    weights = empty_weights(shape, torch.float16, "cuda")
    for layer in weights.layers:
        for part in (layer.qkv, layer.out, layer.gate_up, layer.down):
            part.normal_(std=0.05)
        layer.attention_norm.fill_(1), layer.mlp_norm.fill_(1)
    weights.embedding.normal_(), weights.head.normal_(std=0.05), weights.norm.fill_(1)
    state = State(shape, 640, torch.float16, "cuda")
    model = Llama(shape, weights, state, TritonBlocks(shape, torch.float16))
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    for fused, parts in seen.items():
        monkeypatch.setattr(hopper, "fits_rotated", lambda shape, fused=fused: fused)
        torch.manual_seed(1)
        for count in (2, 16, 100, 130, 208, 400):
            for position in (0, 60):
                state.keys.zero_(), state.values.zero_(), state.logits.fill_(NAN)
                state.words[2:].random_(0, 512)
                state.words[:2] = torch.tensor([position, count - 2], device="cuda")
                model.forward(count)
                parts += [state.logits.clone(), state.keys.clone(), state.values.clone()]
    assert all(part.isfinite().all() for part in seen[True])
    assert same(tuple(seen[True]), tuple(seen[False]))


def test_a_chain_in_a_graph_repeats_bit_by_bit():
    """Programmatic launch: no kernel may read the cache or the queries too early."""
    shape = shape_of(8, 2, 128, 1024)
    bench = Bench(shape, torch.float16)
    for count in (16, 112, 208, 400):
        x, to, again = bench.input(count, 5), bench.place(), bench.place()
        for place in (to, again):
            for part in place.cache:
                part[:, :5] = 0.5

        def work(place: Place, x: Tensor = x) -> Tensor:
            for _ in range(8):
                queries, _ = bench.products.queries(x, bench.weight, place)
                x = attend_rows(queries, place.words, place.tables, place.cache, shape, rotated=True)
            return x

        expected = work(to)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = work(again)
        for _ in range(500):
            graph.replay()
        assert same((found, *again.cache), (expected, *to.cache)), count
