"""The kernels over the rows of a prefill, and the one that only reads."""

from __future__ import annotations

import pytest
import torch

from cases.runtime.llama import State
from cases.runtime.plain import rotate
from tests.gpu.support import assert_near, poison_allocator, randn
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.kernels.read import read_all
from cases.runtime.kernels.rowwise import rms_norm, silu_times, write_cache

pytestmark = pytest.mark.gpu

HEADS = [(4, 2, 32), (32, 32, 128), (32, 8, 128), (12, 3, 64), (6, 6, 128), (5, 1, 16)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 4096), (3, 128), (64, 4096), (17, 1003), (2, 5120)])
def test_rms_norm(rows, width, dtype):
    x, weight = randn(rows, width, dtype=dtype, scale=3.0), randn(width, dtype=dtype) + 1
    poison_allocator(x.nbytes)
    wide = x.double()
    expected = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * weight.double()
    assert_near(rms_norm(x, weight, 1e-5), expected)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_eps_counts_where_the_input_is_small(eps):
    x, weight = randn(5, 512, scale=1e-2), randn(512) + 1
    wide = x.double()
    expected = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.double()
    assert_near(rms_norm(x, weight, eps), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "inner"), [(1, 11008), (2, 352), (17, 14336), (64, 2048), (3, 2049)])
def test_silu_times(rows, inner, dtype):
    gate_up = randn(rows, 2 * inner, dtype=dtype, scale=2.0)
    poison_allocator(gate_up.nbytes // 2)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_near(silu_times(gate_up), gate * torch.sigmoid(gate) * up)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), HEADS)
@pytest.mark.parametrize(("position", "rows"), [(0, 1), (0, 40), (7, 3), (50, 14), (63, 1)])
def test_write_cache_writes_its_rows_of_the_cache_and_no_others(heads, kv_heads, width, position, rows, dtype):
    shape = tiny_shape(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=width)
    state = State(shape, 64, dtype, "cuda")
    keys, values = state.keys[1].fill_(float("nan")), state.values[1].fill_(float("nan"))
    state.words[0] = position
    qkv = randn(rows, (heads + 2 * kv_heads) * width, dtype=dtype)
    write_cache(qkv, state.words, (state.cosines, state.sines), (keys, values), shape)
    _, key, value = (
        part.view(rows, -1, width) for part in qkv.split((heads * width, kv_heads * width, kv_heads * width), dim=-1)
    )
    end = position + rows
    cosines, sines = state.cosines[position:end], state.sines[position:end]
    assert_near(keys[:, position:end], rotate(key.float(), cosines, sines).transpose(0, 1))
    assert torch.equal(values[:, position:end], value.transpose(0, 1))
    for cache in (keys, values):
        assert cache[:, :position].isnan().all()
        assert cache[:, end:].isnan().all()
    assert not state.keys[0].any()
    assert not state.values[0].any()


@pytest.mark.parametrize(("block", "steps", "warps"), [(16384, 2, 16), (4096, 4, 4)])
def test_the_reading_kernel_reads_everything(block, steps, warps):
    """Small whole numbers, so that the sums are exact."""
    data = torch.randint(-3, 4, (block * steps * 7,), device="cuda").half()
    sums = torch.full((8,), float("nan"), device="cuda")
    read_all(data, sums, block, steps, warps)
    assert torch.equal(sums[:7], data.view(7, -1).float().sum(1))
    assert sums[7:].isnan().all()
