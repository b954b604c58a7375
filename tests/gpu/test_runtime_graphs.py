"""Graphs on a GPU: every length bit for bit, captures amid replays, evictions that return memory, chunks, failures."""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.buckets import GraphOptions
from cases.runtime.checkpoint import make_random
from cases.runtime.dynamic_ops import PlainOps
from cases.runtime.llama import Llama, State
from cases.runtime.plain import PlainBlocks
from cases.runtime.runner import GraphRunner
from cases.runtime.shape import read_shape
from cases.runtime.weights import load_weights
from harness.contract import Case, Plan, Sampling
from tests.runtime import llamas
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.capture import CudaCapture
from cases.runtime.kernels.blocks import TritonBlocks

pytestmark = pytest.mark.gpu

CAPACITY = 640
REPLAYS = 3000
LIMIT_S = 60.0
GRAPH: dict[str, Any] = {**llamas.GRAPH, "largest": 512, "max_graphs": 64, "beyond": "ungraphed"}
WIDE = tiny_shape(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=3, num_attention_heads=32,
    num_key_value_heads=32, head_dim=128, max_position_embeddings=1024,
)  # fmt: skip
GROUPED = tiny_shape(
    vocab_size=4096, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=2, head_dim=128, max_position_embeddings=1024,
)  # fmt: skip
KINDS = [CudaGraph, JitCudaGraph]


@pytest.fixture(scope="module", params=[WIDE, GROUPED], ids=["7B-like", "grouped"])
def folder(request, tmp_path_factory) -> Path:
    return make_random(request.param, "float16", 5, tmp_path_factory.mktemp("checkpoints"), "random")


def prompt(length: int, vocabulary: int = 4096, seed: int = 0) -> list[int]:
    return random.Random(f"{length}/{seed}").choices(range(3, vocabulary), k=length)


@contextmanager
def prepared(kind: type[Case], folder: Path, decode: str = "kv_cache", **graph: Any) -> Iterator[Any]:
    case = kind()
    options = {"graph": GRAPH | graph, "jit": {"backend": "triton"}, "decode": decode}
    try:
        case.prepare(Plan("x", str(folder), "cuda", "float16", CAPACITY, Sampling(), options))
        yield case
    finally:
        case.close()


def generate(case: Case, ids: list[int], count: int = 6) -> list[int]:
    return [case.prefill(ids, count), *(case.decode() for _ in range(count - 1))]


def drain(case: Any) -> None:
    case._runner.drain()


class Bench:
    """Model, plain dynamic ops and graph runner without a case around them."""

    def __init__(self, folder: Path, triton: bool, **graph: Any) -> None:
        shape = read_shape(folder)
        weights = load_weights(folder, shape, torch.float16, "cuda")
        self.state = State(shape, CAPACITY, torch.float16, "cuda")
        blocks = TritonBlocks(shape, torch.float16) if triton else PlainBlocks(shape)
        self.model = Llama(shape, weights, self.state, blocks)
        self.ops = PlainOps(Sampling(), "cuda", shape.vocab_size)
        self.capture = CudaCapture()
        self.runner = GraphRunner(self.model, GraphOptions.read({"graph": GRAPH | graph}), self.capture)
        self.runner.capture()

    def load(self, ids: list[int]) -> int:
        """Prompt into the state, NaN into the logits, zeros into the cache; the bucket."""
        self.state.logits.fill_(float("nan"))
        self.state.keys.zero_()
        self.state.values.zero_()
        [(_, _, rows)] = self.runner.pieces(len(ids))
        self.ops.load_prompt(ids, rows, self.state)
        return rows

    def seen(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.state.logits.clone(), self.state.keys.clone(), self.state.values.clone()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "triton"])
def bench(folder, request) -> Iterator[Bench]:
    made = Bench(folder, request.param, capture="blocking")
    yield made
    made.runner.close()


def test_every_length_from_1_to_512_is_the_ungraphed_forward_bit_for_bit(bench):
    """Over the same bucket: logits, and every key and value."""
    for length in range(1, 513):
        ids = prompt(length)
        rows = bench.load(ids)
        assert rows - length < 16
        bench.runner.prefill(rows)
        replayed = bench.seen()
        bench.load(ids)
        bench.model.forward(rows)
        assert torch.isfinite(replayed[0]).all(), length
        for graphed, direct in zip(replayed, bench.seen(), strict=True):
            assert torch.equal(graphed, direct), length
    assert bench.runner.stats().ungraphed == 0


@pytest.mark.parametrize("triton", [False, True], ids=["plain", "triton"])
def test_captures_amid_thousands_of_replays_change_no_bit(folder, triton):
    """The capturing thread is kept busy with evictions and captures while this one replays without a pause."""
    bench = Bench(folder, triton, initial="none", max_graphs=8)
    runner, held = bench.runner, [64, 256]
    for bucket in held:
        bench.load(prompt(bucket))
        runner.prefill(bucket)
    runner.drain()
    first = {}
    for bucket in held:
        bench.load(prompt(bucket))
        runner.prefill(bucket)
        first[bucket] = bench.state.logits.clone()
    captured = runner.stats().captures
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    order = random.Random(0)
    for number in range(REPLAYS):
        bucket = held[number % 2]
        bench.ops.load_prompt(prompt(bucket), bucket, bench.state)
        runner.gate.busy = True
        runner.prefill(bucket)
        differing += (bench.state.logits != first[bucket]).sum()
        if number % 25 == 0:
            other = order.choice([edge for edge in range(16, 513, 16) if edge not in held])
            bench.ops.load_prompt(prompt(other), other, bench.state)
            runner.prefill(other)
        torch.cuda.current_stream().synchronize()
        runner.gate.leave()
    assert differing.item() == 0
    runner.drain()
    stats = runner.stats()
    assert stats.failures == 0, runner.captured()
    assert stats.captures - captured > 20
    assert stats.evictions > 10
    runner.close()


@pytest.mark.parametrize("triton", [False, True], ids=["plain", "triton"])
def test_a_graph_captured_in_the_background_is_the_ungraphed_forward_bit_for_bit(folder, triton):
    """No warm run came before the capture but the request's own; the graph is the one captured amid requests."""
    bench = Bench(folder, triton, initial="none")
    for bucket in (16, 128, 304, 512):
        rows = bench.load(prompt(bucket - 3))
        bench.runner.prefill(rows)
        direct = bench.seen()
        assert bench.runner.stats().hits == bench.runner.stats().captures - 1
        bench.runner.drain()
        bench.load(prompt(bucket - 3))
        bench.runner.prefill(rows)
        for graphed, wanted in zip(bench.seen(), direct, strict=True):
            assert torch.equal(graphed, wanted), bucket
    assert (bench.runner.stats().hits, bench.runner.stats().failures) == (4, 0)
    bench.runner.close()


@pytest.mark.parametrize("kind", KINDS)
def test_evicted_and_captured_anew_the_answers_stay(folder, kind):
    prompts = [prompt(length) for length in (5, 40, 100, 250, 400, 512)]
    with prepared(kind, folder) as case:
        expected = [generate(case, ids) for ids in prompts]
    for capture in ("background", "blocking"):
        with prepared(kind, folder, capture=capture, max_graphs=2, initial="none") as case:
            for _ in range(3):
                for ids, tokens in zip(prompts, expected, strict=True):
                    assert generate(case, ids) == tokens
                    drain(case)
                    assert generate(case, ids) == tokens
                case.evict()
            assert case.stats().failures == 0, case.captured()
            assert case.stats().evictions >= 3 * (len(prompts) - 2)
            assert case.stats().hits >= 3 * len(prompts)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "a pool each"])
@pytest.mark.parametrize("kind", KINDS)
def test_evicting_all_returns_what_the_graphs_held(folder, kind, shared):
    """At least 95 % of it, twice, by the device's own count."""
    with prepared(kind, folder, shared_pool=shared, capture="blocking") as case:
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


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_give_the_logits_of_the_whole_prompt(folder, kind):
    """Relative to the whole prompt run at once by the same kernels, at every position of a chunk's end."""
    lengths = [*range(120, 140), 191, 192, 193, 255, 256, 257, 300, 383, 384, 385, 500, 511, 512, 513, 600, 639, 640]
    worst = []
    with (
        prepared(Jit if kind is JitCudaGraph else Eager, folder) as whole,
        prepared(kind, folder, largest=128, beyond="chunks") as chunked,
    ):
        for length in lengths:
            forced = prompt(min(3, CAPACITY - length), seed=length)
            rows = [
                torch.tensor([list(row) for row in case.score(prompt(length), forced)]) for case in (chunked, whole)
            ]
            assert torch.isfinite(rows[0]).all(), length
            worst.append(((rows[0] - rows[1]).norm(dim=1) / rows[1].norm(dim=1)).max().item())
        assert chunked.stats().ungraphed == 0
    assert max(worst) < 1e-2, dict(zip(lengths, worst, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunked_prompt_repeats_bit_for_bit(folder, kind):
    with prepared(kind, folder, largest=96, beyond="chunks") as case:
        for length in (97, 300, 640):
            first = list(case.score(prompt(length), [])[0])
            case.prefill(prompt(640, seed=1))
            assert list(case.score(prompt(length), [])[0]) == first


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_the_context_gives_the_logits_of_the_cache(folder, kind):
    """Across edges of buckets, and into chunks."""
    with prepared(kind, folder) as cached, prepared(kind, folder, "recompute", largest=64, beyond="chunks") as anew:
        for length in (14, 60, 126):
            forced = prompt(8, seed=length)
            rows = [torch.tensor([list(row) for row in case.score(prompt(length), forced)]) for case in (anew, cached)]
            assert ((rows[0] - rows[1]).norm(dim=1) / rows[1].norm(dim=1)).max().item() < 1e-2, length
        assert anew.stats().ungraphed == 0


def test_another_temperature_compiles_nothing_anew(folder):
    with prepared(JitCudaGraph, folder) as case:
        case.use(Sampling("sample", temperature=0.7, top_k=40, top_p=0.9, seed=1))
        first = generate(case, prompt(20), 12)
        assert generate(case, prompt(20), 12) == first
        with torch.compiler.set_stance("fail_on_recompile"):
            for temperature in (0.5, 1.0, 1.9):
                case.use(Sampling("sample", temperature=temperature, top_k=20, top_p=0.8, seed=1))
                generate(case, prompt(20), 12)
            case.use(Sampling("sample", temperature=0.7, top_k=40, top_p=0.9, seed=1))
            assert generate(case, prompt(20), 12) == first
        case.use(Sampling())
        assert generate(case, prompt(20)) == generate(case, prompt(20))


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
