"""Matrix times vector at the speed of memory: the linears of a decode step, with what stands around them fused in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda as tl_cuda

from cases.runtime.kernels.launch import Bound


@triton.jit
def _tile(base, cols, K: tl.constexpr, EVEN: tl.constexpr):
    """One [rows, block] tile of a weight matrix, read once and not kept in L2."""
    if EVEN:
        return tl.load(base + cols[None, :], eviction_policy="evict_first")
    return tl.load(base + cols[None, :], mask=cols[None, :] < K, other=0.0, eviction_policy="evict_first")


@triton.jit
def _sums(
    base, up_base, x, norm, tile, up_tile, gains,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Products of the rows with x, not yet added up over a block's columns, and x squared likewise.

    `tile`, `up_tile` and `gains` are those of the first columns, read ahead.
    """
    EVEN: tl.constexpr = K % BLOCK == 0
    cols = tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    up_total = tl.zeros((ROWS, BLOCK), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in tl.static_range(0, K, BLOCK):
        at = start + cols
        values = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
        if NORM:
            if start > 0:
                gains = tl.load(norm + at, mask=at < K, other=0.0)
            squares += values * values
            values *= gains.to(tl.float32)
        if start > 0:
            tile = _tile(base, at, K, EVEN)
            if GATED:
                up_tile = _tile(up_base, at, K, EVEN)
        total += tile.to(tl.float32) * values[None, :]
        if GATED:
            up_total += up_tile.to(tl.float32) * values[None, :]
    return total, up_total, squares


@triton.jit
def _finished(total, up_total, squares, eps, K: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr):
    """The rows' results: added up over the columns, scaled by RMSNorm, gated."""
    result = tl.sum(total, 1)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        result *= scale
    if GATED:
        up = tl.sum(up_total, 1)
        if NORM:
            up *= scale
        result = result * tl.sigmoid(result) * up
    return result


@triton.jit
def _gemv(
    weight, x, norm, residual, out, eps,
    N: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """out[N] = weight[N, K] @ x[K], optionally of RMSNorm(x), gated by SiLU, or added to a residual.

    Before `gdc_wait` only weights are read, which never change: the kernel before may still be running.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(rows, N - 1).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    base = weight + row[:, None] * K
    up_base = base + N * K
    EVEN: tl.constexpr = K % BLOCK == 0
    tile = _tile(base, cols, K, EVEN)
    up_tile = _tile(up_base, cols, K, EVEN) if GATED else tile
    gains = tl.load(norm + cols, mask=cols < K, other=0.0) if NORM else cols
    tl_cuda.gdc_launch_dependents()
    tl_cuda.gdc_wait()
    if ADD:
        added = tl.load(residual + row)
    sums = _sums(base, up_base, x, norm, tile, up_tile, gains, K, ROWS, BLOCK, NORM, GATED)
    result = _finished(sums[0], sums[1], sums[2], eps, K, NORM, GATED)
    if ADD:
        result += added.to(tl.float32)
    tl.store(out + rows, result.to(out.dtype.element_ty), mask=rows < N)


@dataclass(frozen=True)
class Tile:
    """Rows of the matrix and columns of one step that a program holds, and its warps."""

    rows: int
    block: int
    warps: int


WIDE = 8192


def tile_for(outputs: int, inputs: int, gated: bool) -> Tile:
    """The tile that was fastest for shapes like this one (measured on an H200 in fp16; see NOTES.md)."""
    if gated:
        return Tile(4, 1024, 4)
    if inputs > WIDE or outputs <= inputs:
        return Tile(4, 2048, 8)
    return Tile(2, 4096, 4)


def gemv(
    weight: Tensor,
    x: Tensor,
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    residual: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Launch one fused matrix-vector product; returns `out`. See kernels.vectors.Vectors for the arguments.

    `tile` overrides the choice of `tile_for`.
    """
    outputs, inputs = weight.shape
    outputs = outputs // 2 if gated else outputs
    launch = _bound(outputs, inputs, norm is not None, gated, residual is not None, tile)
    launch((weight, x, weight if norm is None else norm, x if residual is None else residual, out), eps)
    return out


@cache
def _bound(outputs: int, inputs: int, norm: bool, gated: bool, add: bool, tile: Tile | None) -> Bound:
    tile = tile or tile_for(outputs, inputs, gated)
    block = min(tile.block, triton.next_power_of_2(inputs))
    constants = {
        "N": outputs, "K": inputs, "ROWS": tile.rows, "BLOCK": block, "NORM": norm, "GATED": gated, "ADD": add,
    }  # fmt: skip
    return Bound(_gemv, (triton.cdiv(outputs, tile.rows),), constants, num_warps=tile.warps, launch_pdl=True)


def empty_like_rows(weight: Tensor, gated: bool = False) -> Tensor:
    """A fresh output [N] for `gemv`."""
    return torch.empty(weight.shape[0] // (2 if gated else 1), dtype=weight.dtype, device=weight.device)
