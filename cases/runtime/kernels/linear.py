"""The matrix products of a prefill: by our kernels on Hopper, by cuBLASLt elsewhere; the name says which, and why.

PyTorch may call cuBLAS or cuBLASLt, which choose their kernels differently; for the prefill of a 7B model cuBLASLt was
faster at nearly every length and slower at none worth a table (NOTES.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.hopper.here import obstacle
from cases.runtime.kernels.hopper.slabs import layer_products
from cases.runtime.kernels.hopper.tiles import fits
from cases.runtime.kernels.rowwise import silu_times
from cases.runtime.shape import LlamaShape


class Products(Protocol):
    """The products of a layer over several rows."""

    name: str

    def compile(self, shape: LlamaShape) -> None:
        """Make ready before the first request."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[rows, inputs] times [outputs, inputs] transposed."""

    def queries(self, x: Tensor, weight: Tensor, to: Place, *, raw: bool = False) -> tuple[Tensor, bool]:
        """Queries, keys and values of x, the keys rotated; keys and values go to their place.

        The queries come back as [rows, query size] or in the first columns of more, and whether they are rotated;
        where `raw`, they are not.
        """

    def add_linear(self, residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The same as `linear`, added to `residual` [rows, outputs] in place."""

    def gated_linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """SiLU(gate) * up of x times [gate rows, then up rows] transposed: [rows, intermediate]."""


@contextmanager
def cublaslt() -> Iterator[None]:
    """Have PyTorch call cuBLASLt. The setting is the process's: one thread at a time."""
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library("default")


class LibraryProducts:
    """See Products. NVIDIA's library, and `why` not our own kernels."""

    def __init__(self, why: str) -> None:
        self.name = f"cuBLASLt ({why})"

    def compile(self, shape: LlamaShape) -> None:
        """Nothing to do."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """See Products."""
        with cublaslt():
            return F.linear(x, weight)

    def queries(self, x: Tensor, weight: Tensor, to: Place, *, raw: bool = False) -> tuple[Tensor, bool]:
        """See Products."""
        return to.write(self.linear(x, weight)), False

    def add_linear(self, residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See Products."""
        with cublaslt():
            return residual.addmm_(x, weight.t())

    def gated_linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """See Products."""
        return silu_times(self.linear(x, weight))


def products(shape: LlamaShape, dtype: torch.dtype) -> Products:
    """Our kernels where they can run, else the library and the reason."""
    if why := _obstacle(shape, dtype):
        return LibraryProducts(why)
    from cases.runtime.kernels.hopper.products import HopperProducts

    return HopperProducts(dtype)


def _obstacle(shape: LlamaShape, dtype: torch.dtype) -> str:
    """Why our kernels can't serve this model on this GPU; empty when they can."""
    if why := obstacle(dtype):
        return why
    if all(fits(product.rows, product.inputs) for product in layer_products(shape)):
        return ""
    return "a weight is too small or its sides are no multiples of 16"
