"""Which part of a product one block computes, by the kind of product and the number of tokens. Free of torch.

The choices were measured on an H200 (cases/runtime/kernels/NOTES.md); for other shapes they follow from how many
blocks fill the processors once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "sum", "gated"]
"""Written, added to what is there, or SiLU(gate) * up written."""

EPILOGUES: dict[Kind, int] = {"plain": 0, "sum": 1, "gated": 2}
WIDEST = 256
"""Tokens a block can take: the widest tile of the tensor cores."""
TALLEST = 192
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

    @property
    def stages(self) -> int:
        """Stages of loads in flight: as many as fit beside alignment, barriers and what is read beyond `used`."""
        room = SHARED_BYTES - 512 - self._slack
        return min(MOST_STAGES, room // self._stage_bytes)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: the stages, or the staging tile that takes their place."""
        return max(self.stages * self._stage_bytes, self._staging_bytes) + self._slack

    @property
    def threads(self) -> int:
        """Four warps for each 64 rows, and one that loads unless the registers leave no room for it."""
        groups = self.rows // 64
        wide = groups == 4 or (groups == 3 and self.tokens > 144)
        return 128 * groups + (0 if wide else 32)

    @property
    def paired(self) -> bool:
        """Whether blocks work in clusters of two."""
        return self.share or self.split == 2

    @property
    def box_rows(self) -> int:
        """Rows of weights that one block loads itself."""
        return self.used // 2 if self.share else self.used

    def grid(self, count: int, rows: int) -> tuple[int, int]:
        """Blocks in x and y for `count` tokens and `rows` rows of weights; a pair lies side by side in x."""
        down, across = -(-rows // self.used), -(-count // self.tokens)
        return (across + across % 2, down) if self.share else (down * self.split, across)

    @property
    def _slack(self) -> int:
        return 1024 + (self.rows - self.used) * 128

    @property
    def _stage_bytes(self) -> int:
        return (self.used + self.tokens) * 128 * self.depth

    @property
    def _staging_bytes(self) -> int:
        features = self.used // 2 if self.kind == "gated" else self.used
        if self.kind != "sum":
            return self.tokens * 2 * 8 * ((features // 8) | 1)
        octets = self.tokens // 8
        finished = (octets + 1) // 2 if self.split == 2 else octets
        return 8 * finished * 4 * (features + 4) * self.split


def choose(kind: Kind, count: int, rows: int, processors: int) -> Tile:
    """The tile for `count` tokens (2 or more) and a weight of `rows` rows on a GPU of `processors` multiprocessors."""
    alone = _rounded(count, 16)
    if kind == "sum":
        if count <= WIDEST:
            return Tile(kind, 64, 64, alone, split=2, depth=2 if alone <= 64 else 1)
        return Tile(kind, 64, 64, _half(count), share=True)
    if count <= (128 if kind == "plain" else 144):
        used = _fitting(rows, processors)
        return Tile(kind, _rounded(used, 64), used, alone)
    if kind == "gated" and count <= WIDEST:
        return Tile(kind, TALLEST, TALLEST, alone)
    return Tile(kind, TALLEST, TALLEST, _half(count), share=True)


def tiles(kind: Kind, most: int, rows: int, processors: int) -> list[Tile]:
    """Every tile that prompts of 2 to `most` tokens need."""
    return list(dict.fromkeys(choose(kind, count, rows, processors) for count in range(2, most + 1)))


def fits(rows: int, inputs: int) -> bool:
    """Whether the kernel computes a product of this shape: addresses of 16 bytes, whole turns of gate and up."""
    return rows % 16 == 0 and inputs % 8 == 0 and inputs >= LEAST_INPUTS


def _half(count: int) -> int:
    """Tokens of each of an even number of tiles, none wider than the widest."""
    return _rounded(-(-count // (2 * -(-count // (2 * WIDEST)))), 8)


def _fitting(rows: int, processors: int) -> int:
    """Rows a block so that the blocks fill the processors a whole number of times."""
    waves = -(-rows // (TALLEST * processors))
    return _rounded(-(-rows // (waves * processors)), 16)


def _rounded(value: int, step: int) -> int:
    return -(-value // step) * step
