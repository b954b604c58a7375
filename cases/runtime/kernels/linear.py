"""The matrix products of a prefill: cuBLAS or cuBLASLt, whichever was faster for a shape like this one.

Both ship with PyTorch and choose their own kernels; they choose differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

LT_IS_SLOWER = range(272, 384)
"""Rows at which cuBLAS beat cuBLASLt in the projections back to the residual (H200, fp16, see NOTES.md)."""


def library_for(outputs: int, inputs: int, rows: int) -> str:
    """`cublas` or `cublaslt` for [rows, inputs] times [outputs, inputs] transposed."""
    if outputs > 4 * inputs:
        return "cublas"
    if outputs <= inputs:
        return "cublas" if rows in LT_IS_SLOWER else "cublaslt"
    return "cublaslt" if rows < LT_IS_SLOWER.start else "cublas"


@contextmanager
def preferred(weight: Tensor, rows: int) -> Iterator[None]:
    """Have PyTorch call the library chosen for this product. The setting is the process's: one thread at a time."""
    torch.backends.cuda.preferred_blas_library(library_for(weight.shape[0], weight.shape[1], rows))
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library("default")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """[rows, inputs] times [outputs, inputs] transposed."""
    with preferred(weight, x.shape[0]):
        return F.linear(x, weight)


def add_linear(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The same, added to `residual` [rows, outputs] in place."""
    with preferred(weight, x.shape[0]):
        return residual.addmm_(x, weight.t())
