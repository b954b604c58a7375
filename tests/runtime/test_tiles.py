"""The tiles of the prefill's products: they fit the GPU, and they cover every row and token once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.kernels.hopper.tiles import SHARED_BYTES, WIDEST, Tile, choose, fits, tiles

KINDS = ("plain", "sum", "gated")
ROWS = {"plain": 12288, "sum": 4096, "gated": 22016}


@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(2, 4096),
    rows=st.integers(1, 4096).map(lambda n: 16 * n),
    processors=st.sampled_from([66, 114, 132]),
)
def test_a_tile_fits_the_gpu_and_covers_the_product(kind, count, rows, processors):
    tile = choose(kind, count, rows, processors)
    assert tile.tokens % 8 == 0
    assert 8 <= tile.tokens <= WIDEST
    assert tile.rows % 64 == 0
    assert 0 < tile.used <= tile.rows
    assert tile.used % (32 if tile.share and kind == "gated" else 16) == 0
    assert tile.stages >= 3
    assert tile.shared_bytes <= SHARED_BYTES - 512
    assert tile.threads <= 512
    across, down = tile.grid(count, rows)
    if tile.share:
        across, down = down, across
        assert down % 2 == 0
    assert (across // tile.split) * tile.used >= rows
    assert down * tile.tokens >= count
    assert not tile.paired or tile.grid(count, rows)[0] % 2 == 0


def test_accumulators_leave_room_for_the_loading_warp():
    """Registers go to warps in fours: beyond twelve warps no thread has more than 128."""
    for kind in KINDS:
        for tile in tiles(kind, 512, ROWS[kind], 132):
            accumulators = tile.tokens // 2
            assert accumulators <= (72 if tile.threads > 384 else 128), tile


def test_the_7b_shape_fills_132_processors():
    def blocks(tile: Tile, count: int, rows: int) -> int:
        across, down = tile.grid(count, rows)
        return across * down

    for kind, least in (("plain", 126), ("sum", 126), ("gated", 126)):
        assert least <= blocks(choose(kind, 64, ROWS[kind], 132), 64, ROWS[kind]) <= 132


def test_long_prompts_need_no_tile_that_short_ones_do_not():
    for kind in KINDS:
        known = set(tiles(kind, 512, ROWS[kind], 132))
        assert {choose(kind, count, ROWS[kind], 132) for count in range(513, 4097)} <= known


@pytest.mark.parametrize(
    ("rows", "inputs", "wanted"), [(12288, 4096, True), (100, 4096, False), (64, 64, False), (64, 1004, False)]
)
def test_what_fits(rows, inputs, wanted):
    assert fits(rows, inputs) is wanted
