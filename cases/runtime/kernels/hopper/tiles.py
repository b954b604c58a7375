"""Which part of a product one block computes, by the kind of product and the number of tokens. Free of torch.

The choices were measured on an H200 (cases/runtime/kernels/NOTES.md); for other shapes they follow from how many
blocks fill the processors once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cases.runtime.shape import LlamaShape

Kind = Literal["plain", "sum", "gated", "rotated"]
"""Written, added to what is there, SiLU(gate) * up written, or queries and keys rotated, keys and values cached."""

EPILOGUES: dict[Kind, int] = {"plain": 0, "sum": 1, "gated": 2, "rotated": 3}
WIDEST = 256
"""Tokens a block can take: the widest tile of the tensor cores."""
TALLEST = 192
"""Rows a block takes with 64 of them a warpgroup."""
SHARED = (TALLEST, 96, 128, 64)
"""Rows that a pair of blocks may share, each with half of the tokens."""
WIDEST_LENT = 200
"""Tokens up to which three warpgroups and a fourth that loads share the registers: the assembler takes no more."""
WIDEST_TALL = 176
"""Tokens up to which 128 rows fit the registers of a warpgroup."""
NARROWEST = 88
"""Tokens from which a block of 128 rows is not starved by its weights."""
LONG = 8192
"""Inputs from which the sum over two halves of k costs less than the loads it saves."""
SHARED_BYTES = 227 * 1024
MOST_STAGES = 12
LEAST_INPUTS = 512


@dataclass(frozen=True)
class Tile:
    """The constants of one compiled kernel; linear.cu says what each is."""

    kind: Kind
    rows: int
    used: int
    tokens: int
    split: int = 1
    share: bool = False
    depth: int = 1
    tall: int = 1
    blocks: int = 0
    """Blocks that take tiles in turns; 0: as many as there are tiles, one each."""
    head_dim: int = 0
    """Width of a head where queries and keys are rotated."""

    @property
    def stages(self) -> int:
        """Stages of loads in flight: as many as fit beside alignment, barriers and what is read beyond `used`."""
        room = SHARED_BYTES - 512 - self._slack
        return min(MOST_STAGES, room // self.stage_bytes)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: the stages, or the staging tile that takes their place."""
        return max(self.stages * self.stage_bytes, self.staging_bytes) + self._slack

    @property
    def stage_bytes(self) -> int:
        """Bytes of weights and tokens in a stage."""
        return (self.used + self.tokens) * 128 * self.depth

    @property
    def staging_bytes(self) -> int:
        """Bytes that the results need on their way to memory."""
        features = self.used // 2 if self.kind == "gated" else self.used
        if self.kind != "sum":
            return self.tokens * 2 * 8 * ((features // 8) | 1)
        octets = self.tokens // 8
        if self.split == 2:
            return 8 * ((octets + 1) // 2) * 4 * (features + 4 + self.rows)
        return 8 * octets * 4 * (features + 4)

    @property
    def groups(self) -> int:
        """Warpgroups that compute."""
        return self.rows // (64 * self.tall)

    @property
    def loaders(self) -> int:
        """Threads that only load: a warp; a warpgroup that lends its registers; none, where one that computes loads."""
        accumulators = self.tall * self.tokens // 2
        if self.groups == 3:
            return 128 if self.tokens <= WIDEST_LENT else 0
        return 128 if self.groups == 2 and accumulators > 80 else 32

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 * self.groups + self.loaders

    @property
    def lasting(self) -> bool:
        """Whether blocks take tiles in turns."""
        return self.blocks > 0

    @property
    def paired(self) -> bool:
        """Whether blocks work in clusters of two."""
        return self.share or self.split == 2

    @property
    def box_rows(self) -> int:
        """Rows of weights that one block loads at once: all of its own, or such a part that none crosses a head."""
        own = self.used // 2 if self.share else self.used
        return 16 * math.gcd(own // 16, self.head_dim // 16) if self.kind == "rotated" else own

    def grid(self, count: int, rows: int) -> tuple[int, int]:
        """Blocks in x and y for `count` tokens and `rows` rows of weights; a pair lies side by side in x."""
        down, across = -(-rows // self.used), -(-count // self.tokens)
        if self.lasting:
            return min(self.blocks, down * across), 1
        return (across + across % 2 if self.share else across * self.split), down

    @property
    def _slack(self) -> int:
        return 1024 + (self.rows - self.used) * 128


def choose(kind: Kind, count: int, rows: int, inputs: int, processors: int, head_dim: int = 0) -> Tile:
    """The tile for `count` tokens (2 or more) and a weight [rows, inputs] on a GPU of `processors` multiprocessors."""
    if kind == "rotated":
        return replace(choose("plain", count, rows, inputs, processors), kind=kind, head_dim=head_dim)
    alone = _rounded(count, 16)
    if kind == "sum":
        return _for_sum(count, inputs)
    if count <= (128 if kind == "plain" else 144):
        used = _fitting(rows, processors)
        return Tile(kind, _rounded(used, 64), used, alone)
    if kind == "gated" and count <= WIDEST:
        used = _quickest((TALLEST, _fitting(rows, processors)), rows, 1, processors)
        return Tile(kind, _rounded(used, 64), used, alone)
    if kind == "gated" and _busiest(rows, 256, 3, processors) < _busiest(rows, TALLEST, 2, processors):
        return Tile(kind, 256, 256, _part(count, 3, WIDEST_TALL), tall=2, blocks=processors)
    used = _quickest(SHARED, rows, 2, processors)
    return Tile(kind, _rounded(used, 64), used, _half(count), share=True)


def tiles(kind: Kind, most: int, rows: int, inputs: int, processors: int, head_dim: int = 0) -> list[Tile]:
    """Every tile that prompts of 2 to `most` tokens need."""
    every = (choose(kind, count, rows, inputs, processors, head_dim) for count in range(2, most + 1))
    return list(dict.fromkeys(every))


def _for_sum(count: int, inputs: int) -> Tile:
    if count <= WIDEST:
        alone = _rounded(count, 16)
        return Tile("sum", 64, 64, alone, split=2, depth=2 if alone <= 64 else 1)
    quarter = _part(count, 4, 128)
    if inputs < LONG and quarter >= NARROWEST:
        return Tile("sum", 128, 128, quarter)
    return Tile("sum", 128, 128, _part(count, 2, WIDEST), split=2)


def fits(rows: int, inputs: int) -> bool:
    """Whether the kernel computes a product of this shape: addresses of 16 bytes, whole turns of gate and up."""
    return rows % 16 == 0 and inputs % 8 == 0 and inputs >= LEAST_INPUTS


def fits_rotated(shape: LlamaShape) -> bool:
    """Whether queries and keys of this shape can be rotated by the kernel that computes them."""
    return shape.head_dim in (64, 128)


def _half(count: int) -> int:
    """Tokens of each of an even number of tiles, none wider than the widest."""
    return _rounded(-(-count // (2 * -(-count // (2 * WIDEST)))), 8)


def _part(count: int, least: int, widest: int) -> int:
    """Tokens of each of `least` tiles, or of more where those would be too wide."""
    return _rounded(-(-count // max(least, -(-count // widest))), 8)


def _busiest(rows: int, used: int, across: int, processors: int) -> float:
    """Rows that the busiest multiprocessor computes for all tokens, cut into `across` tiles; the count has no say."""
    return -(-(-(-rows // used) * across) // processors) * used / across


def _quickest(choices: Sequence[int], rows: int, across: int, processors: int) -> int:
    """The first of those rows a block with which the busiest multiprocessor computes fewest, dropped ones included."""
    return min(choices, key=lambda used: -(-(-(-rows // used) * across) // processors) * _rounded(used, 64))


def _fitting(rows: int, processors: int) -> int:
    """Rows a block so that the blocks fill the processors a whole number of times."""
    waves = -(-rows // (TALLEST * processors))
    return _rounded(-(-rows // (waves * processors)), 16)


def _rounded(value: int, step: int) -> int:
    return -(-value // step) * step
