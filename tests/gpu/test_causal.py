"""Prefill attention against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cases.runtime.llama import rotary_tables
from cases.runtime.plain import rotate
from tests.gpu.support import assert_near, poison_allocator, randn
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.kernels.causal import CausalTile, attend_rows

pytestmark = pytest.mark.gpu

CAPACITY = 512


def check(
    rows: int,
    heads: int,
    kv_heads: int,
    width: int,
    dtype: torch.dtype,
    tile: CausalTile | None = None,
    position: int = 0,
) -> None:
    shape = tiny_shape(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=width)
    tables = rotary_tables(shape, CAPACITY, "cuda")
    end = position + rows
    keys, values = (randn(kv_heads, CAPACITY, width, dtype=dtype) for _ in range(2))
    for cache in (keys, values):
        cache[:, end:] = float("nan")
    qkv = randn(rows, shape.query_size + 2 * shape.key_value_size, dtype=dtype)
    qkv[:, shape.query_size :] = float("nan")
    words = torch.tensor([position, rows - 1], device="cuda")
    poison_allocator(rows * shape.query_size * dtype.itemsize)
    found = attend_rows(qkv, words, tables, (keys, values), shape, tile)
    angles = (table[position:end] for table in tables)
    queries = rotate(qkv[:, : shape.query_size].view(rows, heads, width).float(), *angles)
    places = torch.arange(end, device="cuda")
    expected = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None].double(),
        keys[None, :, :end].double(),
        values[None, :, :end].double(),
        attn_mask=places <= places[position:, None],
        enable_gqa=heads != kv_heads,
    )
    # The softmax weights are rounded to the dtype before they meet the values.
    assert_near(found.view(rows, heads, width), expected[0].transpose(0, 1), factor=6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(32, 32, 128), (32, 8, 128), (4, 2, 32), (6, 3, 64)])
@pytest.mark.parametrize("rows", [1, 2, 10, 16, 31, 63, 64, 65, 127, 128, 129, 300, 400, 512])
def test_every_row_attends_to_those_before_it(rows, heads, kv_heads, width, dtype):
    check(rows, heads, kv_heads, width, dtype)


@pytest.mark.parametrize("tile", [CausalTile(16, 32, 4, 2), CausalTile(32, 128, 4, 1), CausalTile(128, 64, 8, 3)])
@pytest.mark.parametrize("rows", [1, 47, 300])
def test_the_tile_changes_nothing(tile, rows):
    check(rows, 32, 8, 128, torch.float16, tile)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(32, 8, 128), (4, 2, 32)])
@pytest.mark.parametrize("rows", [1, 16, 63, 64, 100, 128])
@pytest.mark.parametrize("position", [1, 15, 16, 63, 64, 65, 128, 200, 384])
def test_rows_behind_the_first_position_attend_to_all_before_them(position, rows, heads, kv_heads, width):
    check(rows, heads, kv_heads, width, torch.float16, position=position)


@pytest.mark.parametrize("tile", [CausalTile(16, 32, 4, 2), CausalTile(32, 128, 4, 1), CausalTile(128, 64, 8, 3)])
def test_the_tile_changes_nothing_behind_the_first_position_either(tile):
    check(77, 32, 8, 128, torch.float16, tile, position=130)
