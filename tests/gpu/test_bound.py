"""Launches by handles against Triton's own: the same bits, on other streams, in graphs, for other dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.gpu.support import randn

pytest.importorskip("triton")

from cases.runtime.kernels import attention, causal, gemv, rowwise
from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.hopper.here import obstacle
from cases.runtime.llama import POSITION, State
from cases.runtime.shape import LlamaShape

pytestmark = pytest.mark.gpu

SHAPE = LlamaShape(
    vocab_size=64, hidden_size=512, intermediate_size=1024, num_hidden_layers=1, num_attention_heads=8,
    num_key_value_heads=4, head_dim=64, max_position_embeddings=256, rope_theta=10000.0, rms_norm_eps=1e-5,
    tie_word_embeddings=False,
)  # fmt: skip
FACTORIES = (gemv._bound, attention._bound, causal._bound, rowwise._norms, rowwise._writes, rowwise._gates)


class Work:
    """Every kernel that is bound, over a state of some tokens."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.state = State(SHAPE, 256, dtype, "cuda")
        self.state.words[POSITION] = 40
        self.state.keys.normal_()
        self.state.values.normal_()
        self.scratch = attention.Scratch.make(SHAPE, "cuda")
        self.x, self.wide = randn(3, 512, dtype=dtype), randn(3, 2048, dtype=dtype)
        self.weight, self.qkv = randn(512, 512, dtype=dtype), randn(3, 1024, dtype=dtype)

    def run(self) -> list[Tensor]:
        state = self.state
        cache, tables = (state.keys[0], state.values[0]), (state.cosines, state.sines)
        rowwise.write_cache(self.qkv, state.words, tables, cache, SHAPE)
        return [
            rowwise.rms_norm(self.x, self.weight[0], 1e-5),
            rowwise.silu_times(self.wide),
            gemv.gemv(self.weight, self.x[0], torch.empty_like(self.x[0]), norm=self.weight[0], eps=1e-5),
            causal.attend_rows(self.qkv, state.words, tables, cache, SHAPE),
            attention.attend_one(self.qkv[:1], state.words, tables, cache, self.scratch, SHAPE, fresh=True),
            state.keys.clone(),
            state.values.clone(),
        ]


def forget() -> None:
    for factory in FACTORIES:
        factory.cache_clear()


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_launch_by_the_handle_gives_the_bits_of_tritons_own(dtype):
    forget()
    work = Work(dtype)
    first = work.run()
    assert all(same(first, work.run()) for _ in range(3))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = work.run()
    side.synchronize()
    assert same(first, found)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work.run()
    graph.replay()
    assert same(first, found)


def test_another_dtype_behind_it_gets_a_kernel_of_its_own():
    forget()
    half, wide = Work(torch.float16), Work(torch.bfloat16)
    first, second = half.run(), wide.run()
    assert same(first, half.run())
    assert same(second, wide.run())


def test_an_unaligned_input_is_read_where_it_is():
    forget()
    weight, x = randn(96, 512), randn(513)
    gemv.gemv(weight, x[:512], torch.empty(96, dtype=x.dtype, device="cuda"))
    expected = gemv.gemv(weight, x[1:].clone(), torch.empty(96, dtype=x.dtype, device="cuda"))
    found = gemv.gemv(weight, x[1:], torch.empty(96, dtype=x.dtype, device="cuda"))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)


def test_a_prepared_product_is_of_its_own_rows_and_dtype():
    """One launcher, one tile, the same addresses: what differs is the dtype and the number of rows alone."""
    if why := obstacle(torch.float16):
        pytest.skip(why)
    from cases.runtime.kernels.hopper.launch import Launcher
    from cases.runtime.kernels.hopper.tiles import choose

    memory, results = (torch.empty(64 * 512, dtype=torch.float16, device="cuda") for _ in range(2))
    weights, launch = randn(512, 512), Launcher()
    tile = choose("plain", 64, 512, 512, torch.cuda.get_device_properties().multi_processor_count)
    for dtype in (torch.float16, torch.bfloat16) * 2:
        weight = weights.view(dtype)
        weight.copy_(randn(512, 512, dtype=dtype, scale=0.05))
        for rows in (16, 64, 16):
            x, out = (buffer.view(dtype)[: rows * 512].view(rows, 512) for buffer in (memory, results))
            x.copy_(randn(rows, 512, dtype=dtype))
            results.fill_(float("nan"))
            launch(tile, x, weight, out)
            torch.testing.assert_close(out, x @ weight.T, rtol=2e-2, atol=2e-2)


def test_a_place_is_told_by_its_capacity_and_heads_too():
    from dataclasses import replace

    words, tables = torch.zeros(4), (torch.zeros(8), torch.zeros(8))
    memory = torch.zeros(2, 8 * 512)
    places = {
        Place(words, tables, (memory[0].view(shape.num_key_value_heads, -1, 8), memory[1]), shape).layout
        for shape in (SHAPE, replace(SHAPE, num_key_value_heads=8), replace(SHAPE, num_attention_heads=16))
    }
    assert len(places) == 3
