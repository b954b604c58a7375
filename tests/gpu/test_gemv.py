"""The matrix-vector kernel against float64, with everything that is fused into it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.gpu.support import assert_near, poisoned, randn

pytest.importorskip("triton")

from cases.runtime.kernels.gemv import Tile, empty_like_rows, gemv

pytestmark = pytest.mark.gpu

EPS = 1e-5
FLAGS = list(itertools.product((False, True), repeat=3))
HIDDEN = 4096
LAYERS = {
    # name: outputs, inputs, norm, gated, residual: as the model calls it
    "Llama-2-7B qkv": (12288, HIDDEN, True, False, False),
    "Llama-2-7B out": (4096, HIDDEN, False, False, True),
    "Llama-2-7B gate-up": (11008, HIDDEN, True, True, False),
    "Llama-2-7B down": (4096, 11008, False, False, True),
    "Llama-2-7B head": (32000, HIDDEN, True, False, False),
    "Llama-3-8B qkv": (6144, HIDDEN, True, False, False),
    "Llama-3-8B gate-up": (14336, HIDDEN, True, True, False),
    "Llama-3-8B down": (4096, 14336, False, False, True),
    "Llama-3-8B head": (128256, HIDDEN, True, False, False),
    "Mistral-7B head": (32768, HIDDEN, True, False, False),
}


def reference(
    weight: Tensor, x: Tensor, norm: Tensor | None, eps: float, gated: bool, residual: Tensor | None
) -> Tensor:
    """The same product in float64."""
    wide = x.double()
    if norm is not None:
        wide = wide * torch.rsqrt(wide.pow(2).mean() + eps) * norm.double()
    # By pieces, because the widest head would take gigabytes at once.
    product = torch.cat([piece.double() @ wide for piece in weight.split(8192)])
    if gated:
        gate, up = product.chunk(2)
        product = gate * torch.sigmoid(gate) * up
    return product if residual is None else product + residual.double()


def check(
    outputs: int, inputs: int, norm: bool, gated: bool, add: bool, dtype: torch.dtype = torch.float16,
    eps: float = EPS, tile: Tile | None = None, scale: float = 1.0,
) -> None:  # fmt: skip
    weight = randn(outputs * (2 if gated else 1), inputs, dtype=dtype, scale=inputs**-0.5)
    x = randn(inputs, dtype=dtype, scale=scale)
    gains = randn(inputs, dtype=dtype) + 1 if norm else None
    residual = randn(outputs, dtype=dtype) if add else None
    out, guard = poisoned(outputs, dtype)
    found = gemv(weight, x, out, norm=gains, eps=eps, gated=gated, residual=residual, tile=tile)
    assert found.data_ptr() == out.data_ptr()
    assert_near(out, reference(weight, x, gains, eps, gated, residual))
    assert guard.isnan().all(), "written behind the output"


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_every_linear_of_the_real_models(layer):
    check(*layer)


@pytest.mark.parametrize(("norm", "gated", "add"), FLAGS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1003, 352), (256, 4096), (513, 4097)])
def test_every_combination_of_what_is_fused(outputs, inputs, norm, gated, add):
    check(outputs, inputs, norm, gated, add)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("norm", "gated", "add"), [(True, True, True), (False, False, False)])
def test_other_dtypes(dtype, norm, gated, add):
    check(1003, 352, norm, gated, add, dtype)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 64), (2, 128), (3, 8193), (7, 32)])
def test_few_outputs(outputs, inputs):
    check(outputs, inputs, True, True, True)


@pytest.mark.parametrize("tile", [Tile(2, 512, 2), Tile(4, 1024, 4), Tile(8, 256, 8)])
def test_a_tile_changes_nothing_but_speed(tile):
    check(1003, 1500, True, True, True, tile=tile)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_eps_counts_where_the_input_is_small(eps):
    check(512, 1024, True, False, False, eps=eps, scale=1e-2)


@pytest.mark.parametrize(("outputs", "inputs"), [(4096, 11008), (1003, 352)])
def test_the_residual_may_be_the_output(outputs, inputs):
    weight, x, residual = randn(outputs, inputs, scale=inputs**-0.5), randn(inputs), randn(outputs)
    expected = reference(weight, x, None, 0.0, False, residual)
    gemv(weight, x, residual, residual=residual)
    assert_near(residual, expected)


def test_the_same_input_gives_the_same_bits():
    weight, x = randn(11008 * 2, HIDDEN, scale=HIDDEN**-0.5), randn(HIDDEN)
    first = gemv(weight, x, empty_like_rows(weight, gated=True), gated=True)
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(200):
        out, _ = poisoned(11008)
        differing += (gemv(weight, x, out, gated=True) != first).sum()
    assert differing.item() == 0


def test_a_chain_of_launches_waits_for_its_input():
    """Each kernel may begin before the one before it has ended, but must not read what that one writes."""
    first, second = (randn(HIDDEN, HIDDEN, scale=HIDDEN**-0.5) for _ in range(2))
    x = randn(HIDDEN)
    expected = x.double()
    for weight in (first, second) * 4:
        expected = reference(weight, expected.half(), None, 0.0, False, None)
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    bits: Tensor | None = None
    for _ in range(200):
        buffers = [poisoned(HIDDEN)[0] for _ in range(8)]
        value = x
        for weight, out in zip((first, second) * 4, buffers, strict=True):
            value = gemv(weight, value, out)
        bits = value.clone() if bits is None else bits
        wrong += (value != bits).sum()
    assert wrong.item() == 0
    assert bits is not None
    assert_near(bits, expected, factor=4)


def test_an_output_has_the_rows_of_the_product():
    weight = randn(20, 8)
    assert empty_like_rows(weight).shape == (20,)
    assert empty_like_rows(weight, gated=True).shape == (10,)
    assert empty_like_rows(weight).dtype == weight.dtype
