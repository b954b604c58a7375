"""The products of a prefill by our own kernels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.hopper.launch import Launcher, function
from cases.runtime.kernels.hopper.nvrtc import version
from cases.runtime.kernels.hopper.source import compiled
from cases.runtime.kernels.hopper.tiles import Kind, Tile, choose, fits_rotated, tiles
from cases.runtime.shape import LlamaShape

LONGEST = 512
"""Tokens up to which tiles are compiled ahead; longer forwards use the same tiles, more of them."""


class HopperProducts:
    """See kernels.linear.Products. For float16 and bfloat16 on compute capability 9.0."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = f"wgmma kernels by {version()}"
        self._bf16 = dtype is torch.bfloat16
        self._launch = Launcher()
        self._processors = torch.cuda.get_device_properties().multi_processor_count
        self._choose = cache(self._chosen)

    def compile(self, shape: LlamaShape) -> None:
        """Compile and load every tile that forwards of this shape need; many at a time, kept on disk."""
        hidden, inner = shape.hidden_size, shape.intermediate_size
        first: Kind = "rotated" if fits_rotated(shape) else "plain"
        kinds: list[tuple[Kind, int, int]] = [
            (first, shape.query_size + 2 * shape.key_value_size, hidden),
            ("sum", hidden, shape.query_size),
            ("sum", hidden, inner),
            ("gated", 2 * inner, hidden),
        ]
        wanted = list(
            dict.fromkeys(
                tile
                for kind, rows, inputs in kinds
                for tile in tiles(kind, LONGEST, rows, inputs, self._processors, shape.head_dim)
            )
        )
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda tile: compiled(tile, self._bf16), wanted))
        for tile in wanted:
            function(tile, self._bf16, torch.cuda.current_device())

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[rows, inputs] times [outputs, inputs] transposed."""
        out = torch.empty(x.shape[0], weight.shape[0], dtype=x.dtype, device=x.device)
        self._launch(self._choose("plain", x.shape[0], *weight.shape), x, weight, out)
        return out

    def queries(self, x: Tensor, weight: Tensor, to: Place, *, raw: bool = False) -> tuple[Tensor, bool]:
        """See kernels.linear.Products."""
        if not fits_rotated(to.shape):
            return to.write(self.linear(x, weight)), False
        tile = self._choose("rotated", x.shape[0], *weight.shape, to.shape.head_dim)
        out = torch.empty(x.shape[0], to.shape.query_size, dtype=x.dtype, device=x.device)
        self._launch(tile, x, weight, out, to, raw=raw)
        return out, not raw

    def add_linear(self, residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The same, added to `residual` [rows, outputs] in place."""
        self._launch(self._choose("sum", x.shape[0], *weight.shape), x, weight, residual)
        return residual

    def gated_linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """SiLU(gate) * up of x times [gate rows, then up rows] transposed: [rows, intermediate]."""
        out = torch.empty(x.shape[0], weight.shape[0] // 2, dtype=x.dtype, device=x.device)
        self._launch(self._choose("gated", x.shape[0], *weight.shape), x, weight, out)
        return out

    def _chosen(self, kind: Kind, count: int, rows: int, inputs: int, head_dim: int = 0) -> Tile:
        return choose(kind, count, rows, inputs, self._processors, head_dim)
