"""The products of a decode step by our own kernel, matvec.cu: what a block takes, and the launch."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cases.runtime.kernels.hopper.launch import Launches, Prepared, configuration, loaded
from cases.runtime.kernels.hopper.nvrtc import version
from cases.runtime.kernels.hopper.slabs import Product, Slab, fits, products_of, slab_for
from cases.runtime.kernels.hopper.source import kept
from cases.runtime.shape import LlamaShape

FILES = ("numbers.cuh", "matvec.cu")
NAME = "matvec.cubin"
ALIGNMENT = 16
"""Bytes that a lane reads at a time."""


def source(product: Product, slab: Slab, bf16: bool) -> str:
    """The whole translation unit of one kernel."""
    values = {
        "N": product.outputs, "K": product.inputs, "NORM": int(product.norm), "GATED": int(product.gated),
        "ADD": int(product.add), "ROWS": slab.rows, "WARPS": slab.warps, "STAGES": slab.stages, "BLOCKS": slab.blocks,
        "BF16": int(bf16),
    }  # fmt: skip
    lines = [f"#define {name} {value}" for name, value in values.items()]
    lines += [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in FILES]
    return "\n".join(lines)


@cache
def function(product: Product, slab: Slab, bf16: bool, device: int) -> Any:
    """The kernel of a product, compiled if it never was, loaded on a device once and for all."""
    return loaded(kept(source(product, slab, bf16), NAME), b"matvec", device)


class Arguments(ctypes.Structure):
    """The kernel's arguments, one behind the other."""

    _fields_ = (
        ("weight", ctypes.c_void_p), ("x", ctypes.c_void_p), ("norm", ctypes.c_void_p), ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p), ("eps", ctypes.c_float),
    )  # fmt: skip


class HopperVectors:
    """See kernels.vectors.Vectors. For float16 and bfloat16 on compute capability 9.0."""

    def __init__(self, dtype: torch.dtype, slab: Slab | None = None) -> None:
        """`slab` overrides the choice of `slab_for`."""
        self.name = f"mma kernels by {version()}"
        self._bf16, self._slab = dtype is torch.bfloat16, slab
        self._launches = Launches()

    def compile(self, shape: LlamaShape) -> None:
        """Compile and load the kernel of every product of a decode step; many at a time, kept on disk."""
        wanted = list(dict.fromkeys(products_of(shape)))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda one: kept(source(one, self._chosen(one), self._bf16), NAME), wanted))
        for one in wanted:
            function(one, self._chosen(one), self._bf16, torch.cuda.current_device())

    def __call__(
        self, weight: Tensor, x: Tensor, out: Tensor, *, norm: Tensor | None = None, eps: float = 0.0,
        gated: bool = False, residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See kernels.vectors.Vectors.

        Raises:
            ValueError: what the kernel can't read: no 8 columns at a time, no 16 bytes at an address.
        """
        stream = self._launches.stream(x.get_device())
        key = (
            stream, weight.data_ptr(), weight.shape, x.data_ptr(), out.data_ptr(),
            norm is not None and norm.data_ptr(), residual is not None and residual.data_ptr(), eps, gated,
        )  # fmt: skip
        found = self._launches.get(key)
        if found is None:
            found = self._launches.add(key, self._prepare(stream, weight, x, out, norm, eps, gated, residual))
        found()
        return out

    def _prepare(
        self, stream: int, weight: Tensor, x: Tensor, out: Tensor, norm: Tensor | None, eps: float, gated: bool,
        residual: Tensor | None,
    ) -> Prepared:  # fmt: skip
        rows, inputs = weight.shape
        product = Product(rows // 2 if gated else rows, inputs, norm is not None, gated, residual is not None)
        read = [tensor.data_ptr() for tensor in (weight, x, weight if norm is None else norm)]
        if any(address % ALIGNMENT for address in read) or not fits(inputs):
            raise ValueError(f"rows of {inputs} values at {', '.join(map(hex, read))} can't be read 16 bytes at a time")
        slab = self._chosen(product)
        arguments = Arguments(*read, (x if residual is None else residual).data_ptr(), out.data_ptr(), eps)
        grid = (slab.blocks_for(product), 1)
        found = configuration(slab.threads, grid, stream)
        base = ctypes.addressof(arguments)
        places = [base + getattr(Arguments, name).offset for name, _ in Arguments._fields_]
        return Prepared(found, function(product, slab, self._bf16, x.device.index), places, arguments)

    def _chosen(self, product: Product) -> Slab:
        return self._slab or slab_for(product)
