"""The contract of harness/contract.py, held by every case of conf/case and by the fake, over both transports.

A new case is here as soon as its yaml is. On the CPU, with a tiny checkpoint: what is checked is behaviour, not speed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import subprocess
import sys
from array import array

import pytest

from harness.contract import (
    CaptureRecord,
    Case,
    Eviction,
    Footprint,
    Identity,
    Sampling,
    SetUp,
    Stats,
    Unavailable,
    Unsupported,
)
from harness.loader import load_case
from tests.entries import (
    ABSENT,
    CONFIGURED,
    CONTEXT,
    EVERY,
    FORCED,
    PRESENT,
    REFUSALS,
    ROOT,
    TRANSPORTS,
    VOCABULARY,
    Entry,
    by_name,
    generate,
    is_token,
    likeliest,
    over_transports,
    prompt,
)  # fmt: skip


@pytest.fixture(scope="module", params=over_transports(PRESENT))
def ready(request, tiny_checkpoint):
    """A prepared case, shared by the tests of one case and transport, and its transport."""
    entry, transport = request.param
    with entry.there():
        case = entry.new(transport)
        try:
            assert isinstance(case.prepare(entry.plan(tiny_checkpoint)), SetUp)
            yield case, transport
        finally:
            case.close()
            case.close()


@pytest.fixture
def case(ready):
    return ready[0]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 50])
def test_tokens_are_host_integers_of_the_vocabulary(case, length):
    tokens = generate(case, prompt(length), 4)
    assert len(tokens) == 4
    assert all(is_token(token) for token in tokens), tokens


def test_a_request_may_fill_the_context(case):
    tokens = generate(case, prompt(CONTEXT - 12), 12)
    assert all(is_token(token) for token in tokens), tokens


def test_prefill_forgets_the_last_sequence(case):
    first = generate(case, prompt(20), 5)
    other = generate(case, prompt(33, seed=1), 3)
    assert generate(case, prompt(20), 5) == first
    assert generate(case, prompt(33, seed=1), 3) == other


def test_a_request_may_be_left_before_its_last_token(case):
    whole = generate(case, prompt(12), 6)
    case.prefill(prompt(12), 6)
    case.decode()
    assert generate(case, prompt(12), 6) == whole


def test_the_first_token_does_not_depend_on_how_many_follow(case):
    assert case.prefill(prompt(18)) == case.prefill(prompt(18), 7)


def test_decode_continues_the_sequence(case):
    """The token after prompt and first token is the first token after both together."""
    first, second, third = generate(case, prompt(24), 3)
    assert case.prefill([*prompt(24), first]) == second
    assert case.prefill([*prompt(24), first, second]) == third


def test_stats_only_grow(ready):
    case, transport = ready
    seen = [case.stats()]
    for length in (7, 21):
        case.prefill(prompt(length), 3)
        seen.append(case.stats())
        for _ in range(2):
            case.decode()
            seen.append(case.stats())
    assert all(type(stats) is Stats for stats in seen)
    pairs = list(itertools.pairwise(seen))
    assert all(old <= new for before, after in pairs for old, new in zip(before, after, strict=True))
    # The engine's own process has a clock of its own exactly when it is another process; an engine that streams has
    # one of its own everywhere, for the first token and for the request.
    moved = [after.server_ns > before.server_ns for before, after in pairs]
    streamed = [True, False, True] * 2
    local = streamed if case.capabilities.pacing == "push" else [False] * 6
    assert moved == ([True] * 6 if transport == "unix" else local)


def test_scores_are_the_logits_behind_the_greedy_tokens(case):
    if not case.capabilities.logits:
        with pytest.raises(Unsupported):
            case.score(prompt(10), [])
        return
    tokens = generate(case, prompt(19), FORCED + 1)
    rows = case.score(prompt(19), tokens[:FORCED])
    assert [(type(row), row.typecode, len(row)) for row in rows] == [(array, "f", VOCABULARY)] * (FORCED + 1)
    assert all(math.isfinite(value) for row in rows for value in row)
    assert [likeliest(row) for row in rows] == tokens


def test_scoring_follows_the_forced_tokens_and_leaves_requests_alone(case):
    if not case.capabilities.logits:
        pytest.skip("the engine hands out no logits")
    before = generate(case, prompt(19), 3)
    forced = prompt(FORCED, seed=2)
    last = case.score(prompt(19), forced)[-1]
    assert likeliest(last) == case.prefill([*prompt(19), *forced])
    assert len(case.score(prompt(3), [])) == 1
    assert generate(case, prompt(19), 3) == before


def test_a_judgement_is_what_the_scores_say(case):
    if type(case).judge is Case.judge:
        with pytest.raises(Unsupported):
            case.judge(prompt(10), [1])
        return
    before, ids = generate(case, prompt(19), 3), prompt(FORCED + 1, seed=2)
    found = case.judge(prompt(19), ids)
    rows = case.score(prompt(19), ids[:-1])
    assert [one.likeliest for one in found] == [likeliest(row) for row in rows]
    for one, row, token in zip(found, rows, ids, strict=True):
        rms = math.sqrt(sum(value * value for value in row) / len(row))
        assert (one.gap, one.rms) == pytest.approx((max(row) - row[token], rms), rel=1e-3)
    tokens = generate(case, prompt(19), FORCED)
    assert [one[:2] for one in case.judge(prompt(19), tokens)] == [(token, 0.0) for token in tokens]
    assert case.judge(prompt(19), []) == []
    assert generate(case, prompt(19), 3) == before


def test_counters_of_graphs_add_up(case):
    before = case.stats()
    for length in (4, 17, 33):
        case.prefill(prompt(length), 2)
        case.decode()
    after = case.stats()
    assert after.begun >= after.captures + after.failures
    answered = after.hits - before.hits + after.misses - before.misses
    assert answered in (0, 3), "either every prefill of these is counted, or the case has no graphs"
    assert after.replays - before.replays >= after.hits - before.hits


def test_captures_are_records_of_what_stats_counts(ready):
    case, transport = ready
    if transport == "unix" and type(case).captured is Case.captured:
        pytest.skip("this transport does not carry them")
    records, stats = case.captured(), case.stats()
    assert all(type(record) is CaptureRecord for record in records)
    assert len(records) in (0, stats.captures + stats.failures)
    assert all(record.bucket >= 0 and record.seconds >= 0 and record.grown_bytes >= 0 for record in records)


def test_an_identity_shows_what_ran_and_leaves_requests_alone(ready):
    case, _ = ready
    before = generate(case, prompt(19), 4)
    found = case.identity(prompt(10))
    assert type(found) is Identity
    if found.unproven:
        assert (found.activity, found.kernels) == ("none", ())
    else:
        assert found.activity == "cpu", "on this machine"
        assert {kernel.phase for kernel in found.kernels} <= {"prefill", "decode"}
        assert any(kernel.name.startswith("aten::") for kernel in found.kernels)
        assert found.modules["torch"]
        assert found.sampler.startswith("greedy by ")
    assert found.launches == 0
    assert generate(case, prompt(19), 4) == before


def test_an_eviction_is_measured_or_refused_and_requests_go_on(ready):
    case, transport = ready
    if transport == "unix" and type(case).evict is Case.evict:
        pytest.skip("this transport does not carry it")
    expected = generate(case, prompt(26), 4)
    found: Eviction | None = None
    with contextlib.suppress(Unsupported):
        found = case.evict()
    if found is not None:
        assert type(found) is Eviction
        assert found.graphs >= 1
        assert case.footprint().graphs == 0
    assert generate(case, prompt(26), 4) == expected
    assert generate(case, prompt(26), 4) == expected


def test_another_sampling_holds_from_the_next_request_on_or_is_refused(ready):
    case, transport = ready
    if transport == "unix" and type(case).use is Case.use:
        pytest.skip("this transport does not carry it")
    greedy = generate(case, prompt(14), 8)
    sampling = Sampling("sample", temperature=1.5, top_k=50, top_p=0.9, seed=4)
    try:
        case.use(sampling)
    except Unsupported:
        assert generate(case, prompt(14), 8) == greedy
        return
    first = generate(case, prompt(14), 8)
    assert first != greedy
    assert generate(case, prompt(14), 8) == first
    with pytest.raises(ValueError, match="temperature"):
        case.use(dataclasses.replace(sampling, temperature=0.0))
    assert generate(case, prompt(14), 8) == first
    case.use(Sampling())
    assert generate(case, prompt(14), 8) == greedy


def test_the_footprint_is_whole_numbers(case):
    footprint = case.footprint()
    assert type(footprint) is Footprint
    assert all(type(value) is int and value >= 0 for value in footprint)


def test_both_transports_give_the_same_tokens(ready, tiny_checkpoint, request):
    case, transport = ready
    if transport == "inproc":
        pytest.skip("compared when the other transport is at hand")
    entry = request.node.callspec.params["ready"][0]
    local = entry.new("inproc")
    try:
        local.prepare(entry.plan(tiny_checkpoint))
        assert generate(case, prompt(30), 6) == generate(local, prompt(30), 6)
    finally:
        local.close()


@pytest.mark.parametrize("entry", by_name(EVERY))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_close_is_legal_before_prepare(entry, transport):
    case = entry.new(transport)
    case.close()
    case.close()
    assert case.stats() == Stats()


@pytest.mark.parametrize("entry", by_name(CONFIGURED))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_close_is_legal_after_a_failed_prepare(entry, transport, tmp_path):
    case = entry.new(transport)
    with pytest.raises(REFUSALS) as raised:
        case.prepare(entry.plan(str(tmp_path / "missing")))
    case.close()
    case.close()
    assert str(raised.value)


def sampled(entry: Entry, checkpoint: str, seed: int) -> list[list[int]]:
    """The same request twice, by a new case."""
    with entry.there():
        case = entry.new("inproc")
        try:
            case.prepare(entry.plan(checkpoint, Sampling("sample", temperature=1.5, top_k=50, top_p=0.9, seed=seed)))
            return [generate(case, prompt(14), 8) for _ in range(2)]
        finally:
            case.close()


@pytest.mark.parametrize("entry", by_name(PRESENT))
def test_a_sampler_is_seeded_or_refused_never_replaced(entry, tiny_checkpoint):
    samplers = load_case(entry.target).capabilities.samplers
    assert samplers <= {"greedy", "sample"}
    if "sample" not in samplers:
        with pytest.raises(Unsupported, match="sample"):
            sampled(entry, tiny_checkpoint, 3)
        return
    first, again = sampled(entry, tiny_checkpoint, 3)
    assert all(is_token(token) for token in first), first
    assert first == again, "every request begins with the plan's seed"
    assert first != sampled(entry, tiny_checkpoint, 4)[0]


@pytest.mark.parametrize("entry", by_name(ABSENT))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_engine_that_is_not_here_says_so(entry, transport, tiny_checkpoint):
    case = entry.new(transport)
    try:
        with pytest.raises(Unavailable, match=r"\w+ \w+"):
            case.prepare(entry.plan(tiny_checkpoint))
    finally:
        case.close()


@pytest.mark.parametrize("entry", by_name(CONFIGURED))
def test_a_case_takes_the_options_of_its_yaml(entry):
    load_case(entry.target).check_options(entry.options)
    assert isinstance(load_case(entry.target).capabilities.samplers, frozenset)


def test_naming_the_cases_imports_nothing_heavy():
    targets = [entry.target for entry in CONFIGURED]
    heavy = ("torch", "transformers", "tensorrt_llm", "vllm", "triton", "numpy")
    code = (
        "import sys; from harness.loader import load_case\n"
        f"for target in {targets!r}: load_case(target)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
