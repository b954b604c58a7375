"""Triton's matrix-vector kernel against float64, with everything that is fused into it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.gpu.support import assert_near, randn
from tests.gpu.vectors import FLAGS, LAYERS, check, check_chain, check_same_bits, reference

pytest.importorskip("triton")

from cases.runtime.kernels.gemv import Tile, empty_like_rows, gemv

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_every_linear_of_the_real_models(layer):
    check(gemv, *layer)


@pytest.mark.parametrize(("norm", "gated", "add"), FLAGS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1003, 352), (256, 4096), (513, 4097)])
def test_every_combination_of_what_is_fused(outputs, inputs, norm, gated, add):
    check(gemv, outputs, inputs, norm, gated, add)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("norm", "gated", "add"), [(True, True, True), (False, False, False)])
def test_other_dtypes(dtype, norm, gated, add):
    check(gemv, 1003, 352, norm, gated, add, dtype)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 64), (2, 128), (3, 8193), (7, 32)])
def test_few_outputs(outputs, inputs):
    check(gemv, outputs, inputs, True, True, True)


@pytest.mark.parametrize("tile", [Tile(2, 512, 2), Tile(4, 1024, 4), Tile(8, 256, 8)])
def test_a_tile_changes_nothing_but_speed(tile):
    check(partial(gemv, tile=tile), 1003, 1500, True, True, True)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_eps_counts_where_the_input_is_small(eps):
    check(gemv, 512, 1024, True, False, False, eps=eps, scale=1e-2)


@pytest.mark.parametrize(("outputs", "inputs"), [(4096, 11008), (1003, 352)])
def test_the_residual_may_be_the_output(outputs, inputs):
    weight, x, residual = randn(outputs, inputs, scale=inputs**-0.5), randn(inputs), randn(outputs)
    expected = reference(weight, x, None, 0.0, False, residual)
    gemv(weight, x, residual, residual=residual)
    assert_near(residual, expected)


def test_the_same_input_gives_the_same_bits():
    check_same_bits(gemv)


def test_a_chain_of_launches_waits_for_its_input():
    check_chain(gemv)


def test_an_output_has_the_rows_of_the_product():
    weight = randn(20, 8)
    assert empty_like_rows(weight).shape == (20,)
    assert empty_like_rows(weight, gated=True).shape == (10,)
    assert empty_like_rows(weight).dtype == weight.dtype
