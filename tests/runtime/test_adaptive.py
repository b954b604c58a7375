"""Adaptive buckets: the dynamic programme against every set of edges there is, the rule by hand, no clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.runtime.adaptive import TILE, AdaptiveBuckets, Rule, best_edges, padding, review

RULE = Rule(window=64, every=16, ms_per_token=1.0, capture_ms=20.0)


def every_set(candidates: set[int], fixed: frozenset[int], size: int) -> list[tuple[int, ...]]:
    free = sorted(candidates - fixed)
    missing = size - len(fixed)
    return (
        [tuple(sorted(fixed | set(chosen))) for chosen in itertools.combinations(free, missing)] if missing >= 0 else []
    )


@settings(max_examples=60, deadline=None)
@given(
    weights=st.dictionaries(st.integers(1, 70), st.integers(1, 20).map(float), min_size=1, max_size=9),
    pinned=st.sets(st.integers(1, 9).map(lambda place: place * TILE), max_size=2),
    most=st.integers(1, 6),
)
def test_the_programme_finds_the_least_padding_of_all_sets_of_edges(weights, pinned, most):
    """Brute force over all multiples of 8, not over the programme's own candidates."""
    fixed = frozenset({75, *pinned})
    found = {len(edges): edges for edges in best_edges(weights, fixed, most)}
    for size in range(1, most + 1):
        sets = every_set({place * TILE for place in range(1, 10)} | {75}, fixed, size)
        if size not in found:
            reachable = {min(-(-length // TILE) * TILE, 75) for length in weights} | fixed
            assert not sets or size > len(reachable), "a number of edges was left out"
            continue
        assert fixed <= set(found[size])
        assert all(edge % TILE == 0 or edge == 75 for edge in found[size])
        assert padding(weights, found[size]) == min(padding(weights, edges) for edges in sets)


def test_padding_is_tokens_behind_each_length():
    assert padding({3: 2.0, 8: 5.0, 9: 1.0}, (8, 16)) == 2 * 5 + 0 + 7


def test_new_edges_are_adopted_where_they_save_more_than_their_capture():
    """40 requests of 33 tokens padded to 64 waste 31 each, in an edge of 40 only 7."""
    fixed = frozenset({64})
    cheap = Rule(window=40, every=40, ms_per_token=0.1, capture_ms=95.0)
    dear = Rule(window=40, every=40, ms_per_token=0.1, capture_ms=97.0)
    assert review({33: 40.0}, (32, 64), fixed, 8, cheap) == (40, 64)
    assert review({33: 40.0}, (32, 64), fixed, 8, dear) == (32, 64)


def test_the_saving_is_counted_over_the_window_whatever_was_seen():
    fixed = frozenset({64})
    short = Rule(window=2, every=2, ms_per_token=1.0, capture_ms=50.0)
    long = Rule(window=3, every=3, ms_per_token=1.0, capture_ms=50.0)
    for seen in (1.0, 100.0):
        assert review({33: seen}, (64,), fixed, 8, short) == (64,)
        assert review({33: seen}, (64,), fixed, 8, long) == (40, 64)


def test_only_edges_worth_their_own_capture_are_taken():
    """Two lengths, one seen often: the seldom one keeps the large bucket."""
    rule = Rule(window=100, every=100, ms_per_token=0.1, capture_ms=30.0)
    assert review({8: 98.0, 24: 2.0}, (64,), frozenset({64}), 8, rule) == (8, 64)


def test_an_edge_that_is_there_costs_nothing():
    rule = Rule(window=100, every=100, ms_per_token=0.1, capture_ms=1e9)
    assert review({8: 50.0, 60: 50.0}, (8, 64), frozenset({64}), 2, rule) == (8, 64)


@given(lengths=st.lists(st.integers(1, 200), max_size=120), most=st.integers(1, 5), pin=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_length_has_a_bucket_at_every_moment_and_fixed_edges_stay(lengths, most, pin):
    fixed = frozenset({200, 48} if pin else {200})
    buckets = AdaptiveBuckets((8, 48, 200), fixed, most, RULE)
    for length in lengths:
        bucket = buckets.of(length)
        assert bucket is not None
        assert bucket >= length
        assert fixed <= set(buckets.edges)
        assert buckets.edges == (8, 48, 200) or len(buckets.edges) <= most
    assert buckets.of(201) is None


def test_the_edges_follow_the_lengths_and_forget_the_old_ones():
    buckets = AdaptiveBuckets((8, 200), frozenset({200}), 3, RULE)
    for _ in range(64):
        buckets.of(50)
    assert buckets.edges == (56, 200)
    for _ in range(640):
        buckets.of(150)
    assert 152 in buckets.edges
    assert buckets.of(150) == 152


def test_the_same_lengths_give_the_same_edges():
    def edges() -> list[tuple[int, ...]]:
        draw, buckets, seen = random.Random(3), AdaptiveBuckets((8, 512), frozenset({512}), 6, RULE), []
        for _ in range(400):
            buckets.of(draw.choice((17, 90, 300, draw.randint(1, 512))))
            seen.append(buckets.edges)
        return seen

    first = edges()
    assert edges() == first
    assert len(set(first)) > 2


def test_a_review_is_handed_away_and_counting_goes_on_meanwhile():
    waiting: list[Callable[[], None]] = []
    buckets = AdaptiveBuckets((8, 200), frozenset({200}), 3, RULE, waiting.append)
    for _ in range(RULE.every):
        buckets.of(50)
    assert buckets.edges == (8, 200)
    assert len(waiting) == 1
    for _ in range(RULE.every - 1):
        buckets.of(120)
    assert len(waiting) == 1
    waiting.pop()()
    assert buckets.edges == (56, 200)


@pytest.mark.parametrize("lengths", [512, 4000])
def test_many_lengths_and_many_edges_are_no_matter(lengths):
    weights = {length: float(1 + length % 7) for length in range(1, lengths + 1)}
    found = list(best_edges(weights, frozenset({lengths}), 50))
    assert len(found) == 50
    paddings = [padding(weights, edges) for edges in found]
    assert paddings == sorted(paddings, reverse=True)
