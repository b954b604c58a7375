"""What a block of the matrix-vector kernel takes: all rows and columns, and what has a place in registers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.kernels.hopper.slabs import MOST_PIECES, WARP, Product, Slab, fits, products_of, slab_for
from tests.runtime.llamas import tiny_shape


@given(inputs=st.integers(1, 3584).map(lambda n: 8 * n), outputs=st.integers(1, 130000), gated=st.booleans())
def test_a_slab_covers_the_product_and_its_warps_can_hold_it(inputs, outputs, gated):
    assert fits(inputs)
    product = Product(outputs, inputs, gated=gated)
    slab = slab_for(product)
    assert slab.pieces(inputs) * slab.warps * WARP >= inputs
    assert slab.pieces(inputs) <= MOST_PIECES
    assert slab.threads == 32 * slab.warps <= 512
    whole = slab.rows // 2 if gated else slab.rows
    assert (slab.blocks_for(product) - 1) * whole < outputs <= slab.blocks_for(product) * whole
    assert slab.rows % (4 if gated else 2) == 0
    # 65,536 registers a multiprocessor: the rows asked for ahead, x and the norm's weight have a place in each lane's.
    held = 4 * slab.pieces(inputs) * (2 * slab.stages + 1 + 1)
    assert held < 65536 // (slab.threads * slab.blocks)


@pytest.mark.parametrize("inputs", [4, 4097, 28680, 32768])
def test_what_does_not_fit_is_known_before(inputs):
    assert not fits(inputs)


def test_rows_of_both_halves_count_for_gated_products():
    assert Slab(16, 4, 3, 2).blocks_for(Product(11008, 4096, gated=True)) == 1376
    assert Slab(16, 4, 3, 2).blocks_for(Product(11008, 4096)) == 688


def test_the_products_of_a_step_are_those_of_the_shape():
    shape = tiny_shape()
    hidden, inner = shape.hidden_size, shape.intermediate_size
    assert list(products_of(shape)) == [
        Product(shape.query_size + 2 * shape.key_value_size, hidden, norm=True),
        Product(hidden, shape.query_size, add=True),
        Product(inner, hidden, norm=True, gated=True),
        Product(hidden, inner, add=True),
        Product(shape.vocab_size, hidden, norm=True),
    ]
