"""Bucket edges: exact for every policy, and refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.buckets import POLICIES, Buckets, GraphOptions


def options(**changes: Any) -> GraphOptions:
    return GraphOptions(**{"buckets": "step", "step": 16, "largest": 512, "max_graphs": 50} | changes)


@pytest.mark.parametrize(
    ("changes", "capacity", "edges"),
    [
        ({}, 512, tuple(range(16, 513, 16))),
        ({"largest": 40}, 512, (16, 32, 40)),
        ({"largest": 32}, 512, (16, 32)),
        ({"largest": 512}, 50, (16, 32, 48, 50)),
        ({"largest": 5}, 512, (5,)),
        ({"step": 1, "largest": 3}, 512, (1, 2, 3)),
        ({"buckets": "exact", "largest": 4}, 512, (1, 2, 3, 4)),
        ({"buckets": "exact", "largest": 400}, 3, (1, 2, 3)),
        ({"buckets": "pow2", "largest": 100}, 512, (1, 2, 4, 8, 16, 32, 64, 100)),
        ({"buckets": "pow2", "largest": 64}, 512, (1, 2, 4, 8, 16, 32, 64)),
        ({"buckets": "pow2", "largest": 1}, 512, (1,)),
        ({"buckets": [400, 10, 50, 10]}, 512, (10, 50, 400)),
        ({"buckets": [10, 50, 400]}, 50, (10, 50)),
    ],
)
def test_the_edges_of_each_policy(changes, capacity, edges):
    assert options(**changes).make(capacity).edges == edges


def test_a_prompt_gets_the_first_edge_that_holds_it():
    buckets = Buckets((16, 32, 40))
    assert [buckets.of(length) for length in (1, 15, 16, 17, 32, 33, 40)] == [16, 16, 16, 32, 32, 40, 40]
    assert buckets.of(41) is None


@given(
    policy=st.sampled_from(POLICIES),
    step=st.integers(1, 100),
    largest=st.integers(1, 600),
    capacity=st.integers(1, 600),
)
def test_every_length_up_to_the_largest_has_the_least_edge_that_holds_it(policy, step, largest, capacity):
    buckets = options(buckets=policy, step=step, largest=largest).make(capacity)
    end = min(largest, capacity)
    assert list(buckets.edges) == sorted(set(buckets.edges))
    assert buckets.edges[-1] == end
    for length in range(1, end + 1):
        edge = buckets.of(length)
        assert edge == min(candidate for candidate in buckets.edges if candidate >= length)
        if policy == "step":
            assert edge - length < step
        elif policy == "exact":
            assert edge == length
    assert buckets.of(end + 1) is None


@given(edges=st.lists(st.integers(1, 600), min_size=1), capacity=st.integers(1, 600))
def test_a_list_is_sorted_and_cut_to_the_cache(edges, capacity):
    fitting = sorted({edge for edge in edges if edge <= min(512, capacity)})
    if fitting:
        assert options(buckets=edges).make(capacity).edges == tuple(fitting)
    else:
        with pytest.raises(ValueError, match=r"graph\.buckets holds no length up to"):
            options(buckets=edges).make(capacity)


@pytest.mark.parametrize("key", ["step", "largest", "max_graphs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "16", True, None])
def test_sizes_are_whole_numbers_of_at_least_1(key, value):
    with pytest.raises(ValueError, match=rf"^graph\.{key} must be a whole number of at least 1, not {value!r}$"):
        options(**{key: value})


@pytest.mark.parametrize("value", ["steps", "", "STEP"])
def test_unknown_policies_are_refused(value):
    with pytest.raises(ValueError, match=rf"must be step, pow2, exact or a list of lengths, not {value!r}$"):
        options(buckets=value)


@pytest.mark.parametrize("value", [[], [0], [10, -1], [10, "x"], [1.5], [10, True]])
def test_a_list_holds_lengths(value):
    with pytest.raises(ValueError, match=r"graph\.buckets as a list must hold lengths of at least 1, not \["):
        options(buckets=value)


@pytest.mark.parametrize("value", [None, 7, {"a": 1}])
def test_what_is_no_policy_and_no_list_is_refused(value):
    with pytest.raises(ValueError, match=r"graph\.buckets must be step, pow2, exact or a list of lengths, not "):
        options(buckets=value)


@pytest.mark.parametrize("keys", [{"buckets": "step"}, {"buckets": "step", "step": 1, "largest": 2, "max_graph": 3}])
def test_missing_and_unknown_keys_are_refused(keys):
    with pytest.raises(ValueError, match="graph has keys buckets, step, largest and max_graphs"):
        GraphOptions.read({"graph": keys})
