"""Graphs on a GPU: evictions that return memory, caps that hold, captures that fail."""

from __future__ import annotations

import random
import statistics
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.checkpoint import make_random
from cases.runtime.llama import Llama
from tests.gpu.graphs import GROUPED, KINDS, WIDE, drain, generate, prepared, prompt

pytest.importorskip("triton")

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=[WIDE, GROUPED], ids=["7B-like", "grouped"])
def folder(request, tmp_path_factory) -> Path:
    return make_random(request.param, "float16", 5, tmp_path_factory.mktemp("checkpoints"), "random")


@pytest.mark.parametrize(
    "options", [{}, {"shared_pool": False}, {"executables": 4}], ids=["shared", "a pool each", "few instantiated"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_evicting_all_returns_what_the_graphs_held(folder, kind, options):
    """At least 95 % of it, twice, by the device's own count."""
    with prepared(kind, folder, capture="blocking", **options) as case:
        grown = sum(record.grown_bytes for record in case.captured())
        for _ in range(2):
            tokens = generate(case, prompt(100))
            assert case.footprint().graph_pool_bytes > 0
            found = case.evict()
            assert found.graphs >= 2
            assert found.free_after_bytes - found.free_before_bytes >= 0.95 * found.held_bytes, found
            assert case.footprint()[1:] == (0, 0)
            for length in range(512, 0, -16):
                case.prefill(prompt(length))
            assert generate(case, prompt(100)) == tokens
        assert case.footprint().graph_pool_bytes <= 1.5 * grown, "captured anew the graphs hold about the same"
        assert not [record for record in case.captured() if record.reason]


@pytest.mark.parametrize("kind", KINDS)
def test_few_instantiated_graphs_give_the_same_answers_and_hold_less(folder, kind):
    lengths = [*range(1, 513, 31), *range(512, 0, -47)]
    answers, held = {}, {}
    for executables in (None, 3):
        with prepared(kind, folder, executables=executables) as case:
            answers[executables] = [generate(case, prompt(length)) for length in lengths]
            held[executables] = case.footprint().graph_pool_bytes
            assert case.stats().ungraphed == 0
    assert answers[3] == answers[None]
    assert held[3] <= held[None]


def test_a_shared_pool_holds_less_than_a_pool_each(folder):
    held = {}
    for shared in (True, False):
        with prepared(JitCudaGraph, folder, shared_pool=shared) as case:
            held[shared] = case.footprint().graph_pool_bytes
    assert held[True] < held[False]


def test_the_cap_in_bytes_holds(folder):
    with prepared(JitCudaGraph, folder) as case:
        whole = case.footprint().graph_pool_bytes
    for shared in (True, False):
        cap = 0.5 * whole / 2**20
        with prepared(JitCudaGraph, folder, max_mib=cap, capture="blocking", shared_pool=shared) as case:
            decode = case.captured()[0].grown_bytes
            for length in random.Random(1).choices(range(1, 513), k=60):
                case.prefill(prompt(length))
                assert case.footprint().graph_pool_bytes - decode <= cap * 2**20
            assert 0 < case.footprint().graphs < 33
            assert case.stats().hits > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_background_capture_that_fails_costs_no_answer(folder, kind, monkeypatch):
    """It fails in the middle of a real capture; the next one on the same stream and pool succeeds."""
    with prepared(kind, folder) as case:
        expected = {length: generate(case, prompt(length)) for length in (30, 200)}
    with prepared(kind, folder, initial="none", capture_attempts=2) as case:
        forward, main = Llama.forward, threading.get_ident()

        def fail(model: Llama, count: int, between: Any = None) -> None:
            forward(model, count, between)
            if count == 32 and threading.get_ident() != main:
                raise torch.OutOfMemoryError("injected")

        monkeypatch.setattr(Llama, "forward", fail)
        for tried in (1, 2, 2):
            assert generate(case, prompt(30)) == expected[30]
            drain(case)
            assert case.stats().failures == tried
        assert [record.reason for record in case.captured() if record.bucket == 32] == [
            "OutOfMemoryError: injected"
        ] * 2
        assert generate(case, prompt(200)) == expected[200]
        drain(case)
        hits = case.stats().hits
        assert generate(case, prompt(200)) == expected[200]
        assert case.stats().hits == hits + 1
        found = case.evict()
        assert found.free_after_bytes - found.free_before_bytes >= 0.95 * found.held_bytes, found


def test_a_capture_that_cuda_itself_ends_costs_no_answer(folder, monkeypatch):
    """The capturing thread synchronises its stream, which CUDA forbids: the capture is invalid and must be cleaned."""
    with prepared(JitCudaGraph, folder, initial="none", capture_attempts=1) as case:
        expected = generate(case, prompt(100))
        drain(case)
        forward, main = Llama.forward, threading.get_ident()

        def fail(model: Llama, count: int, between: Any = None) -> None:
            forward(model, count, between)
            if count == 32 and threading.get_ident() != main:
                torch.cuda.current_stream().synchronize()

        monkeypatch.setattr(Llama, "forward", fail)
        first = generate(case, prompt(30))
        drain(case)
        assert case.stats().failures == 1
        assert case.captured()[-1].reason
        assert generate(case, prompt(30)) == first
        for length in (100, 300, 300):
            generate(case, prompt(length))
            drain(case)
        assert generate(case, prompt(100)) == expected
        assert case.stats().failures == 1, case.captured()


def test_random_lengths_at_a_small_cap_let_no_memory_grow(folder):
    """Device memory settles, whatever is captured and evicted."""
    draw, used = random.Random(2), []
    with prepared(JitCudaGraph, folder, buckets="exact", initial="none", max_graphs=20, largest=500) as case:
        for number in range(3000):
            case.prefill(prompt(draw.randint(1, 500)))
            if number % 500 == 499:
                drain(case)
                free, total = torch.cuda.mem_get_info()
                used.append(total - free)
        stats = case.stats()
        assert stats.failures == 0, case.captured()
        assert stats.evictions > 100
        assert case.footprint().graphs <= 21
    assert max(used[2:]) - statistics.median(used[2:]) <= 64 * 2**20, used
