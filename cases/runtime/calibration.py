"""What the machine can do at best: the rates behind every floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

GPU_READ_BYTES = 8 * 2**30
GPU_MATMUL = 8192
RESTS_S = (0.0, 0.01)
BURST = 4
REPEATS = 10
CPU_READ_BYTES = 2**28
CPU_MATMUL = 1024
READ_TILES = ((16384, 2, 16), (8192, 4, 16), (8192, 2, 8), (4096, 4, 4))
"""Elements of a step, steps and warps of a program; the fastest is the ceiling."""


def calibrate(device: str, dtype: str) -> dict[str, float]:
    """`read_bandwidth_tb_s` by a kernel that only reads, `matmul_tflop_s` by a large product on random data."""
    kind = getattr(torch, dtype)
    if device == "cuda":
        return {"read_bandwidth_tb_s": gpu_read_tb_s(kind), "matmul_tflop_s": gpu_matmul_tflop_s(kind)}
    return {"read_bandwidth_tb_s": cpu_read_tb_s(), "matmul_tflop_s": cpu_matmul_tflop_s(kind)}


def gpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of one `work` at the card's best: in bursts between CUDA events, on a busy card and on a rested one.

    Back to back the power cap may hold the clock down; after a rest the clock is free but must first be there. The
    better of the two medians is the ceiling.
    """
    return min(burst_seconds(work, rest) for rest in RESTS_S)


def burst_seconds(work: Callable[[], object], rest: float) -> float:
    """Median over bursts, of which the first two do not count."""
    found = []
    for _ in range(REPEATS + 2):
        time.sleep(rest)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(BURST):
            work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3 / BURST)
    return median(found[2:])


def gpu_read_tb_s(dtype: torch.dtype) -> float:
    """Terabytes a second of the fastest read-only kernel over 8 GiB, or over 40 % of what is free if that is less."""
    from cases.runtime.kernels.read import read_all

    free, _ = torch.cuda.mem_get_info()
    unit = 2**20
    count = min(GPU_READ_BYTES, int(free * 0.4)) // dtype.itemsize // unit * unit
    data = torch.empty(count, dtype=dtype, device="cuda").normal_()
    sums = torch.empty(count // 8192, dtype=torch.float32, device="cuda")
    rates = [
        count * dtype.itemsize / gpu_seconds(lambda tile=tile: read_all(data, sums, *tile)) / 1e12  # type: ignore[misc]
        for tile in READ_TILES
    ]
    return max(rates)


def gpu_matmul_tflop_s(dtype: torch.dtype) -> float:
    """Teraflops a second of an 8192-cube product of N(0, 1) matrices."""
    a, b = (torch.randn(GPU_MATMUL, GPU_MATMUL, dtype=dtype, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return 2 * GPU_MATMUL**3 / gpu_seconds(lambda: torch.mm(a, b, out=out)) / 1e12


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of `work` in seconds."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def cpu_read_tb_s() -> float:
    """Terabytes a second of a sum over 256 MiB."""
    data = torch.ones(CPU_READ_BYTES // 4)
    return CPU_READ_BYTES / cpu_seconds(data.sum, 5) / 1e12


def cpu_matmul_tflop_s(dtype: torch.dtype) -> float:
    """Teraflops a second of a 1024-cube product."""
    a, b = (torch.randn(CPU_MATMUL, CPU_MATMUL, dtype=dtype) for _ in range(2))
    return 2 * CPU_MATMUL**3 / cpu_seconds(lambda: a @ b, 5) / 1e12
