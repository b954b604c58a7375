"""The products by our own kernels: right numbers for every kind, tile, edge and dtype, the same at every launch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.gpu.support import assert_near, randn
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings")

from cases.runtime.kernels.hopper.products import HopperProducts
from cases.runtime.kernels.linear import LibraryProducts, products

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
    ),
]

COUNTS = [2, 5, 16, 17, 64, 65, 100, 128, 129, 144, 145, 200, 256, 257, 272, 333, 400, 512, 513, 1000]
SIZES = [(12288, 4096), (4096, 11008), (832, 520), (6144, 4096), (28672, 512)]
DTYPES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("rows", "inputs"), SIZES)
def test_products(rows, inputs, count, dtype):
    ours = HopperProducts(dtype)
    weight, x = randn(rows, inputs, dtype=dtype, scale=inputs**-0.5), randn(count, inputs, dtype=dtype)
    product = x.double() @ weight.double().t()
    assert_near(ours.linear(x, weight), product, factor=2)
    gate, up = product.chunk(2, dim=-1)
    assert_near(ours.gated_linear(x, weight), F.silu(gate) * up, factor=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("rows", "inputs"), SIZES)
def test_sums_change_their_rows_and_no_others(rows, inputs, count, dtype):
    weight, x = randn(rows, inputs, dtype=dtype, scale=inputs**-0.5), randn(count, inputs, dtype=dtype)
    whole = randn(count + 9, rows, dtype=dtype)
    before = whole.clone()
    found = HopperProducts(dtype).add_linear(whole[:count], x, weight)
    assert found.data_ptr() == whole.data_ptr()
    assert_near(whole[:count], x.double() @ weight.double().t() + before[:count].double(), factor=2)
    assert torch.equal(whole[count:], before[count:])


@pytest.mark.parametrize("count", [16, 112, 208, 400])
def test_a_chain_in_a_graph_repeats_bit_by_bit(count):
    """Programmatic launch lets each kernel start before the one ahead has finished; nothing may be read too early."""
    ours = HopperProducts(torch.float16)
    first, second, third = randn(1024, 512, scale=0.02), randn(512, 512, scale=0.02), randn(2048, 512, scale=0.02)
    x, residual = randn(count, 512), torch.empty(count, 512, dtype=torch.float16, device="cuda")
    last = randn(512, 1024, scale=0.02)

    def work() -> torch.Tensor:
        residual.copy_(x)
        for _ in range(8):
            ours.add_linear(residual, ours.linear(residual, second), second)
            ours.add_linear(residual, ours.gated_linear(residual, third), last)
        return ours.linear(residual, first)

    expected = work().clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    for _ in range(1000):
        graph.replay()
    assert torch.equal(found, expected)


def test_the_name_says_who_answers():
    wide = tiny_shape(
        hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=8, head_dim=64
    )
    assert products(wide, torch.float16).name.startswith("wgmma kernels by NVRTC")
    assert products(wide, torch.float32).name == "cuBLASLt (our kernels for Hopper have no float32)"
    small = products(tiny_shape(), torch.float16)
    assert isinstance(small, LibraryProducts)
    assert "too small" in small.name
