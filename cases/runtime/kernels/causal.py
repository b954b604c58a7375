"""Prefill attention: every row over the rows before it, queries rotated on the way in, if not before.

The running softmax is that of FlashAttention-2 (Dao 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda as tl_cuda

from cases.runtime.kernels.launch import MOST_BOUND, Bound
from cases.runtime.kernels.rowwise import turned
from cases.runtime.shape import LlamaShape

LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def _step(
    query_1, query_2, keys, values, start, end, row, scale, peak, mass, total,
    WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One block of keys into the running softmax, in base 2."""
    HALF: tl.constexpr = WIDTH // 2
    line = start + tl.arange(0, BLOCK_K)
    half = tl.arange(0, HALF)
    width = tl.arange(0, WIDTH)
    there = line[:, None] < end
    key_1 = tl.load(keys + line[:, None] * WIDTH + half[None, :], mask=there, other=0.0)
    key_2 = tl.load(keys + line[:, None] * WIDTH + HALF + half[None, :], mask=there, other=0.0)
    score = tl.dot(query_1, tl.trans(key_1), input_precision="ieee")
    score = tl.dot(query_2, tl.trans(key_2), score, input_precision="ieee") * scale
    score = tl.where(row[:, None] >= line[None, :], score, LOWEST)
    highest = tl.maximum(peak, tl.max(score, 1))
    weight = tl.exp2(score - highest[:, None])
    fade = tl.exp2(peak - highest)
    value = tl.load(values + line[:, None] * WIDTH + width[None, :], mask=there, other=0.0)
    total = tl.dot(weight.to(value.dtype), value, total * fade[:, None], input_precision="ieee")
    return highest, mass * fade + tl.sum(weight, 1), total


@triton.jit
def _queries(base, there, at, cosines, sines, WIDTH: tl.constexpr, ROTATED: tl.constexpr):
    """The two halves of some rows' queries, rotated here if they are not yet."""
    HALF: tl.constexpr = WIDTH // 2
    half = tl.arange(0, HALF)
    source = base + half[None, :]
    one = tl.load(source, mask=there, other=0.0)
    two = tl.load(source + HALF, mask=there, other=0.0)
    if not ROTATED:
        cosine = tl.load(cosines + at[:, None] * HALF + half[None, :], mask=there, other=0.0)
        sine = tl.load(sines + at[:, None] * HALF + half[None, :], mask=there, other=0.0)
        wide_one, wide_two = turned(one.to(tl.float32), two.to(tl.float32), cosine, sine)
        one, two = wide_one.to(source.dtype.element_ty), wide_two.to(source.dtype.element_ty)
    return one, two


@triton.jit(do_not_specialize=["rows"])
def _attend_rows(
    queries, words, cosines, sines, keys, values, out, rows, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, CAPACITY: tl.constexpr,
    STRIDE: tl.constexpr, ROTATED: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (head, block of rows); the blocks with the most keys come first. Row r stands at position + r.

    No kernel of a forward writes the words, and forwards do not overlap: they are read before `gdc_wait`.
    """
    tl_cuda.gdc_launch_dependents()
    position = tl.load(words).to(tl.int32)
    tl_cuda.gdc_wait()
    head = tl.program_id(0)
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_Q
    kv_head = head // (HEADS // KV_HEADS)
    row = first + tl.arange(0, BLOCK_Q)
    at = position + row
    there = row[:, None] < rows
    own = queries + row[:, None] * STRIDE + head * WIDTH
    query_1, query_2 = _queries(own, there, at, cosines, sines, WIDTH, ROTATED)
    keys += kv_head.to(tl.int64) * CAPACITY * WIDTH
    values += kv_head.to(tl.int64) * CAPACITY * WIDTH
    peak = tl.full((BLOCK_Q,), LOWEST, tl.float32)
    mass = tl.zeros((BLOCK_Q,), tl.float32)
    total = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    end = position + tl.minimum(first + BLOCK_Q, rows)
    for start in tl.range(0, end, BLOCK_K, num_stages=STAGES):
        peak, mass, total = _step(
            query_1, query_2, keys, values, start, end, at, scale, peak, mass, total, WIDTH, BLOCK_K
        )
    width = tl.arange(0, WIDTH)
    target = out + row[:, None] * (HEADS * WIDTH) + head * WIDTH + width[None, :]
    tl.store(target, (total / mass[:, None]).to(out.dtype.element_ty), mask=there)


MANY = 144
"""Rows from which a third stage of loads pays; the number of stages has no say in the bits."""


@dataclass(frozen=True)
class CausalTile:
    """Rows of queries and of keys that a program holds at a time, its warps and its stages of loads."""

    queries: int = 64
    keys: int = 64
    warps: int = 4
    stages: int = 2

    @staticmethod
    def of(rows: int) -> CausalTile:
        """The tile for so many rows: every count has the same blocks, so that padding changes no bit of a result."""
        return LONGER if rows >= MANY else SHORTER


SHORTER, LONGER = CausalTile(), CausalTile(stages=3)


def attend_rows(
    queries: Tensor,
    words: Tensor,
    tables: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    shape: LlamaShape,
    tile: CausalTile | None = None,
    *,
    rotated: bool = False,
) -> Tensor:
    """Causal attention of rows that begin at the state's position, over the whole sequence: [rows, query size].

    Args:
        queries: [rows, query size], or wider: what lies behind the queries is not read.
        words: the state's words; the position lies in the first, and all rows within the capacity.
        tables: cosines and sines, float32 [capacity, head_dim / 2].
        cache: rotated keys, and values, [key-value heads, capacity, head_dim], holding these rows and all before.
        shape: sizes of the model.
        tile: overrides the default tile.
        rotated: whether the queries are rotated already.
    """
    rows, stride = queries.shape
    tile = tile or CausalTile.of(rows)
    out = torch.empty(rows, shape.query_size, dtype=queries.dtype, device=queries.device)
    scale = 1.4426950408889634 / shape.head_dim**0.5
    blocks = -(-rows // tile.queries)
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    launch = _bound(heads, kv_heads, shape.head_dim, blocks, cache[0].shape[1], stride, rotated, tile)
    launch((queries, words, *tables, *cache, out), rows, scale)
    return out


@lru_cache(MOST_BOUND)
def _bound(
    heads: int, kv_heads: int, width: int, blocks: int, capacity: int, stride: int, rotated: bool, tile: CausalTile
) -> Bound:
    constants = {
        "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width, "CAPACITY": capacity, "STRIDE": stride,
        "ROTATED": rotated, "BLOCK_Q": tile.queries, "BLOCK_K": tile.keys, "STAGES": tile.stages,
    }  # fmt: skip
    return Bound(_attend_rows, (heads, blocks), constants, num_warps=tile.warps, launch_pdl=True)
