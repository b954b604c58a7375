"""The matrix-vector kernel on tensor cores against float64, with everything that is fused into it.

RMSNorm(x) is rounded to the dtype once before the product; Transformers rounds it before and behind the gain, Triton's
kernel does not round it.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.gpu.support import assert_near, randn
from tests.gpu.vectors import FLAGS, HIDDEN, LAYERS, check_chain, check_same_bits, reference
from tests.gpu.vectors import check as check_any
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.kernels.hopper.here import obstacle
from cases.runtime.kernels.hopper.slabs import Slab
from cases.runtime.kernels.vectors import TritonVectors, vectors

pytestmark = pytest.mark.gpu

check = partial(check_any, rounded=True)


@pytest.fixture(scope="module")
def make():
    """`make(dtype, slab)`: the products."""
    if why := obstacle(torch.float16):
        pytest.skip(why)
    from cases.runtime.kernels.hopper.matvec import HopperVectors

    return HopperVectors


@pytest.fixture(scope="module")
def product(make):
    return make(torch.float16)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_every_linear_of_the_real_models(product, layer):
    check(product, *layer)


@pytest.mark.parametrize(("norm", "gated", "add"), FLAGS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1003, 352), (256, 4096), (513, 4104)])
def test_every_combination_of_what_is_fused(product, outputs, inputs, norm, gated, add):
    check(product, outputs, inputs, norm, gated, add)


@pytest.mark.parametrize(("norm", "gated", "add"), [(True, True, True), (False, False, False)])
@pytest.mark.parametrize(("outputs", "inputs"), [(1003, 352), (512, 4096)])
def test_bfloat16(make, outputs, inputs, norm, gated, add):
    check(make(torch.bfloat16), outputs, inputs, norm, gated, add, torch.bfloat16)


@pytest.mark.parametrize("inputs", [8, 64, 4088, 8192, 8200, 12288, 14336, 28672])
@pytest.mark.parametrize("outputs", [1, 2, 17])
def test_few_outputs_and_every_number_of_warps(product, outputs, inputs):
    check(product, outputs, inputs, True, True, True)
    check(product, outputs, inputs, False, False, False)


@pytest.mark.parametrize("slab", [Slab(2, 1, 1, 1), Slab(8, 2, 2, 2), Slab(16, 8, 4, 1), Slab(32, 4, 3, 2)])
@pytest.mark.parametrize("gated", [False, True])
def test_a_slab_changes_nothing_but_speed(make, slab, gated):
    check(make(torch.float16, slab), 1003, 1504, True, gated, True)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_eps_counts_where_the_input_is_small(product, eps):
    check(product, 512, 1024, True, False, False, eps=eps, scale=1e-2)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_what_is_normed_keeps_its_digits_however_small_or_large_it_was(product, scale):
    check(product, 512, 4096, True, False, False, eps=1e-12, scale=scale)


@pytest.mark.parametrize(("outputs", "inputs"), [(4096, 11008), (1003, 352)])
def test_the_residual_may_be_the_output(product, outputs, inputs):
    weight, x, residual = randn(outputs, inputs, scale=inputs**-0.5), randn(inputs), randn(outputs)
    expected = reference(weight, x, None, 0.0, False, residual)
    product(weight, x, residual, residual=residual)
    assert_near(residual, expected)


def test_the_same_input_gives_the_same_bits(product):
    check_same_bits(product)


def test_a_chain_of_launches_waits_for_its_input(product):
    check_chain(product)


def test_a_launch_is_of_its_own_tensors_and_stream(product):
    """Launches are prepared by their addresses: another shape at the same place, another stream, a graph."""
    weights, vector, results = randn(64 * 512), randn(512), randn(128)
    for outputs, inputs in ((64, 512), (128, 256)) * 2:
        weight, x, out = weights.view(outputs, inputs), vector[:inputs], results[:outputs]
        assert_near(product(weight, x, out), reference(weight, x, None, 0.0, False, None))
    weight, x, out = randn(256, HIDDEN, scale=HIDDEN**-0.5), randn(HIDDEN), randn(256)
    expected = reference(weight, x, None, 0.0, False, None)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        product(weight, x, out)
    side.synchronize()
    assert_near(out, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        product(weight, x, out)
    out.zero_()
    graph.replay()
    assert_near(out, expected)


def test_what_it_cannot_read_is_refused(product):
    for weight, x in ((randn(4, 12), randn(12)), (randn(4, 16), randn(17)[1:])):
        with pytest.raises(ValueError, match="can't be read 16 bytes at a time"):
            product(weight, x, randn(4))


def test_who_can_not_run_it_gets_triton_and_the_reason(make):
    assert vectors(tiny_shape(), torch.float16).name.startswith("mma kernels by NVRTC")
    other = vectors(tiny_shape(), torch.float32)
    assert isinstance(other, TritonVectors)
    assert other.name == "Triton (our kernels for Hopper have no float32)"
    odd = vectors(tiny_shape(intermediate_size=100), torch.float16)
    assert odd.name == "Triton (a weight has a number of columns that is no multiple of 8, or too many)"
