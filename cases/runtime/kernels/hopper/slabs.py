"""What a block of matvec.cu takes of a matrix, by the number of its columns. Free of torch.

The choices were measured on an H200 (cases/runtime/kernels/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cases.runtime.shape import LlamaShape

WARP = 256
"""Columns that a warp reads at a time, 8 a lane."""
EIGHT = 8
MOST_WARPS = 16
MOST_PIECES = 7
"""Pieces of x that a warp can hold beside a pair of rows."""


@dataclass(frozen=True)
class Product:
    """One product of a decode step, as the kernel is compiled for it: weight[outputs, inputs], with `gated` twice that.

    `norm`: of RMSNorm(x); `gated`: SiLU(gate) * up; `add`: a residual is added.
    """

    outputs: int
    inputs: int
    norm: bool = False
    gated: bool = False
    add: bool = False

    @property
    def rows(self) -> int:
        """Of the weight."""
        return 2 * self.outputs if self.gated else self.outputs


@dataclass(frozen=True)
class Slab:
    """Rows of the weights in a block, warps that share their columns, pairs of rows asked for ahead.

    `blocks`: how many a multiprocessor must have registers for.
    """

    rows: int
    warps: int
    stages: int
    blocks: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps

    def pieces(self, inputs: int) -> int:
        """Pieces of 256 columns that each warp takes of a row."""
        return -(-inputs // (WARP * self.warps))

    def blocks_for(self, product: Product) -> int:
        """How many blocks cover all rows."""
        return -(-product.outputs // (self.rows // 2 if product.gated else self.rows))


def slab_for(product: Product) -> Slab:
    """The fastest, in the chain of a decode step, for products like this one."""
    if product.inputs <= 16 * WARP:
        if product.gated:
            return Slab(32, 4, 3, 2)
        return Slab(16, 8, 3, 2) if product.outputs > product.inputs else Slab(16, 4, 3, 2)
    if product.inputs <= 32 * WARP:
        return Slab(16, 8, 3, 1)
    return Slab(16, 8, 1, 2) if product.inputs <= 48 * WARP else Slab(16, MOST_WARPS, 1, 1)


def fits(inputs: int) -> bool:
    """Whether the kernel can read rows of so many columns."""
    return inputs % EIGHT == 0 and Slab(16, MOST_WARPS, 1, 1).pieces(inputs) <= MOST_PIECES


def products_of(shape: LlamaShape) -> Iterator[Product]:
    """Those of a decode step: a layer's, then the head's."""
    yield from layer_products(shape)
    yield Product(shape.vocab_size, shape.hidden_size, norm=True)


def layer_products(shape: LlamaShape) -> Iterator[Product]:
    """Query-key-value, output, gate-up, down."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    yield Product(shape.query_size + 2 * shape.key_value_size, hidden, norm=True)
    yield Product(hidden, shape.query_size, add=True)
    yield Product(inner, hidden, norm=True, gated=True)
    yield Product(hidden, inner, add=True)
