"""A kernel that only reads: the ceiling that every memory-bound figure is held against."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _read(x, out, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * (BLOCK * STEPS)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in tl.static_range(STEPS):
        total += tl.load(x + start + step * BLOCK + tl.arange(0, BLOCK), eviction_policy="evict_first").to(tl.float32)
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


def read_all(x: Tensor, sums: Tensor, block: int, steps: int, warps: int) -> None:
    """Read `x`, whose size is a multiple of `block * steps`, and store one sum a program in `sums`."""
    _read[(x.numel() // (block * steps),)](x, sums, BLOCK=block, STEPS=steps, num_warps=warps)
