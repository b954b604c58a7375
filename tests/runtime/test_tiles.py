"""The tiles of the prefill's products: they fit the GPU, and they cover every row and token once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.kernels.hopper.tiles import SHARED_BYTES, WIDEST, choose, fits, fits_rotated, tiles
from tests.runtime.llamas import tiny_shape

PRODUCTS = (("plain", 12288, 4096), ("sum", 4096, 4096), ("sum", 4096, 11008), ("gated", 22016, 4096))


@given(
    kind=st.sampled_from(("plain", "sum", "gated")),
    count=st.integers(2, 4096),
    rows=st.integers(1, 4096).map(lambda n: 16 * n),
    inputs=st.integers(64, 2048).map(lambda n: 8 * n),
    processors=st.sampled_from([66, 114, 132]),
)
def test_a_tile_fits_the_gpu_and_covers_the_product(kind, count, rows, inputs, processors):
    tile = choose(kind, count, rows, inputs, processors)
    assert tile.tokens % 8 == 0
    assert 8 <= tile.tokens <= WIDEST
    assert tile.rows % (64 * tile.tall) == 0
    assert 0 < tile.used <= tile.rows
    assert tile.used % (32 if tile.share and kind == "gated" else 16) == 0
    assert tile.stages >= 3
    assert tile.shared_bytes <= SHARED_BYTES - 512
    assert tile.threads <= 512
    across, down = tile.grid(count, rows)
    assert not tile.paired or across % 2 == 0
    if tile.lasting:
        assert (across, down) == (min(processors, -(-rows // tile.used) * -(-count // tile.tokens)), 1)
        return
    assert down * tile.used >= rows
    assert across // tile.split * tile.tokens >= count


@given(
    count=st.integers(2, 1024),
    heads=st.sampled_from([(32, 32), (32, 8), (28, 4), (9, 3), (8, 1)]),
    width=st.sampled_from([64, 128]),
    processors=st.sampled_from([66, 114, 132]),
)
def test_loads_of_rotated_rows_cover_every_pair_once_and_cross_no_head(count, heads, width, processors):
    """As linear.cu loads them: `box_rows` at a time, 8 of a head's first half and 8 of its second in turns."""
    rows = (heads[0] + 2 * heads[1]) * width
    tile = choose("rotated", count, rows, 4096, processors, width)
    plain = choose("plain", count, rows, 4096, processors)
    assert (tile.rows, tile.used, tile.tokens, tile.stages) == (plain.rows, plain.used, plain.tokens, plain.stages)
    assert (tile.loaders, tile.share, tile.tall, tile.split, tile.lasting) == (plain.loaders, plain.share, 1, 1, False)
    own = tile.used // (2 if tile.share else 1)
    assert own % tile.box_rows == 0
    turns = width // 16
    seen: list[tuple[int, int]] = []
    for row in range(0, tile.grid(count, rows)[1] * tile.used, tile.box_rows):
        head, first = divmod(row // 16, turns)
        boxed = [(head, octet) for octet in range(first, first + tile.box_rows // 16)]
        assert all(octet < turns for _, octet in boxed)
        seen += boxed
    assert len(seen) == len(set(seen))
    assert {place for place in seen if place[0] * width < rows} == {
        (head, octet) for head in range(rows // width) for octet in range(turns)
    }


@pytest.mark.parametrize(("head_dim", "wanted"), [(64, True), (128, True), (96, False), (256, False), (8, False)])
def test_which_heads_are_rotated_where_they_are_computed(head_dim, wanted):
    assert fits_rotated(tiny_shape(head_dim=head_dim)) is wanted


def test_results_pass_through_one_stage_where_blocks_last():
    """The loading threads fill the other stages meanwhile; pairs would have to wait for each other."""
    for kind, rows, inputs in PRODUCTS:
        for tile in tiles(kind, 512, rows, inputs, 132):
            if tile.lasting:
                assert kind != "sum"
                assert not tile.paired
                assert tile.loaders
                assert tile.staging_bytes <= tile.stage_bytes


def test_accumulators_fit_the_registers():
    """Registers go to warps in fours: beyond twelve warps no thread has more than 128, unless loaders lend theirs."""
    for kind, rows, inputs in PRODUCTS:
        for tile in tiles(kind, 512, rows, inputs, 132):
            accumulators = tile.tall * tile.tokens // 2
            lent, even = {2: 232, 3: 152}.get(tile.groups, 0), min(256, 512 // -(-tile.threads // 128))
            assert accumulators <= (lent if tile.loaders == 128 else even) - 28, tile


def test_products_of_the_7b_shape_fill_132_processors():
    for kind, rows, inputs in PRODUCTS:
        across, down = choose(kind, 64, rows, inputs, 132).grid(64, rows)
        assert 126 <= across * down <= 132


@pytest.mark.parametrize(("kind", "rows"), [("rotated", 12288), ("rotated", 6144), ("gated", 22016), ("gated", 28672)])
@pytest.mark.parametrize("count", [64, 112, 144, 160, 208, 256])
def test_no_processor_of_the_usual_models_waits_for_half_of_the_time(kind, rows, count):
    """Rows that the busiest one computes for all tokens, against an even share."""
    tile = choose(kind, count, rows, 4096, 132, 128)
    across, down = tile.grid(count, rows)
    busiest = -(-across * down // 132) * tile.used * tile.tokens
    assert rows * count / 132 > 0.6 * busiest


def test_the_tiles_of_the_7b_shape_are_those_that_were_measured():
    assert choose("rotated", 208, 12288, 4096, 132, 128).used == 192
    assert choose("gated", 208, 22016, 4096, 132).used == 192
    assert choose("gated", 112, 22016, 4096, 132).used == 176


def test_gate_and_up_take_the_tile_whose_busiest_processor_has_less_to_do():
    assert choose("gated", 400, 22016, 4096, 132).lasting
    assert choose("gated", 400, 37888, 3584, 132).share


def test_long_prompts_need_no_tile_that_short_ones_do_not():
    for kind, rows, inputs in PRODUCTS:
        known = set(tiles(kind, 512, rows, inputs, 132))
        assert {choose(kind, count, rows, inputs, 132) for count in range(513, 4097)} <= known


@pytest.mark.parametrize(
    ("rows", "inputs", "wanted"), [(12288, 4096, True), (100, 4096, False), (64, 64, False), (64, 1004, False)]
)
def test_what_fits(rows, inputs, wanted):
    assert fits(rows, inputs) is wanted
