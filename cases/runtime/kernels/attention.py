"""Decode attention: one query token over the cache, its length read on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda as tl_cuda

from cases.runtime.kernels.launch import Bound
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
def _read(keys, values, start, end, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A block of cached lines: both halves of the keys, the values, and which lines there are."""
    HALF: tl.constexpr = WIDTH // 2
    half, width = tl.arange(0, HALF), tl.arange(0, WIDTH)
    line = start + tl.arange(0, BLOCK)
    seen = line < end
    key = keys + line[:, None] * WIDTH + half[None, :]
    key_1 = tl.load(key, mask=seen[:, None], other=0.0)
    key_2 = tl.load(key + HALF, mask=seen[:, None], other=0.0)
    value = tl.load(values + line[:, None] * WIDTH + width[None, :], mask=seen[:, None], other=0.0)
    return key_1, key_2, value, seen


@triton.jit
def _fold(query_1, query_2, key_1, key_2, value, seen, scale, peak, mass, total):
    """A block of lines into the running softmax, in base 2."""
    score = tl.sum(key_1.to(tl.float32) * query_1[None, :], 1)
    score += tl.sum(key_2.to(tl.float32) * query_2[None, :], 1)
    score = tl.where(seen, score * scale, LOWEST)
    highest = tl.maximum(peak, tl.max(score, 0))
    weight = tl.exp2(score - highest)
    fade = tl.exp2(peak - highest)
    total = total * fade + tl.sum(value.to(tl.float32) * weight[:, None], 0)
    return highest, mass * fade + tl.sum(weight, 0), total


@triton.jit
def _fresh(
    qkv, query_1, query_2, cosine, sine, keys, values, kv_head, position, scale, writes,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The token's own key and value: the first line of the softmax, and, if it `writes`, of the cache."""
    HALF: tl.constexpr = WIDTH // 2
    half, width = tl.arange(0, HALF), tl.arange(0, WIDTH)
    key_1, key_2 = _rotated(qkv + (HEADS + kv_head) * WIDTH, cosine, sine, HALF)
    value = tl.load(qkv + (HEADS + KV_HEADS + kv_head) * WIDTH + width)
    if writes:
        new = position * WIDTH
        tl.store(keys + new + half, key_1.to(keys.dtype.element_ty))
        tl.store(keys + new + HALF + half, key_2.to(keys.dtype.element_ty))
        tl.store(values + new + width, value)
    return (tl.sum(query_1 * key_1, 0) + tl.sum(query_2 * key_2, 0)) * scale, value.to(tl.float32)


@triton.jit
def _attend_one(
    qkv, words, cosines, sines, keys, values, partial, peaks, masses, arrived, out, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, FRESH: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Program (head, split). FRESH: `qkv` is one row, and its key and value go to the cache here.

    Otherwise `qkv` holds several rows, the queries first in each; their keys and values are in the cache, and the query
    is the last token's. Before `gdc_wait` only what no kernel of this forward writes is read: the state's words, the
    tables and, if FRESH, the lines of tokens before; the embedding, launched without overlap, keeps forwards apart.
    """
    head, split = tl.program_id(0), tl.program_id(1)
    HALF: tl.constexpr = WIDTH // 2
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head = head // GROUP
    half, width = tl.arange(0, HALF), tl.arange(0, WIDTH)
    keys += kv_head.to(tl.int64) * CAPACITY * WIDTH
    values += kv_head.to(tl.int64) * CAPACITY * WIDTH
    tl_cuda.gdc_launch_dependents()
    position, last = tl.load(words), tl.load(words + 1)
    at = position + last
    cosine, sine = tl.load(cosines + at * HALF + half), tl.load(sines + at * HALF + half)
    context = (position if FRESH else at + 1).to(tl.int32)
    chunk = tl.cdiv(tl.cdiv(context, SPLITS), BLOCK) * BLOCK
    first, end = split * chunk, tl.minimum(context, (split + 1) * chunk)
    if FRESH:
        key_1, key_2, value, seen = _read(keys, values, first, end, WIDTH, BLOCK)
        tl_cuda.gdc_wait()
    else:
        tl_cuda.gdc_wait()
        key_1, key_2, value, seen = _read(keys, values, first, end, WIDTH, BLOCK)
    query_1, query_2 = _rotated(qkv + last * STRIDE + head * WIDTH, cosine, sine, HALF)
    peak, mass = LOWEST, 0.0
    total = tl.zeros((WIDTH,), tl.float32)
    if FRESH:  # noqa: SIM102  this one is decided when the kernel is compiled
        if split == 0:
            mass = 1.0
            peak, total = _fresh(
                qkv, query_1, query_2, cosine, sine, keys, values, kv_head, position, scale, head % GROUP == 0,
                HEADS, KV_HEADS, WIDTH,
            )  # fmt: skip
    peak, mass, total = _fold(query_1, query_2, key_1, key_2, value, seen, scale, peak, mass, total)
    for start in tl.range(first + BLOCK, end, BLOCK):
        key_1, key_2, value, seen = _read(keys, values, start, end, WIDTH, BLOCK)
        peak, mass, total = _fold(query_1, query_2, key_1, key_2, value, seen, scale, peak, mass, total)
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
    launch = _bound(
        shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim, keys.shape[1], fresh, rows.shape[1], warps
    )
    scratched = (scratch.partial, scratch.peaks, scratch.masses, scratch.arrived)
    launch((rows, words, *tables, keys, values, *scratched, out), scale)
    return out


@cache
def _bound(heads: int, kv_heads: int, width: int, capacity: int, fresh: bool, stride: int, warps: int) -> Bound:
    constants = {
        "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width, "CAPACITY": capacity, "BLOCK": BLOCK, "SPLITS": SPLITS,
        "FRESH": fresh, "STRIDE": stride,
    }  # fmt: skip
    return Bound(_attend_one, (heads, SPLITS), constants, num_warps=warps, launch_pdl=True)
