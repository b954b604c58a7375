"""Comparison with a reference in float64, and memory that shows what was not written."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of |found - reference| over |reference| + root mean square: one rounding of the output, and some."""


def assert_near(found: Tensor, reference: Tensor, factor: float = 1.0) -> None:
    """Every element of `found` lies as near to `reference` (float64) as its dtype allows, `factor` times that."""
    wanted = reference.double()
    scale = wanted.abs() + wanted.pow(2).mean().sqrt()
    worst = ((found.double() - wanted).abs() / scale).max().item()
    assert worst <= factor * TOLERANCE[found.dtype], f"off by {worst:.2e}"


def randn(*size: int, dtype: torch.dtype = torch.float16, scale: float = 1.0) -> Tensor:
    """N(0, scale) on the GPU."""
    return (torch.randn(*size, device="cuda") * scale).to(dtype)


def poisoned(count: int, dtype: torch.dtype = torch.float16, guard: int = 256) -> tuple[Tensor, Tensor]:
    """`count` NaNs to be overwritten, and the `guard` NaNs behind them that must stay."""
    whole = torch.full((count + guard,), float("nan"), dtype=dtype, device="cuda")
    return whole[:count], whole[count:]


def poison_allocator(*sizes: int) -> None:
    """Leave NaNs in the blocks that the next outputs of about these numbers of bytes will get."""
    blocks = [torch.full((size // 4 + 1,), float("nan"), device="cuda") for size in sizes for _ in range(4)]
    del blocks
