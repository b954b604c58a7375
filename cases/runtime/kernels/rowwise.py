"""Kernels over the rows of a prefill: RMSNorm, rotated keys and values into the cache, SiLU times up."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda as tl_cuda

from cases.runtime.kernels.launch import MOST_BOUND, Bound
from cases.runtime.shape import LlamaShape


@triton.jit
def _rms_norm(x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    tl_cuda.gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64) * WIDTH
    cols = tl.arange(0, BLOCK)
    gains = tl.load(weight + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    tl_cuda.gdc_wait()
    values = tl.load(x + row + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / WIDTH + eps)
    tl.store(out + row + cols, (values * scale * gains).to(out.dtype.element_ty), mask=cols < WIDTH)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of [rows, width], in float32, rounded once."""
    out = torch.empty_like(x)
    _norms(*x.shape)((x, weight, out), eps)
    return out


@lru_cache(MOST_BOUND)
def _norms(rows: int, width: int) -> Bound:
    constants = {"WIDTH": width, "BLOCK": triton.next_power_of_2(width)}
    return Bound(_rms_norm, (rows,), constants, num_warps=8, launch_pdl=True)


@triton.jit
def turned(one, two, cosine, sine):
    """Pairs rotated in float32. The fusions are said, because compilers choose them element by element."""
    return tl.fma(one, cosine, -(two * sine)), tl.fma(two, cosine, one * sine)


@triton.jit
def _write_cache(
    qkv, words, cosines, sines, keys, values,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, CAPACITY: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Program (row, group): GROUP heads of one kind, keys, then values."""
    tl_cuda.gdc_launch_dependents()
    tl_cuda.gdc_wait()
    row = tl.program_id(0)
    first = tl.program_id(1) * GROUP
    HALF: tl.constexpr = WIDTH // 2
    head = first + tl.arange(0, GROUP)[:, None]
    half = tl.arange(0, HALF)[None, :]
    source = qkv + row * ((HEADS + 2 * KV_HEADS) * WIDTH) + (HEADS + head) * WIDTH + half
    one = tl.load(source)
    two = tl.load(source + HALF)
    position = tl.load(words) + row
    kind = qkv.dtype.element_ty
    line = position * WIDTH + half
    if first < KV_HEADS:
        cosine = tl.load(cosines + position * HALF + half)
        sine = tl.load(sines + position * HALF + half)
        wide_one, wide_two = turned(one.to(tl.float32), two.to(tl.float32), cosine, sine)
        one, two = wide_one.to(kind), wide_two.to(kind)
        target = keys + head.to(tl.int64) * (CAPACITY * WIDTH) + line
    else:
        target = values + (head - KV_HEADS).to(tl.int64) * (CAPACITY * WIDTH) + line
    tl.store(target, one)
    tl.store(target + HALF, two)


def write_cache(
    qkv: Tensor, words: Tensor, tables: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor], shape: LlamaShape
) -> None:
    """Write rotated keys, and values, of all rows to the cache from the position on.

    Args:
        qkv: [rows, query + 2 * key-value size].
        words: the state's words.
        tables: cosines and sines, float32 [capacity, head_dim / 2].
        cache: keys and values [key-value heads, capacity, head_dim], contiguous.
    """
    keys, values = cache
    launch = _writes(qkv.shape[0], shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim, keys.shape[1])
    launch((qkv, words, *tables, keys, values))


@lru_cache(MOST_BOUND)
def _writes(rows: int, heads: int, kv_heads: int, width: int, capacity: int) -> Bound:
    group = math.gcd(kv_heads, 8)
    constants = {"HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width, "CAPACITY": capacity, "GROUP": group}
    return Bound(_write_cache, (rows, 2 * kv_heads // group), constants, num_warps=4, launch_pdl=True)


@triton.jit
def _silu_times(gate_up, out, INNER: tl.constexpr, BLOCK: tl.constexpr):
    tl_cuda.gdc_launch_dependents()
    tl_cuda.gdc_wait()
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
    _gates(rows, inner)((gate_up, out))
    return out


@lru_cache(MOST_BOUND)
def _gates(rows: int, inner: int) -> Bound:
    block = 1024
    constants = {"INNER": inner, "BLOCK": block}
    return Bound(_silu_times, (rows, triton.cdiv(inner, block)), constants, num_warps=4, launch_pdl=True)
