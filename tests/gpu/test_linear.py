"""The matrix products of a prefill: right numbers, and the process's choice of library put back."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.support import assert_near, randn

pytest.importorskip("triton")

from cases.runtime.kernels.linear import LibraryProducts, cublaslt

pytestmark = pytest.mark.gpu

LIBRARY = LibraryProducts("for the test")
ROWS = [2, 16, 112, 256, 272, 368, 384, 512]
SIZES = [(4096, 4096), (12288, 4096), (22016, 4096), (4096, 11008), (352, 128)]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_products_and_sums(outputs, inputs, rows):
    weight, x = randn(outputs, inputs, scale=inputs**-0.5), randn(rows, inputs)
    product = x.double() @ weight.double().t()
    assert_near(LIBRARY.linear(x, weight), product, factor=2)
    residual = randn(rows, outputs)
    expected = product + residual.double()
    found = LIBRARY.add_linear(residual, x, weight)
    assert found.data_ptr() == residual.data_ptr()
    assert_near(residual, expected, factor=2)


def test_the_choice_of_library_lasts_for_one_product():
    torch.backends.cuda.preferred_blas_library("default")
    before = torch.backends.cuda.preferred_blas_library()
    LIBRARY.linear(randn(16, 128), randn(352, 128))
    assert torch.backends.cuda.preferred_blas_library() == before
    with pytest.raises(ArithmeticError), cublaslt():
        raise ArithmeticError
    assert torch.backends.cuda.preferred_blas_library() == before
