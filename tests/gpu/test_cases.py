"""The cases on a GPU: one model, five ways, the same logits; graphs that replay bit for bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cases.baseline import Baseline
from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.buckets import GraphOptions
from cases.runtime.checkpoint import make_random
from cases.runtime.dynamic_ops import PlainOps
from cases.runtime.graph_runner import GraphRunner
from cases.runtime.llama import Llama, State
from cases.runtime.plain import PlainBlocks
from cases.runtime.shape import LlamaShape, read_shape
from cases.runtime.weights import load_weights
from cases.transformers_compile import TransformersCompile
from harness.contract import Case, Plan, Sampling
from tests.runtime import llamas
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.capture import CudaCapture
from cases.runtime.kernels.blocks import TritonBlocks

pytestmark = pytest.mark.gpu

CONTEXT = 320
GRAPH = {
    **llamas.GRAPH, "largest": 128, "max_graphs": 16, "capture": "blocking", "beyond": "ungraphed",
}  # fmt: skip
TINY = {
    "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024,
}  # fmt: skip
WIDE = {
    "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 1024,
}  # fmt: skip
SHAPES = {
    "tiny": tiny_shape(**TINY),
    "wide": tiny_shape(**WIDE),
    "wide, every head its own keys": tiny_shape(**WIDE | {"num_key_value_heads": 8}),
}
FORCED = 6
REPLAYS = 2000


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def folder(request, tmp_path_factory) -> Path:
    return make_random(request.param, "float16", 5, tmp_path_factory.mktemp("checkpoints"), "random")


def plan(folder: Path, dtype: str = "float16", sampling: Sampling | None = None, **graph: Any) -> Plan:
    options = {"graph": GRAPH | graph, "jit": {"backend": "triton", "draws": 1}}
    return Plan("x", str(folder), "cuda", dtype, CONTEXT, sampling or Sampling(), options)


@contextmanager
def prepared(kind: type[Case], *arguments: Any, **graph: Any) -> Iterator[Case]:
    case = kind()
    try:
        case.prepare(plan(*arguments, **graph))
        yield case
    finally:
        case.close()


def prompt(length: int, vocabulary: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length}/{seed}").choices(range(3, vocabulary), k=length)


def scores(case: Case, length: int, vocabulary: int) -> Tensor:
    rows = case.score(prompt(length, vocabulary), prompt(FORCED, vocabulary, seed=length))
    return torch.stack([torch.frombuffer(row, dtype=torch.float32) for row in rows]).double()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest ||a - b|| / ||b|| over steps."""
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


@pytest.fixture(scope="module")
def exact(folder) -> dict[int, Tensor]:
    """Logits of Transformers in float32, by prompt length."""
    vocabulary = read_shape(folder).vocab_size
    with prepared(Baseline, folder, "float32") as case:
        return {length: scores(case, length, vocabulary) for length in (1, 2, 10, 16, 17, 100, 128, 129, 300)}


@pytest.mark.parametrize("kind", [Baseline, Eager, Jit, CudaGraph, JitCudaGraph])
def test_logits_are_those_of_float32(folder, exact, kind):
    """Teacher-forced, by the timed path, before, at and behind the edges of buckets, and beyond the largest."""
    vocabulary = read_shape(folder).vocab_size
    with prepared(kind, folder) as case:
        for length, expected in exact.items():
            found = scores(case, length, vocabulary)
            assert torch.isfinite(found).all()
            assert relative_error(found, expected) < 1e-2, length


@pytest.mark.parametrize("kind", [Eager, JitCudaGraph])
def test_float32_and_bfloat16_too(folder, exact, kind):
    vocabulary = read_shape(folder).vocab_size
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 6e-2)):
        with prepared(kind, folder, dtype) as case:
            assert relative_error(scores(case, 17, vocabulary), exact[17]) < tolerance, dtype


def test_every_request_has_a_gpu_time_and_a_counter(folder):
    vocabulary = read_shape(folder).vocab_size
    with prepared(JitCudaGraph, folder) as case:
        looks: list[int] = []
        case.meanwhile = looks.append
        seen = [case.stats()]
        case.prefill(prompt(20, vocabulary), 4)
        seen.append(case.stats())
        for _ in range(3):
            case.decode()
            seen.append(case.stats())
        assert all(after.gpu_ns > before.gpu_ns for before, after in itertools.pairwise(seen))
        assert looks
        assert looks == sorted(looks), "the wait for each token is polled, and what keeps a path warm called"
        assert [stats.replays - seen[0].replays for stats in seen] == [0, 1, 2, 3, 4]
        assert {stats.captures for stats in seen} == {9}
        assert case.footprint().graphs == 9
        assert case.footprint().peak_memory_bytes > 0


def generate(case: Case, ids: list[int], count: int) -> list[int]:
    return [case.prefill(ids, count), *(case.decode() for _ in range(count - 1))]


def test_transformers_compiled_replays_its_steps_and_repeats_its_tokens(folder, exact):
    """Steps suspended between two tokens share recorded graphs and one cache: no request hears of another."""
    vocabulary = read_shape(folder).vocab_size
    case = TransformersCompile()
    try:
        case.prepare(replace(plan(folder), options={"compile_mode": "reduce-overhead"}))
        for length in (1, 10, 100, 300):
            assert relative_error(scores(case, length, vocabulary), exact[length]) < 1e-2, length
        first, second = (prompt(length, vocabulary) for length in (20, 150))
        expected = [generate(case, ids, 12) for ids in (first, second)]
        case.prefill(second, 12)
        case.decode()  # left unfinished
        assert [generate(case, ids, 12) for ids in (first, second)] == expected
        case.prefill(first, 6)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in range(4):
                case.decode()
            torch.cuda.synchronize()
        assert sum(event.name == "cudaGraphLaunch" for event in seen.events()) >= 4
    finally:
        case.close()


@pytest.mark.parametrize("kind", [CudaGraph, JitCudaGraph])
def test_eviction_and_capture_anew_change_no_token(folder, kind):
    """Two graphs for eight buckets, asked in turn: every request captures, and every answer stays."""
    vocabulary = read_shape(folder).vocab_size
    prompts = [prompt(length, vocabulary) for length in (5, 20, 40, 60, 70, 90, 100, 120)]
    with prepared(kind, folder) as case:
        expected = [generate(case, ids, 8) for ids in prompts]
    with prepared(kind, folder, max_graphs=2) as case:
        before = case.stats().captures
        for _ in range(3):
            assert [generate(case, ids, 8) for ids in prompts] == expected
        captured = case.stats().captures - before
        assert len(prompts) * 3 - 2 <= captured <= len(prompts) * 3
        assert case.footprint().graphs == 3
        assert case.stats().ungraphed == 0


@pytest.mark.parametrize("kind", [Jit, JitCudaGraph])
def test_a_sampled_request_repeats(folder, kind):
    vocabulary = read_shape(folder).vocab_size
    sampling = Sampling("sample", temperature=1.5, top_k=50, top_p=0.9, seed=3)
    with prepared(kind, folder, "float16", sampling) as case:
        first = generate(case, prompt(14, vocabulary), 12)
        assert generate(case, prompt(14, vocabulary), 12) == first
        assert len(set(first)) > 1


class Bench:
    """Model, plain dynamic ops and graph runner without a case around them."""

    def __init__(self, folder: Path, blocks: type[PlainBlocks] | type[TritonBlocks]) -> None:
        shape: LlamaShape = read_shape(folder)
        weights = load_weights(folder, shape, torch.float16, "cuda")
        made = TritonBlocks(shape, torch.float16) if blocks is TritonBlocks else PlainBlocks(shape)
        self.model = Llama(shape, weights, State(shape, CONTEXT, torch.float16, "cuda"), made)
        self.state = self.model.state
        self.ops = PlainOps(Sampling(), "cuda", shape.vocab_size)
        self.runner = GraphRunner(self.model, GraphOptions.read({"graph": GRAPH}), CudaCapture())
        self.runner.capture()
        self.vocabulary = shape.vocab_size

    def load(self, ids: list[int]) -> int:
        """Prompt into the state, NaN into the logits, zeros into the cache; the bucket."""
        self.state.logits.fill_(float("nan"))
        self.state.keys.zero_()
        self.state.values.zero_()
        [(_, _, count)] = self.runner.pieces(len(ids))
        self.ops.load_prompt(ids, count, self.state)
        return count

    def seen(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.state.logits.clone(), self.state.keys.clone(), self.state.values.clone()


@pytest.fixture(scope="module", params=[PlainBlocks, TritonBlocks])
def bench(folder, request) -> Iterator[Bench]:
    made = Bench(folder, request.param)
    yield made
    made.runner.close()


LENGTHS = [*range(1, 65), 79, 80, 81, 95, 96, 97, 111, 112, 113, 127, 128]


def test_a_replay_is_the_direct_forward_bit_for_bit(bench):
    """Over the same bucket: logits, and every key and value, of prefill and of the step behind it."""
    for length in LENGTHS:
        ids = prompt(length, bench.vocabulary)
        found = []
        for prefill, decode in (
            (bench.runner.prefill, bench.runner.decode),
            (bench.model.forward, partial(bench.model.forward, 1)),
        ):
            count = bench.load(ids)
            prefill(count)
            first = bench.seen()
            bench.ops.choose(bench.state)
            decode()
            found.append((*first, *bench.seen()))
        assert torch.isfinite(found[0][0]).all(), length
        for replayed, direct in zip(*found, strict=True):
            assert torch.equal(replayed, direct), length


def test_thousands_of_replays_of_one_step_give_the_same_bits(bench):
    for length in (1, 63, 64, 300):
        ids = prompt(length, bench.vocabulary)
        bench.runner.prefill(bench.load(ids))
        bench.ops.choose(bench.state)
        bench.runner.decode()
        first = bench.state.logits.clone()
        assert torch.isfinite(first).all()
        differing = torch.zeros((), dtype=torch.int64, device="cuda")
        for _ in range(REPLAYS):
            bench.state.logits.fill_(float("nan"))
            bench.runner.decode()
            differing += (bench.state.logits != first).sum()
        assert differing.item() == 0, length


def test_replays_without_a_pause_give_the_same_bits(bench):
    """Nothing between two replays: the first kernel of one may begin before the last of the other has ended."""
    bench.runner.prefill(bench.load(prompt(50, bench.vocabulary)))
    bench.ops.choose(bench.state)
    bench.runner.decode()
    first = bench.seen()
    for _ in range(10):
        for _ in range(REPLAYS // 10):
            bench.runner.decode()
        assert all(torch.equal(one, other) for one, other in zip(bench.seen(), first, strict=True))


def test_prefills_replayed_in_any_order_give_the_same_bits(bench):
    """All graphs share one memory pool: none may find its numbers changed by another."""
    lengths = [3, 20, 40, 60, 80, 100, 128]
    first: dict[int, Tensor] = {}
    order = random.Random(0)
    for _ in range(40):
        order.shuffle(lengths)
        for length in lengths:
            bench.runner.prefill(bench.load(prompt(length, bench.vocabulary)))
            assert torch.equal(bench.state.logits, first.setdefault(length, bench.state.logits.clone())), length
