"""The products of a decode step: on tensor cores on Hopper, by Triton elsewhere; the name says which, and why."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cases.runtime.kernels.gemv import gemv
from cases.runtime.kernels.hopper.here import obstacle
from cases.runtime.kernels.hopper.slabs import fits, products_of
from cases.runtime.shape import LlamaShape


class Vectors(Protocol):
    """Matrix times vector, with what stands around it fused in."""

    name: str

    def compile(self, shape: LlamaShape) -> None:
        """Make ready before the first request."""

    def __call__(
        self, weight: Tensor, x: Tensor, out: Tensor, *, norm: Tensor | None = None, eps: float = 0.0,
        gated: bool = False, residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Launch one; returns `out`.

        Args:
            weight: [N, K], or [2N, K] with `gated`: gate rows, then up rows.
            x: [K].
            out: [N]; may be `residual` itself.
            norm: weight [K] of an RMSNorm of `x` with `eps`.
            gated: SiLU(gate @ x) * (up @ x).
            residual: [N], added.
        """


class TritonVectors:
    """See Vectors. Triton's kernel, and `why` not the one on tensor cores."""

    def __init__(self, why: str) -> None:
        self.name = f"Triton ({why})"

    def compile(self, shape: LlamaShape) -> None:
        """Nothing to do: each compiles when it is first launched."""

    def __call__(
        self, weight: Tensor, x: Tensor, out: Tensor, *, norm: Tensor | None = None, eps: float = 0.0,
        gated: bool = False, residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See Vectors."""
        return gemv(weight, x, out, norm=norm, eps=eps, gated=gated, residual=residual)


def vectors(shape: LlamaShape, dtype: torch.dtype) -> Vectors:
    """Those on tensor cores where they can run, else Triton's and the reason."""
    why = obstacle(dtype)
    if not why and not all(fits(product.inputs) for product in products_of(shape)):
        why = "a weight has a number of columns that is no multiple of 8, or too many"
    if why:
        return TritonVectors(why)
    from cases.runtime.kernels.hopper.matvec import HopperVectors

    return HopperVectors(dtype)
