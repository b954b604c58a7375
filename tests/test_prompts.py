"""Prompts: from the seed alone, each one once."""

import itertools
from dataclasses import replace

import pytest

from harness.measure import prompts


def test_a_prompt_follows_from_seed_purpose_length_and_index(make_job):
    job = make_job()
    ids = prompts.prompt(job, "ttft", 20, 3)
    assert ids == prompts.prompt(make_job(), "ttft", 20, 3)
    others = [("decode", 20, 3), ("ttft", 20, 4)]
    assert all(prompts.prompt(job, *other) != ids for other in others)
    assert prompts.prompt(make_job(seed=12), "ttft", 20, 3) != ids


def test_what_the_harness_does_besides_changes_no_prompt(make_job):
    """Only what names the prompt counts: other iterations, lengths and blocks leave it as it is."""
    other = make_job(prompt_lengths=[20], ttft_iterations=9, blocks=1)
    assert prompts.prompt(make_job(), "ttft", 20, 3) == prompts.prompt(other, "ttft", 20, 3)


@pytest.mark.parametrize("length", [1, 10, 400])
def test_a_prompt_has_the_length_asked_for_and_only_ordinary_ids(make_job, length):
    ids = prompts.prompt(make_job(vocab_size=5), "ttft", length, 0)
    assert len(ids) == length
    assert all(type(token) is int for token in ids)
    assert set(ids) <= {3, 4}


def test_every_ordinary_id_is_drawn(make_job):
    assert set(prompts.prompt(make_job(vocab_size=40), "ttft", 4000, 0)) == set(range(prompts.SPECIAL_IDS, 40))


def test_no_timed_prompt_is_sent_twice(make_job):
    job = make_job(blocks=3, ttft_iterations=50, p99_iterations=50)
    pairs = itertools.product(range(job.sweep.blocks), range(job.sweep.iterations("apart")))
    indices = [prompts.timed_index(job, "apart", block, iteration) for block, iteration in pairs]
    assert sorted(indices) == list(range(150))
    pairs = itertools.product(range(job.sweep.blocks), range(job.sweep.iterations("none")))
    assert sorted(prompts.timed_index(job, "none", *pair) for pair in pairs) == list(range(300))
    sent = {tuple(prompts.prompt(job, "ttft", 10, index)) for index in indices}
    assert len(sent) == 150


def test_the_digest_is_over_every_timed_prompt(make_job):
    digest = prompts.digest(make_job())
    assert digest == prompts.digest(make_job())
    assert len(digest) == 64
    for change in (
        {"seed": 12},
        {"vocab_size": 1023},
        {"blocks": 3},
        {"ttft_iterations": 5},
        {"prompt_lengths": [3, 5]},
    ):
        assert prompts.digest(make_job(**change)) != digest, change
    assert prompts.digest(make_job(decode_sequences=1, warmup_iterations=0)) == digest


def test_the_digest_covers_the_blocks_of_the_case_that_has_most(make_job):
    job = make_job(blocks=2)
    fake = job.cases["fake"]
    more = replace(job, cases={"fake": fake, "other": replace(fake, blocks=3), "last": fake})
    assert prompts.digest(more) == prompts.digest(make_job(blocks=3)) != prompts.digest(job)
    fewer = replace(job, cases={"fake": replace(fake, blocks=1)})
    assert prompts.digest(fewer) == prompts.digest(make_job(blocks=1))


def test_the_published_prompt_is_one_sentence_cut_or_padded_at_its_end(make_job):
    job = make_job()
    job = replace(job, sentence=[1, 45, 46], end_id=2, cases={"fake": replace(job.cases["fake"], prompt="sentence")})
    assert prompts.prompt_for(job, "fake", "ttft", 2, 0) == [1, 45]
    assert prompts.prompt_for(job, "fake", "ttft", 5, 0) == [1, 45, 46, 2, 2]
    assert prompts.prompt_for(job, "fake", "cold", 5, 9) == [1, 45, 46, 2, 2]
    assert prompts.digest(job) != prompts.digest(make_job())
    assert prompts.prompt_for(make_job(), "fake", "ttft", 5, 3) == prompts.prompt(make_job(), "ttft", 5, 3)
