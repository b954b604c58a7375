"""Any length up to the KV cache: padded, in chunks, or recomputed each step, against the ungraphed path and against
Transformers, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.buckets import GraphOptions
from cases.runtime.capture import EagerCapture
from cases.runtime.graph_runner import GraphRunner
from harness.contract import Case
from tests.runtime.llamas import GRAPH, load, new_model, plan, prompt, save

CONTEXT = 75
NEAR: dict[str, float] = {"atol": 2e-5, "rtol": 1e-4}
VARIANTS: dict[str, dict[str, Any]] = {"gqa": {}, "mha": {"num_key_value_heads": 4}}
POLICIES: dict[str, dict[str, Any]] = {
    "step": {"buckets": "step", "step": 8, "largest": 24},
    "largest is no part of the capacity": {"buckets": [5, 17, 32], "largest": 32},
    "one token a chunk": {"buckets": "exact", "largest": 1, "max_graphs": 1},
    "blocking, evicting": {"buckets": "step", "step": 4, "largest": 20, "max_graphs": 2, "capture": "blocking"},
    "background": {"buckets": "pow2", "largest": 32, "initial": "none", "max_graphs": 3},
    "adaptive": {
        "buckets": "adaptive", "largest": 40, "initial": "none",
        "adaptive": {"window": 16, "every": 8, "ms_per_token": 1.0, "capture_ms": 1.0},
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request, tmp_path_factory) -> tuple[Any, Path]:
    model = new_model(**request.param)
    return model, save(model, tmp_path_factory.mktemp("checkpoint"))


@contextmanager
def prepared(kind: type[Case], folder: Path, **options: Any) -> Iterator[Case]:
    case = kind()
    try:
        case.prepare(plan(folder, context=CONTEXT, **options))
        yield case
    finally:
        case.close()


def scores(case: Case, length: int, forced: int = 2) -> torch.Tensor:
    steps = prompt(min(forced, CONTEXT - length), seed=9)
    return torch.tensor([list(row) for row in case.score(prompt(length), steps)])


@pytest.fixture(scope="module")
def expected(pair) -> dict[int, torch.Tensor]:
    with prepared(Eager, pair[1]) as case:
        return {length: scores(case, length) for length in range(1, CONTEXT + 1)}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_every_length_up_to_the_cache_gives_the_ungraphed_logits(pair, expected, policy):
    with prepared(CudaGraph, pair[1], graph=GRAPH | policy) as case:
        for length, wanted in expected.items():
            torch.testing.assert_close(scores(case, length), wanted, **NEAR)
        stats = case.stats()
        assert stats.hits + stats.misses == stats.replays + stats.ungraphed - 2 * CONTEXT + 3
        assert (stats.ungraphed == 0) or (policy.get("initial") == "none")


def test_compiled_ops_load_chunks_too(pair, expected):
    with prepared(JitCudaGraph, pair[1], graph=GRAPH | POLICIES["step"]) as case:
        for length in range(20, CONTEXT + 1):
            torch.testing.assert_close(scores(case, length), expected[length], **NEAR)


def test_lengths_turn_without_a_trace_of_the_last(pair, expected):
    """Long and short in turn, so that old keys lie behind every shorter sequence."""
    with prepared(CudaGraph, pair[1], graph=GRAPH | POLICIES["step"]) as case:
        for length in (75, 1, 74, 25, 3, 49, 24, 73, 26):
            torch.testing.assert_close(scores(case, length), expected[length], **NEAR)


@pytest.mark.parametrize("length", [1, 24, 25, 48, 60, 75])
def test_exact_buckets_and_chunks_equal_transformers(pair, length):
    model, folder = pair
    with torch.no_grad():
        wanted = model(torch.tensor([prompt(length)])).logits[0, -1]
    for policy in ({"buckets": "exact", "largest": CONTEXT, "max_graphs": CONTEXT}, POLICIES["step"]):
        with prepared(CudaGraph, folder, graph={**GRAPH, **policy, "initial": "none", "capture": "blocking"}) as case:
            torch.testing.assert_close(scores(case, length)[0], wanted, atol=1e-4, rtol=1e-4)
            assert case.stats().ungraphed == 0


@pytest.mark.parametrize("kind", [Eager, Jit, CudaGraph, JitCudaGraph])
def test_recomputing_the_context_gives_what_the_cache_gives(pair, expected, kind):
    with prepared(kind, pair[1], decode="recompute", graph=GRAPH | POLICIES["step"]) as case:
        for length in (1, 7, 8, 22, 23, 24, 47, 73, 75):
            torch.testing.assert_close(scores(case, length), expected[length], **NEAR)


def test_recompute_replays_the_graph_of_each_context_and_has_no_decode_graph(pair):
    ids = prompt(7)
    with prepared(Eager, pair[1]) as case:
        tokens = [case.prefill(ids, 20), *(case.decode() for _ in range(19))]
    with prepared(CudaGraph, pair[1], decode="recompute", graph=GRAPH | POLICIES["step"]) as case:
        assert [record.bucket for record in case.captured()] == [24, 16, 8]
        assert case.footprint().graphs == 3
        assert [case.prefill(ids, 20), *(case.decode() for _ in range(19))] == tokens
        stats = case.stats()
        chunks = sum(1 + (context > 24) for context in range(7, 27))
        assert (stats.hits, stats.replays, stats.ungraphed) == (chunks, chunks, 0)
        assert case.prefill(ids, 20) == tokens[0]


def test_pieces_cover_the_prompt_and_never_pass_the_cache(pair):
    llama = load(pair[1], CONTEXT)
    for policy in POLICIES.values():
        runner = GraphRunner(llama, GraphOptions(**GRAPH | policy), EagerCapture())
        for length in range(1, CONTEXT + 1):
            pieces = runner.pieces(length)
            assert pieces[-1].end == length
            covered = 0
            for start, end, rows in pieces:
                assert start <= covered < end <= start + rows <= CONTEXT
                covered = end
            assert all(piece.end - piece.start == piece.rows for piece in pieces[:-1])
        runner.close()


@pytest.mark.parametrize(
    ("beyond", "largest", "continues"), [("chunks", 74, True), ("chunks", 80, False), ("ungraphed", 9, False)]
)
def test_the_whole_cache_is_masked_only_where_chunks_may_come(pair, beyond, largest, continues):
    llama = load(pair[1], CONTEXT)
    options = GraphOptions(**GRAPH | {"largest": largest, "beyond": beyond})
    GraphRunner(llama, options, EagerCapture()).close()
    assert llama.state.continues == continues


@pytest.mark.parametrize("value", ["cache", None, 1])
def test_unknown_ways_to_decode_are_refused(value):
    with pytest.raises(ValueError, match=rf"^decode must be kv_cache or recompute, not {value!r}$"):
        Eager.check_options({"decode": value})
