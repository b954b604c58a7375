"""Graphs on a GPU: every length bit for bit, captures amid replays, eviction, chunks, recompute, sampling."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.buckets import GraphOptions
from cases.runtime.checkpoint import make_random
from cases.runtime.dynamic_ops import PlainOps
from cases.runtime.graph_runner import GraphRunner
from cases.runtime.llama import Llama, State
from cases.runtime.plain import PlainBlocks
from cases.runtime.shape import read_shape
from cases.runtime.weights import load_weights
from harness.contract import Case, Sampling
from tests.gpu.graphs import CAPACITY, GRAPH, GROUPED, KINDS, WIDE, drain, generate, prepared, prompt

pytest.importorskip("triton")

from cases.runtime.capture import CudaCapture
from cases.runtime.kernels.blocks import TritonBlocks

pytestmark = pytest.mark.gpu

REPLAYS = 3000


@pytest.fixture(scope="module", params=[WIDE, GROUPED], ids=["7B-like", "grouped"])
def folder(request, tmp_path_factory) -> Path:
    return make_random(request.param, "float16", 5, tmp_path_factory.mktemp("checkpoints"), "random")


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


def logits(case: Case, ids: list[int], forced: list[int]) -> Tensor:
    """Teacher-forced logits, float32 [forced + 1, vocabulary]."""
    return torch.stack([torch.frombuffer(row, dtype=torch.float32) for row in case.score(ids, forced)])


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
            rows = [logits(case, prompt(length), forced) for case in (chunked, whole)]
            assert torch.isfinite(rows[0]).all(), length
            worst.append(((rows[0] - rows[1]).norm(dim=1) / rows[1].norm(dim=1)).max().item())
        assert chunked.stats().ungraphed == 0
    assert max(worst) < 1e-2, dict(zip(lengths, worst, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunked_prompt_repeats_bit_for_bit(folder, kind):
    with prepared(kind, folder, largest=96, beyond="chunks") as case:
        for length in (97, 300, 640):
            first = case.score(prompt(length), [])
            case.prefill(prompt(640, seed=1))
            assert case.score(prompt(length), []) == first


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_the_context_gives_the_logits_of_the_cache(folder, kind):
    """Across edges of buckets, and into chunks."""
    with prepared(kind, folder) as cached, prepared(kind, folder, "recompute", largest=64, beyond="chunks") as anew:
        for length in (14, 60, 126):
            forced = prompt(8, seed=length)
            rows = [logits(case, prompt(length), forced) for case in (anew, cached)]
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


@pytest.mark.parametrize("kind", KINDS)
def test_rehearsals_between_tokens_change_none(folder, kind):
    with prepared(kind, folder) as case:
        wanted = [generate(case, prompt(length)) for length in (10, 100, 400)]
        found = []
        for length in (10, 100, 400):
            tokens = [case.prefill(prompt(length), 6)]
            for _ in range(5):
                for _ in range(3):
                    case.rehearse()
                tokens.append(case.decode())
            found.append(tokens)
        assert found == wanted
        held, stats = case.footprint(), case.stats()
        case.rehearse()
        assert (case.footprint(), case.stats()) == (held, stats)
