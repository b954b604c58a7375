"""Decode attention: one query token over the cache, its length read on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda as tl_cuda

from cases.runtime.kernels.rowwise import turned
from cases.runtime.shape import LlamaShape

SPLITS = 16
BLOCK = 32
WARPS = 2
LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def _rotated(base, cosine, sine, HALF: tl.constexpr):
    """The two halves of one head's vector, rotated, in float32."""
    half = tl.arange(0, HALF)
    first = tl.load(base + half).to(tl.float32)
    second = tl.load(base + HALF + half).to(tl.float32)
    return turned(first, second, cosine, sine)


@triton.jit
def _merge(partial, peaks, masses, arrived, out, head, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    """The last program of a head to arrive merges all parts (online softmax) and readies the counter again."""
    splits = tl.arange(0, SPLITS)
    width = tl.arange(0, WIDTH)
    peak = tl.load(peaks + head * SPLITS + splits, cache_modifier=".cg")
    mass = tl.load(masses + head * SPLITS + splits, cache_modifier=".cg")
    at = (head * SPLITS + splits[:, None]) * WIDTH + width[None, :]
    parts = tl.load(partial + at, cache_modifier=".cg")
    share = tl.exp2(peak - tl.max(peak, 0))
    merged = tl.sum(parts * share[:, None], 0) / tl.sum(mass * share, 0)
    tl.store(out + head * WIDTH + width, merged.to(out.dtype.element_ty))
    tl.store(arrived + head, 0)


@triton.jit
def _attend_one(
    qkv, words, cosines, sines, keys, values, partial, peaks, masses, arrived, out, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, FRESH: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Program (head, split). FRESH: `qkv` is one row, and its key and value go to the cache here.

    Otherwise `qkv` holds several rows, the queries first in each; their keys and values are in the cache, and the query
    is the last token's.
    """
    head, split = tl.program_id(0), tl.program_id(1)
    HALF: tl.constexpr = WIDTH // 2
    kv_head = head // (HEADS // KV_HEADS)
    half, width, lines = tl.arange(0, HALF), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    tl_cuda.gdc_launch_dependents()
    tl_cuda.gdc_wait()
    position, last = tl.load(words), tl.load(words + 1)
    cache = kv_head.to(tl.int64) * CAPACITY * WIDTH
    peak, mass = LOWEST, 0.0
    total = tl.zeros((WIDTH,), tl.float32)
    at = position + last
    cosine, sine = tl.load(cosines + at * HALF + half), tl.load(sines + at * HALF + half)
    query_1, query_2 = _rotated(qkv + last * STRIDE + head * WIDTH, cosine, sine, HALF)
    context = (at + 1).to(tl.int32)
    if FRESH:
        context = position.to(tl.int32)
        if split == 0:
            key_1, key_2 = _rotated(qkv + (HEADS + kv_head) * WIDTH, cosine, sine, HALF)
            value = tl.load(qkv + (HEADS + KV_HEADS + kv_head) * WIDTH + width)
            peak = (tl.sum(query_1 * key_1, 0) + tl.sum(query_2 * key_2, 0)) * scale
            mass = 1.0
            total = value.to(tl.float32)
            if head % (HEADS // KV_HEADS) == 0:
                new = cache + position * WIDTH
                tl.store(keys + new + half, key_1.to(keys.dtype.element_ty))
                tl.store(keys + new + HALF + half, key_2.to(keys.dtype.element_ty))
                tl.store(values + new + width, value)
    chunk = tl.cdiv(tl.cdiv(context, SPLITS), BLOCK) * BLOCK
    end = tl.minimum(context, (split + 1) * chunk)
    for start in tl.range(split * chunk, end, BLOCK):
        line = start + lines
        seen = line < end
        key = keys + cache + line[:, None] * WIDTH + half[None, :]
        score = tl.sum(tl.load(key, mask=seen[:, None], other=0.0).to(tl.float32) * query_1[None, :], 1)
        score += tl.sum(tl.load(key + HALF, mask=seen[:, None], other=0.0).to(tl.float32) * query_2[None, :], 1)
        score = tl.where(seen, score * scale, LOWEST)
        highest = tl.maximum(peak, tl.max(score, 0))
        weight = tl.exp2(score - highest)
        fade = tl.exp2(peak - highest)
        value_tile = tl.load(values + cache + line[:, None] * WIDTH + width[None, :], mask=seen[:, None], other=0.0).to(
            tl.float32
        )
        total = total * fade + tl.sum(value_tile * weight[:, None], 0)
        mass = mass * fade + tl.sum(weight, 0)
        peak = highest
    place = head * SPLITS + split
    tl.store(partial + place * WIDTH + width, total)
    tl.store(peaks + place, peak)
    tl.store(masses + place, mass)
    tl.debug_barrier()
    if tl.atomic_add(arrived + head, 1, sem="acq_rel", scope="gpu") == SPLITS - 1:
        _merge(partial, peaks, masses, arrived, out, head, WIDTH, SPLITS)


@dataclass(frozen=True)
class Scratch:
    """Parts of the softmax between the programs of a head, float32, and the counter of those that arrived."""

    partial: Tensor
    peaks: Tensor
    masses: Tensor
    arrived: Tensor

    @classmethod
    def make(cls, shape: LlamaShape, device: str) -> Scratch:
        """Allocate for all heads."""
        heads = shape.num_attention_heads
        sums = torch.empty(heads * SPLITS, shape.head_dim, dtype=torch.float32, device=device)
        peaks, masses = torch.empty(2, heads * SPLITS, dtype=torch.float32, device=device)
        return cls(sums, peaks, masses, torch.zeros(heads, dtype=torch.int32, device=device))


def attend_one(
    rows: Tensor, words: Tensor, tables: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor], scratch: Scratch,
    shape: LlamaShape, *, fresh: bool, warps: int = WARPS,
) -> Tensor:  # fmt: skip
    """Attention of the last real token over the cache: [1, query size].

    Args:
        rows: [rows, query + 2 * key-value size], not rotated; one row if fresh, else [rows, query size] will do.
        words: the state's words: position, last index.
        tables: cosines and sines, float32 [capacity, head_dim / 2].
        cache: keys and values [key-value heads, capacity, head_dim], contiguous.
        scratch: buffers that no other call uses at the same time.
        fresh: whether the token's own key and value are still to be written; else all rows' are in the cache.
    """
    keys, values = cache
    out = torch.empty(1, shape.query_size, dtype=rows.dtype, device=rows.device)
    scale = 1.4426950408889634 / shape.head_dim**0.5
    _attend_one[(shape.num_attention_heads, SPLITS)](
        rows, words, *tables, keys, values, scratch.partial, scratch.peaks, scratch.masses, scratch.arrived, out, scale,
        HEADS=shape.num_attention_heads, KV_HEADS=shape.num_key_value_heads, WIDTH=shape.head_dim,
        CAPACITY=keys.shape[1], BLOCK=BLOCK, SPLITS=SPLITS, FRESH=fresh, STRIDE=rows.shape[1], num_warps=warps,
        launch_pdl=True,
    )  # fmt: skip
    return out
