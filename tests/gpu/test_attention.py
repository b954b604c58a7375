"""Decode attention against float64, over contexts around every edge of blocks and splits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases.runtime.llama import rotary_tables
from cases.runtime.plain import rotate
from cases.runtime.shape import LlamaShape
from tests.gpu.support import assert_near, poison_allocator, randn
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.kernels.attention import Scratch, attend_one

pytestmark = pytest.mark.gpu

BEFORE = [0, 1, 2, 31, 32, 63, 64, 65, 300, 511]
"""Tokens before the one that attends; with it they are one more, and 512 fill the cache."""
CAPACITY = 512
HEADS = [(32, 32, 128), (32, 8, 128), (4, 2, 32), (6, 3, 64), (8, 1, 64)]
DTYPES = [torch.float16, torch.float32]
NAN = float("nan")


def shape_of(heads: int, kv_heads: int, width: int) -> LlamaShape:
    return tiny_shape(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=width)


def new_cache(shape: LlamaShape, filled: int, dtype: torch.dtype, capacity: int = CAPACITY) -> tuple[Tensor, Tensor]:
    """Keys and values: `filled` random positions, NaN behind them."""
    caches = [randn(shape.num_key_value_heads, capacity, shape.head_dim, dtype=dtype) for _ in range(2)]
    for cache in caches:
        cache[:, filled:] = NAN
    return caches[0], caches[1]


def attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of one token, in float64: query [heads, width] over [key-value heads, seen, width], to [heads, width]."""
    group = query.shape[0] // keys.shape[0]
    keys, values = (x.double().repeat_interleave(group, dim=0) for x in (keys, values))
    scores = torch.einsum("hd,hsd->hs", query.double(), keys) / query.shape[1] ** 0.5
    return torch.einsum("hs,hsd->hd", scores.softmax(-1), values)


def new_rows(shape: LlamaShape, count: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Queries, keys and values, not rotated; of all but a fresh row only the queries are read."""
    rows = randn(count, shape.query_size + 2 * shape.key_value_size, dtype=dtype)
    rows[:, shape.query_size :] = NAN
    return rows


def rotated_query(rows: Tensor, row: int, shape: LlamaShape) -> Tensor:
    """The query of one row at the position of its number: [heads, width], float32."""
    query = rows[row : row + 1, : shape.query_size].view(1, -1, shape.head_dim).float()
    return rotate(query, *(table[row : row + 1] for table in rotary_tables(shape, CAPACITY, "cuda")))[0]


def words_of(position: int, last: int) -> Tensor:
    return torch.tensor([position, last, 1], device="cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), HEADS)
@pytest.mark.parametrize("before", BEFORE)
def test_a_fresh_token_is_rotated_cached_and_attends(heads, kv_heads, width, before, dtype):
    shape = shape_of(heads, kv_heads, width)
    tables = rotary_tables(shape, CAPACITY, "cuda")
    keys, values = new_cache(shape, before, dtype)
    kept_keys, kept_values = keys.clone(), values.clone()
    row = randn(1, (heads + 2 * kv_heads) * width, dtype=dtype)
    scratch = Scratch.make(shape, "cuda")
    poison_allocator(heads * width * dtype.itemsize)
    found = attend_one(row, words_of(before, 0), tables, (keys, values), scratch, shape, fresh=True)

    query, key, value = (
        part.view(1, -1, width) for part in row.split((heads * width, kv_heads * width, kv_heads * width), dim=-1)
    )
    angles = [table[before : before + 1] for table in tables]
    query, key = (rotate(part.float(), *angles)[0] for part in (query, key))
    assert_near(keys[:, before], key)
    assert torch.equal(values[:, before], value[0])
    for cache, kept in ((keys, kept_keys), (values, kept_values)):
        assert torch.equal(cache[:, :before], kept[:, :before]), "what was cached has changed"
        assert cache[:, before + 1 :].isnan().all(), "written behind the token"
    seen_keys = torch.cat([kept_keys[:, :before].float(), key.unsqueeze(1)], dim=1)
    expected = attention(query, seen_keys, values[:, : before + 1])
    assert found.shape == (1, heads * width)
    assert_near(found.view(heads, width), expected, factor=2)
    assert not scratch.arrived.any(), "the counters are not ready for the next call"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), HEADS)
@pytest.mark.parametrize("before", BEFORE)
def test_the_last_real_row_of_a_prefill_attends_over_the_cache(heads, kv_heads, width, before, dtype):
    """Padding behind it, in the rows and in the cache, is not read."""
    shape = shape_of(heads, kv_heads, width)
    cache = new_cache(shape, before + 1, dtype)
    rows = new_rows(shape, min(CAPACITY, before + 17), dtype)
    rows[before + 1 :] = NAN
    scratch = Scratch.make(shape, "cuda")
    poison_allocator(heads * width * dtype.itemsize)
    tables = rotary_tables(shape, CAPACITY, "cuda")
    found = attend_one(rows, words_of(0, before), tables, cache, scratch, shape, fresh=False)
    expected = attention(rotated_query(rows, before, shape), *(part[:, : before + 1] for part in cache))
    assert_near(found.view(heads, width), expected, factor=2)
    assert not scratch.arrived.any()


@pytest.mark.parametrize("capacity", [407, 520, 1024])
def test_the_capacity_of_the_cache_changes_nothing(capacity):
    shape = shape_of(32, 8, 128)
    keys, values = new_cache(shape, 301, torch.float16, capacity)
    rows = new_rows(shape, 301)
    tables = rotary_tables(shape, capacity, "cuda")
    scratch = Scratch.make(shape, "cuda")
    found = attend_one(rows, words_of(0, 300), tables, (keys, values), scratch, shape, fresh=False)
    assert_near(
        found.view(32, 128), attention(rotated_query(rows, 300, shape), keys[:, :301], values[:, :301]), factor=2
    )


def test_one_score_may_outweigh_all_others():
    """The running maximum must be right in every part and in the merge."""
    shape = shape_of(8, 8, 64)
    keys, values = new_cache(shape, 300, torch.float32)
    rows = new_rows(shape, 300, torch.float32)
    query = rotated_query(rows, 299, shape)
    for head in range(8):
        keys[head, 37 * head] = 20 * query[head]
    tables, scratch = rotary_tables(shape, CAPACITY, "cuda"), Scratch.make(shape, "cuda")
    found = attend_one(rows, words_of(0, 299), tables, (keys, values), scratch, shape, fresh=False).view(8, 64)
    assert_near(found, torch.stack([values[head, 37 * head] for head in range(8)]))


def test_the_same_input_gives_the_same_bits_whatever_order_the_programs_arrive_in():
    shape = shape_of(32, 8, 128)
    cache = new_cache(shape, 301, torch.float16)
    rows = new_rows(shape, 301)
    tables, scratch = rotary_tables(shape, CAPACITY, "cuda"), Scratch.make(shape, "cuda")
    arguments = (rows, words_of(0, 300), tables, cache, scratch, shape)
    first = attend_one(*arguments, fresh=False).clone()
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(500):
        differing += (attend_one(*arguments, fresh=False) != first).sum()
    assert differing.item() == 0
