"""Who answers is seen, and held against what a case's code says of itself."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.autograd import DeviceType

from cases.runtime import identity
from harness import worker
from harness.contract import Identity, Kernel, Stats
from harness.job import CaseJob
from harness.measure.loop import Place, Timed
from harness.measure.proof import CLAIMS, OURS, Replayed, WrongIdentity, prove
from harness.measure.sink import BlockSink, Events
from harness.processes.heed import Heed
from harness.settings.compose import compose_raw, to_config
from harness.settings.identity import FIXED

KERNELS = Path(__file__).resolve().parent.parent / "cases/runtime/kernels"
LIBRARY = ("nvjet_hsh_64x8_64x16", "void at::native::rms_norm")
STEP = ("_gemv", "_attend_one", "_greedy")


def seen(*decode: str, prefill: tuple[str, ...] | None = None, launches: int = 0, **more: Any) -> Identity:
    """An identity of a GPU: the same kernels in both phases unless said otherwise."""
    phases = {"prefill": decode if prefill is None else prefill, "decode": decode}
    kernels = tuple(Kernel(phase, name, 1) for phase, names in phases.items() for name in names)
    modules = {"torch": "2.11.0", "triton": "3.6.0", "transformers": "5.17.0", "vllm": "0.23"}
    counts = {"replays": launches, **more}
    return Identity(modules, "greedy by Triton operations", "cuda", kernels, launches, **counts)


def entry(name: str, **options: Any) -> CaseJob:
    return CaseJob(name, proof_target(name), "inproc", None, 60, options)


def proof_target(name: str) -> str:
    return next(target for target in CLAIMS if target.rpartition(".")[2] == name)


GRAPHS, NONE = Replayed(9, 1, 10), Replayed(0, 0, 10)
HONEST = [
    ("Baseline", {}, seen(*LIBRARY), NONE),
    ("Eager", {}, seen(*LIBRARY), NONE),
    ("CudaGraph", {}, seen(*LIBRARY, launches=3), GRAPHS),
    ("CudaGraph", {"graph": {"executables": 4}}, seen(*LIBRARY, replays=3), GRAPHS),
    ("CudaGraph", {}, seen(*LIBRARY, ungraphed=3), GRAPHS),
    ("Jit", {"jit": {"backend": "auto"}}, seen(*STEP, prefill=("linear", "_attend_rows")), NONE),
    ("Jit", {"jit": {"backend": "auto"}}, seen(*STEP, prefill=(*LIBRARY, "_attend_rows")), NONE),
    ("Jit", {"jit": {"backend": "auto"}}, seen("matvec", *STEP[1:], prefill=("linear",)), NONE),
    ("Jit", {"jit": {"backend": "torchscript"}}, seen(*LIBRARY), NONE),
    ("Jit", {"jit": {"backend": "auto"}, "model_code": "transformers"}, seen(*LIBRARY), NONE),
    ("Jit", {"decode": "recompute"}, seen(*LIBRARY, "_attend_rows"), NONE),
    ("JitCudaGraph", {}, seen(*STEP, prefill=("linear",), launches=3), GRAPHS),
    ("TransformersCompile", {}, seen(*LIBRARY, "triton_red_fused_0", launches=2, replays=0), NONE),
    ("Vllm", {}, seen(*LIBRARY, "kernel_unified_attention", launches=2, replays=0), NONE),
]


@pytest.mark.parametrize(("name", "options", "found", "counted"), HONEST)
def test_what_a_case_says_is_proven_by_what_was_seen(name, options, found, counted):
    row = prove(entry(name, **options), found, counted)
    assert str(row["identity"]).startswith("proven: ")
    assert row["graph_launches"] == found.launches
    assert row["modules"] == "torch 2.11.0; triton 3.6.0; transformers 5.17.0; vllm 0.23"
    own_graphs = name in ("TransformersCompile", "Vllm")
    assert row["replayed"] == (None if own_graphs else f"{counted.graphs} of 10")
    assert ("2 CUDA graphs launched, none of which the case counts in a pre" in str(row["identity"])) == own_graphs


FALSE = [
    ("Baseline", {}, seen(*LIBRARY, launches=1), NONE, "saw 1 CUDA graphs launched, where none should be"),
    ("Baseline", {}, seen(*LIBRARY), Replayed(2, 0, 10), "2 of 10 samples were answered by a CUDA graph"),
    ("Eager", {}, seen(*LIBRARY, "_gemv"), NONE, "kernels of JIT answered: _gemv"),
    ("Eager", {}, seen(*LIBRARY, "matvec"), NONE, "kernels of JIT answered: matvec"),
    ("CudaGraph", {}, seen(*STEP, launches=3), GRAPHS, "kernels of JIT answered: _attend_one, _gemv, _greedy"),
    ("CudaGraph", {}, seen(*LIBRARY, launches=2, replays=3), GRAPHS, "saw 2 CUDA graphs launched, and the case count"),
    ("CudaGraph", {}, seen(*LIBRARY), GRAPHS, "answered neither by a graph nor by a counted forward"),
    ("CudaGraph", {}, seen(*LIBRARY, launches=3), Replayed(8, 1, 10), "1 of 10 samples were answered neither"),
    ("Jit", {}, seen(*LIBRARY), NONE, "the prefill showed no kernel of JIT"),
    ("Jit", {}, seen("_gemv", "_greedy"), NONE, "the decode steps showed no _attend_one"),
    ("Jit", {}, seen(*STEP[1:]), NONE, "the decode steps showed no _gemv or matvec, one of which JIT can't do without"),
    ("Jit", {}, seen("_gemv", "_attend_one", "reduce_argmax"), NONE, "the decode steps showed no _accept or _greedy"),
    ("Jit", {}, seen(*STEP, LIBRARY[0]), NONE, "matrix products of another library: nvjet_hsh_64x8_64x16"),
    ("JitCudaGraph", {}, seen(*LIBRARY, "_greedy", launches=3), GRAPHS, "the decode steps showed no _attend_one"),
    ("JitCudaGraph", {}, seen("matvec", "_greedy", launches=3), GRAPHS, "the decode steps showed no _attend_one"),
    (
        "JitCudaGraph",
        {},
        seen("_attend_one", "_greedy", launches=3),
        GRAPHS,
        "the decode steps showed no _gemv or",
    ),
    ("TransformersCompile", {}, seen(*LIBRARY), NONE, "no kernel named triton_* was seen"),
]


@pytest.mark.parametrize(("name", "options", "found", "counted", "sentence"), FALSE)
def test_what_contradicts_a_case_is_refused(name, options, found, counted, sentence):
    with pytest.raises(WrongIdentity, match=re.escape(sentence)):
        prove(entry(name, **options), found, counted)


def test_an_engine_that_is_not_loaded_did_not_answer():
    with pytest.raises(WrongIdentity, match="vllm is not loaded where the engine runs, only torch"):
        prove(entry("Vllm"), Identity({"torch": "2"}, unproven="no kernels"), NONE)


def test_graphs_that_hide_their_kernels_prove_nothing_and_fail_nothing():
    row = prove(entry("JitCudaGraph"), seen("_greedy", launches=3), GRAPHS)
    assert row["identity"] == (
        "not proven: the profiler saw 3 CUDA graphs launched and no matrix product in decode steps: it does not show "
        "the insides of graphs"
    )


@pytest.mark.parametrize(("name", "kernels"), [("CudaGraph", LIBRARY), ("JitCudaGraph", STEP)])
def test_a_case_with_graphs_that_answered_nothing_by_one_is_not_proven(name, kernels):
    found = seen(*kernels, ungraphed=3)
    row = prove(entry(name), found, Replayed(0, 10, 10))
    assert row["identity"] == "not proven: none of 10 samples was answered by a CUDA graph"
    assert str(prove(entry(name), found, Replayed(1, 9, 10))["identity"]).startswith("proven: ")


def test_a_drawn_id_is_chosen_by_our_sampler_too():
    found = seen("_gemv", "_attend_one", "_accept")
    assert str(prove(entry("Jit"), found, NONE)["identity"]).startswith("proven: ")


def test_who_shows_nothing_is_not_proven():
    row = prove(entry("TensorRtLlm"), Identity({"tensorrt_llm": "1.1"}, unproven="out of sight"), NONE)
    assert (row["identity"], row["kernels"], row["graph_launches"]) == ("not proven: out of sight", None, None)


def test_the_cpu_has_operations_and_no_kernels():
    cpu = Identity({"torch": "2"}, "greedy", "cpu", (Kernel("prefill", "aten::mm", 3),), replays=3)
    row = prove(entry("JitCudaGraph"), cpu, GRAPHS)
    assert row["identity"].startswith("not proven: 1 different operations on the CPU, which has no kernels")


def test_code_that_nothing_is_known_of_is_not_proven():
    row = prove(CaseJob("X", "mine.Case", "inproc", None, 60, {}), seen(*LIBRARY, launches=1), NONE)
    assert row["identity"].startswith("not proven: nothing is known of this code that could be held against it; 2 ")


def test_a_profiler_that_sees_no_calls_says_nothing_of_launches():
    row = prove(entry("CudaGraph"), seen(*LIBRARY, replays=3, unproven="no calls"), GRAPHS)
    assert row["identity"] == "not proven: no calls"


def test_our_kernels_are_those_of_the_source():
    names = set()
    for path in KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                names.add(node.name)
    launched = re.compile(r'extern "C" __global__ .*\n    (\w+)\(')
    cuda = {name for path in KERNELS.rglob("*.cu") for name in launched.findall(path.read_text(encoding="utf-8"))}
    assert cuda == {"linear", "matvec"}
    assert cuda < OURS
    assert names | cuda >= OURS


def test_every_name_that_is_a_promise_has_a_claim():
    cases = to_config(compose_raw([])).cases
    assert {cases[name].target for name in FIXED} | {"cases.stand_in.StandIn"} == set(CLAIMS)


def test_a_profilers_events_become_kernels_and_launches():
    cuda, cpu = DeviceType.CUDA, DeviceType.CPU
    events = [("_gemv", cuda), ("_gemv", cuda), ("Memcpy DtoH (Device -> Pinned)", cuda), ("x" * 300, cuda)]
    events += [("cudaGraphLaunch", cpu), ("cuGraphLaunch", cpu), ("cudaGraphLaunch", cpu), ("cudaLaunchKernel", cpu)]
    assert identity.kernels_of(events, "cuda", "decode") == [
        Kernel("decode", "_gemv", 2), Kernel("decode", "x" * 200, 1)
    ]  # fmt: skip
    assert identity.launches_of([name for name, where in events if where == cpu]) == 2


def test_a_profiler_that_does_not_start_is_said(monkeypatch):
    def refuses(_: str) -> Any:
        raise RuntimeError("CUPTI is\n in use")

    monkeypatch.setattr(identity, "recorder", refuses)
    case = SimpleNamespace(prefill=lambda *_: pytest.fail("nothing is asked"))
    found = identity.identify(case, [1, 2], "cpu", "greedy")  # type: ignore[arg-type]
    assert found.unproven == "torch's profiler does not start: CUPTI is in use"
    assert found.modules["torch"] == torch.__version__


def test_launches_and_replays_are_those_of_both_recorded_phases(monkeypatch):
    calls = {"prefill": ["cudaGraphLaunch", "cudaLaunchKernel"], "decode": ["cudaGraphLaunch", "cudaGraphLaunch"]}
    counters = iter(Stats(replays=replays) for replays in (4, 5, 6, 8))
    case = SimpleNamespace(prefill=lambda *_: 7, decode=lambda: 7, stats=lambda: next(counters))
    monkeypatch.setattr(identity, "recorder", lambda _: SimpleNamespace(start=lambda: None, stop=lambda: None))
    monkeypatch.setattr(identity, "watched", lambda _, phase, work: ([Kernel(phase, "_gemv", 1)], calls[phase]))
    found = identity.identify(case, [1, 2], "cuda", "greedy")  # type: ignore[arg-type]
    assert (found.launches, found.replays) == (3, 3), "the prefill between them is not recorded"
    assert {kernel.phase for kernel in found.kernels} == {"prefill", "decode"}


def test_a_false_engine_fails_its_block(make_job, monkeypatch, tmp_path):
    job = make_job()
    job.cases["fake"] = CaseJob("Fake", "cases.cuda_graph.CudaGraph", "inproc", None, 60, {})
    job.block_dir("fake", 0).mkdir(parents=True)
    case = SimpleNamespace(identity=lambda prompt: seen(*STEP, launches=len(prompt)))
    with pytest.raises(WrongIdentity, match="kernels of JIT answered"):
        worker.identify(case, job, "fake", 0, GRAPHS)  # type: ignore[arg-type]
    lines = (job.block_dir("fake", 0) / "identity.csv").read_text().splitlines()
    assert lines[:2] == ["case,block,phase,kernel,count", "fake,0,prefill,_gemv,1"]


def test_a_verdict_says_that_another_answered_and_only_then(make_job, monkeypatch, tmp_path):
    """A profiler that breaks proves nothing either way: what was measured stays the case's own."""
    for block, error in enumerate((WrongIdentity("kernels of JIT answered"), RuntimeError("CUPTI is in use"))):
        monkeypatch.setattr(worker, "identify", Mock(side_effect=error))
        events = Events(os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT))
        found = worker.measure_block(make_job(), "fake", block, events, 0, Heed())
        assert (found["state"], found["stage"]) == ("failed", "identity")
        assert found.get("identity") == (None if block else "contradicted: kernels of JIT answered")


def test_samples_are_counted_by_who_answered_them(tmp_path):
    sink = BlockSink(tmp_path, "fake", 0, Events(os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT)))
    before = Stats(replays=4, ungraphed=1)
    for after in (Stats(replays=6, ungraphed=1), Stats(replays=4, ungraphed=2), Stats(replays=5, ungraphed=2), before):
        sink.keep([(Place("ttft", 10, 10, 0), Timed(1, 2, 7, before, after))])
    assert sink.replayed == Replayed(graphs=2, ungraphed=1, samples=4)
