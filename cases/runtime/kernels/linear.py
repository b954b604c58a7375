"""The matrix products of a prefill, by cuBLASLt.

PyTorch may call cuBLAS or cuBLASLt, which choose their kernels differently; for the prefill of a 7B model cuBLASLt was
faster at nearly every length and slower at none worth a table (NOTES.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor


@contextmanager
def cublaslt() -> Iterator[None]:
    """Have PyTorch call cuBLASLt. The setting is the process's: one thread at a time."""
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library("default")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """[rows, inputs] times [outputs, inputs] transposed."""
    with cublaslt():
        return F.linear(x, weight)


def add_linear(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The same, added to `residual` [rows, outputs] in place."""
    with cublaslt():
        return residual.addmm_(x, weight.t())
