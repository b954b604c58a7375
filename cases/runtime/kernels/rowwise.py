"""Kernels over the rows of a prefill: RMSNorm, rotary embedding with cache write, SiLU times up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cases.runtime.shape import LlamaShape


@triton.jit
def _rms_norm(x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * WIDTH
    cols = tl.arange(0, BLOCK)
    values = tl.load(x + row + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / WIDTH + eps)
    gains = tl.load(weight + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    tl.store(out + row + cols, (values * scale * gains).to(out.dtype.element_ty), mask=cols < WIDTH)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of [rows, width], in float32, rounded once."""
    out = torch.empty_like(x)
    width = x.shape[1]
    _rms_norm[(x.shape[0],)](x, weight, out, eps, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return out


@triton.jit
def _rotate_half(source, target, target_step, heads, cosine, sine, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Rotate [heads, 2 * HALF] from `source` to `target`, whose heads lie `target_step` apart."""
    head = tl.arange(0, HEADS)[:, None]
    half = tl.arange(0, HALF)[None, :]
    there = head < heads
    first = tl.load(source + head * (2 * HALF) + half, mask=there, other=0.0).to(tl.float32)
    second = tl.load(source + head * (2 * HALF) + HALF + half, mask=there, other=0.0).to(tl.float32)
    place = target + head.to(tl.int64) * target_step + half
    kind = target.dtype.element_ty
    tl.store(place, (first * cosine - second * sine).to(kind), mask=there)
    tl.store(place + HALF, (second * cosine + first * sine).to(kind), mask=there)


@triton.jit
def _rotate_rows(
    qkv, words, cosines, sines, queries, keys, values, heads, kv_heads,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    HALF: tl.constexpr = WIDTH // 2
    half = tl.arange(0, HALF)
    position = tl.load(words) + row
    cosine = tl.load(cosines + position * HALF + half)[None, :]
    sine = tl.load(sines + position * HALF + half)[None, :]
    source = qkv + row * ((heads + 2 * kv_heads) * WIDTH)
    _rotate_half(source, queries + row * (heads * WIDTH), WIDTH, heads, cosine, sine, HEADS, HALF)
    line = position * WIDTH
    _rotate_half(source + heads * WIDTH, keys + line, CAPACITY * WIDTH, kv_heads, cosine, sine, KV_HEADS, HALF)
    head = tl.arange(0, KV_HEADS)[:, None]
    width = tl.arange(0, WIDTH)[None, :]
    there = head < kv_heads
    value = tl.load(source + (heads + kv_heads) * WIDTH + head * WIDTH + width, mask=there)
    tl.store(values + line + head.to(tl.int64) * (CAPACITY * WIDTH) + width, value, mask=there)


def rotate_rows(
    qkv: Tensor, words: Tensor, tables: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor], shape: LlamaShape
) -> Tensor:
    """Rotated queries [rows, query size]; rotated keys, and values, written to the cache from the position on.

    Args:
        qkv: [rows, query + 2 * key-value size].
        words: the state's words.
        tables: cosines and sines, float32 [capacity, head_dim / 2].
        cache: keys and values [key-value heads, capacity, head_dim], contiguous.
    """
    keys, values = cache
    rows = qkv.shape[0]
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    queries = torch.empty(rows, shape.query_size, dtype=qkv.dtype, device=qkv.device)
    _rotate_rows[(rows,)](
        qkv, words, *tables, queries, keys, values, heads, kv_heads,
        HEADS=triton.next_power_of_2(heads), KV_HEADS=triton.next_power_of_2(kv_heads), WIDTH=shape.head_dim,
        CAPACITY=keys.shape[1], num_warps=8,
    )  # fmt: skip
    return queries


@triton.jit
def _silu_times(gate_up, out, INNER: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = cols < INNER
    gate = tl.load(gate_up + row * 2 * INNER + cols, mask=there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * INNER + INNER + cols, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * INNER + cols, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=there)


def silu_times(gate_up: Tensor) -> Tensor:
    """SiLU(gate) * up of [rows, 2 * intermediate]."""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, inner, dtype=gate_up.dtype, device=gate_up.device)
    block = 2048
    _silu_times[(rows, triton.cdiv(inner, block))](gate_up, out, INNER=inner, BLOCK=block, num_warps=4)
    return out
