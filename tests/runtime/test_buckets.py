"""Bucket edges: exact for every policy, and refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.buckets import POLICIES, Buckets, GraphOptions
from tests.runtime.llamas import GRAPH

RULE = GRAPH["adaptive"]


def options(**changes: Any) -> GraphOptions:
    return GraphOptions(**GRAPH | {"largest": 512, "max_graphs": 50} | changes)


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
        ({"buckets": [10, 400]}, 50, (10, 50)),
        ({"buckets": "adaptive"}, 512, (8, 16, 32, 64, 128, 256, 512)),
        ({"buckets": "adaptive", "pinned": [100, 12]}, 80, (8, 12, 16, 32, 64, 80)),
        ({"buckets": "adaptive", "largest": 5}, 512, (5,)),
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
        edges = buckets.edges
        edge = buckets.of(length)
        assert edge == min(candidate for candidate in edges if candidate >= length)
        if policy == "step":
            assert edge - length < step
        elif policy == "exact":
            assert edge == length
    assert buckets.of(end + 1) is None


@given(edges=st.lists(st.integers(1, 512), min_size=1), capacity=st.integers(1, 600))
def test_a_list_is_sorted_and_lowered_to_the_cache(edges, capacity):
    assert options(buckets=edges).make(capacity).edges == tuple(sorted({min(edge, capacity) for edge in edges}))


@given(edges=st.lists(st.integers(1, 600), min_size=1), largest=st.integers(1, 599))
def test_an_edge_above_the_largest_is_refused_never_cut(edges, largest):
    if max(edges) <= largest:
        assert options(buckets=edges, largest=largest).make(600).edges[-1] == max(edges)
        return
    with pytest.raises(ValueError, match=rf"^graph\.buckets holds {max(edges)}, above graph\.largest={largest}: raise"):
        options(buckets=edges, largest=largest)


@pytest.mark.parametrize(
    ("initial", "pinned", "captured"),
    [
        ("all", [], (16, 32, 48, 50)),
        ("none", [], ()),
        ("none", [32, 64], (32, 50)),
        ([48], [], (48,)),
        ([48, 16], [32], (16, 32, 48)),
        ([], [], ()),
    ],
)
def test_what_is_captured_before_the_first_request(initial, pinned, captured):
    asked = options(initial=initial, pinned=pinned)
    assert asked.initial_edges(50) == captured
    assert set(asked.pinned_edges(50)) <= set(captured)
    assert set(captured) <= set(asked.make(50).edges)


@pytest.mark.parametrize("name", ["pinned", "initial"])
def test_a_length_that_is_no_edge_can_be_neither_pinned_nor_captured_first(name):
    with pytest.raises(ValueError, match=rf"^graph\.{name} holds 24, which is no bucket edge up to graph\.largest=512"):
        options(**{name: [16, 24]})
    with pytest.raises(ValueError, match=rf"^graph\.{name} holds 528, which is no bucket edge"):
        options(**{name: [528]})


def test_more_pinned_than_the_cap_are_refused():
    with pytest.raises(ValueError, match=r"^graph\.pinned holds 3 lengths but graph\.max_graphs is 2: pin fewer, or"):
        options(pinned=[16, 32, 48], max_graphs=2)
    assert options(pinned=[16, 32, 16], max_graphs=2).pinned_edges(512) == (16, 32)


@pytest.mark.parametrize("key", ["step", "largest", "max_graphs", "capture_attempts"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "16", True, None])
def test_sizes_are_whole_numbers_of_at_least_1(key, value):
    with pytest.raises(ValueError, match=rf"^graph\.{key} must be a whole number of at least 1, not {value!r}$"):
        options(**{key: value})


@pytest.mark.parametrize("value", [0, -1, "64", True, float("inf"), float("nan")])
def test_the_cap_in_bytes_is_a_number_above_0_or_null(value):
    with pytest.raises(ValueError, match=r"^graph\.max_mib must be a number above 0, or null for no cap, not "):
        options(max_mib=value)
    assert options(max_mib=1.5).max_bytes == 1572864
    assert options().max_bytes is None


@pytest.mark.parametrize(("key", "allowed"), [("capture", "background or blocking"), ("beyond", "chunks or ungraphed")])
@pytest.mark.parametrize("value", ["", "other", None, True, ["chunks"]])
def test_words_are_one_of_those_allowed(key, allowed, value):
    with pytest.raises(ValueError, match=rf"^graph\.{key} must be {allowed}, not "):
        options(**{key: value})


@pytest.mark.parametrize("value", ["true", 1, None])
def test_the_shared_pool_is_true_or_false(value):
    with pytest.raises(ValueError, match=rf"^graph\.shared_pool must be true or false, not {value!r}$"):
        options(shared_pool=value)


@pytest.mark.parametrize("value", ["16", 0, -1, 1.5, True])
def test_executables_are_a_whole_number_or_null(value):
    with pytest.raises(ValueError, match=r"^graph\.executables must be a whole number of at least 1, not "):
        options(executables=value)
    assert options(executables=16).executables == 16


@pytest.mark.parametrize("value", ["steps", "", "STEP"])
def test_unknown_policies_are_refused(value):
    with pytest.raises(ValueError, match=rf"must be step, pow2, exact, adaptive or a list of lengths, not {value!r}$"):
        options(buckets=value)


@pytest.mark.parametrize("value", [[], [0], [10, -1], [10, "x"], [1.5], [10, True]])
def test_a_list_holds_lengths(value):
    with pytest.raises(ValueError, match=r"graph\.buckets as a list must hold lengths of at least 1, not \["):
        options(buckets=value)


@pytest.mark.parametrize("name", ["pinned", "initial"])
@pytest.mark.parametrize("value", [[0], [16, "x"], 16, None])
def test_chosen_edges_are_a_list_of_lengths(name, value):
    with pytest.raises(ValueError, match=rf"graph\.{name} as a list must hold lengths of at least 1, not "):
        options(**{name: value})


@pytest.mark.parametrize("value", [None, 7, {"a": 1}])
def test_what_is_no_policy_and_no_list_is_refused(value):
    with pytest.raises(ValueError, match=r"graph\.buckets must be step, pow2, exact, adaptive or a list of lengths"):
        options(buckets=value)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (None, "graph.adaptive has the keys window, every, ms_per_token, capture_ms, not None"),
        ({"window": 5}, "graph.adaptive has the keys window, every"),
        ({**RULE, "window": 0}, "graph.adaptive.window must be a whole number of at least 1, not 0"),
        ({**RULE, "every": 600}, "graph.adaptive.every is 600 but must not be above graph.adaptive.window=512"),
        ({**RULE, "ms_per_token": 0}, "graph.adaptive.ms_per_token must be a number above 0, not 0"),
        ({**RULE, "capture_ms": "x"}, "graph.adaptive.capture_ms must be a number above 0, not 'x'"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(rule, sentence):
    with pytest.raises(ValueError) as raised:
        options(adaptive=rule)
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize("keys", [{"buckets": "step"}, {**GRAPH, "max_graph": 3}])
def test_missing_and_unknown_keys_are_refused(keys):
    with pytest.raises(ValueError, match="graph has the keys buckets, step, largest, max_graphs, max_mib, pinned, "):
        GraphOptions.read({"graph": keys})
