"""What single cases promise beyond the contract: options, refusals, Baseline's one-token steps."""

from __future__ import annotations

import re
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases.baseline import Baseline
from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.capture import EagerCapture
from cases.tensorrt_llm import TensorRtLlm
from cases.transformers_compile import TransformersCompile
from harness.contract import Plan, Sampling, Unavailable, Unsupported
from harness.measure.preparing import heard
from tests.runtime.llamas import GRAPH, JIT, new_model, plan, prompt, save

NEW = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(new_model(), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def baseline(folder):
    case = Baseline()
    case.prepare(plan(folder, "baseline"))
    yield case
    case.close()


def steps(case: Any, ids: list[int], count: int) -> list[int]:
    return [case.prefill(ids, count), *(case.decode() for _ in range(count - 1))]


def generated(folder: Any, ids: list[int], count: int, **arguments: Any) -> list[int]:
    """One plain call of Transformers' `generate`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor([ids])
    endless = {"max_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), **endless, **arguments)
    return found[0, len(ids) :].tolist()


@pytest.mark.parametrize("length", [1, 9, 40])
def test_baseline_steps_are_one_call_of_generate(baseline, folder, length):
    ids = prompt(length)
    expected = generated(folder, ids, NEW, do_sample=False)
    assert steps(baseline, ids, NEW) == expected
    assert baseline.prefill(ids) == expected[0]


def test_baseline_samples_as_generate_does(folder):
    case = Baseline()
    case.prepare(plan(folder, "baseline", Sampling("sample", temperature=1.4, top_k=30, top_p=0.9, seed=6)))
    try:
        torch.manual_seed(6)
        expected = generated(folder, prompt(9), NEW, do_sample=True, temperature=1.4, top_k=30, top_p=0.9)
        assert steps(case, prompt(9), NEW) == expected
    finally:
        case.close()


@pytest.mark.parametrize("kind", [Eager, CudaGraph, Jit, JitCudaGraph])
def test_the_lean_cases_give_baselines_tokens(baseline, folder, kind):
    case = kind()
    case.prepare(plan(folder))
    try:
        for length in (1, 16, 17, 50):
            assert steps(case, prompt(length), NEW) == steps(baseline, prompt(length), NEW)
    finally:
        case.close()


def test_an_end_of_sequence_id_ends_nothing(baseline, folder):
    """Whatever id the checkpoint calls the end: all tokens asked for come."""
    expected = steps(baseline, prompt(9), NEW)
    baseline._model.generation_config.eos_token_id = expected[2]
    assert steps(baseline, prompt(9), NEW) == expected


@pytest.mark.parametrize("taken", [1, 2, NEW - 1, NEW])
def test_baseline_drops_a_sequence_wherever_it_stands(baseline, taken):
    whole = steps(baseline, prompt(9), NEW)
    other = steps(baseline, prompt(5), 3)
    baseline.prefill(prompt(9), NEW)
    for _ in range(taken - 1):
        baseline.decode()
    assert steps(baseline, prompt(5), 3) == other
    assert steps(baseline, prompt(9), NEW) == whole


def test_every_token_of_baseline_is_computed_on_the_thread_that_asked_for_it(baseline, monkeypatch):
    """A thread that is woken for each token starts on whatever processor is free, and runs as fast as that one."""
    forward, seen = baseline._model.forward, []

    def noted(*positional: Any, **named: Any) -> Any:
        seen.append(threading.get_ident())
        return forward(*positional, **named)

    monkeypatch.setattr(baseline._model, "forward", noted)
    steps(baseline, prompt(9), NEW)
    assert seen == [threading.get_ident()] * NEW


def test_baseline_leaves_no_thread_behind(folder):
    before = set(threading.enumerate())
    case = Baseline()
    case.prepare(plan(folder, "baseline"))
    for _ in range(3):
        case.prefill(prompt(9), NEW)
        case.decode()
    case.close()
    case.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("at", [0, 3])
def test_an_error_inside_generate_reaches_the_caller(baseline, monkeypatch, at):
    """At the token where it struck, whole, and the next request is served."""
    whole = steps(baseline, prompt(9), 6)
    forward, calls = baseline._model.forward, []

    def fail(*positional: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == at + 1:
            raise ArithmeticError("the card is gone")
        return forward(*positional, **named)

    monkeypatch.setattr(baseline._model, "forward", fail)
    found = []
    with pytest.raises(ArithmeticError, match=r"^the card is gone$"):  # noqa: PT012  how far it came is the point
        found.append(baseline.prefill(prompt(9), 6))
        found.extend(baseline.decode() for _ in range(5))
    assert len(calls) == at + 1
    assert found == whole[:at]
    assert steps(baseline, prompt(9), 6) == whole


def test_an_error_in_a_request_of_one_token_reaches_the_caller(baseline, monkeypatch):
    monkeypatch.setattr(baseline._model, "forward", lambda *_, **__: (_ for _ in ()).throw(ArithmeticError("gone")))
    with pytest.raises(ArithmeticError, match=r"^gone$"):
        baseline.prefill(prompt(9))


def test_decode_without_a_sequence_is_refused(baseline):
    with pytest.raises(RuntimeError, match=r"new_tokens above 1 comes before decode"):
        baseline.decode()
    baseline.prefill(prompt(4))
    with pytest.raises(RuntimeError, match=r"new_tokens above 1 comes before decode"):
        baseline.decode()


def test_more_tokens_than_asked_for_are_an_error_not_a_hang(baseline):
    steps(baseline, prompt(9), 3)
    with pytest.raises(RuntimeError, match="all the tokens"):
        baseline.decode()


@pytest.mark.parametrize("kind", [Baseline, Eager, CudaGraph, Jit, JitCudaGraph, TensorRtLlm])
def test_a_request_before_prepare_is_refused(kind):
    case = kind()
    with pytest.raises(RuntimeError, match=r"prepare\(\) comes before the first request"):
        case.prefill([1, 2, 3])
    case.close()


@pytest.mark.parametrize("kind", [Baseline, Eager, CudaGraph, Jit, JitCudaGraph])
def test_float16_on_a_cpu_is_refused_and_a_gpu_that_is_not_there(kind, folder, monkeypatch):
    asked = plan(folder)
    half = Plan("x", asked.checkpoint, "cpu", "float16", 96, options=asked.options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = Plan("x", asked.checkpoint, "cuda", "float16", 96, options=asked.options)
    for refused, error, sentence in ((half, Unsupported, "float16 on a CPU"), (gpu, Unavailable, "sees no CUDA GPU")):
        case = kind()
        with pytest.raises(error, match=sentence):
            case.prepare(refused)
        case.close()


FAULTS: dict[str, tuple[str, Any, str]] = {
    "missing": ("model.layers.1.mlp.up_proj.weight", None, "lacks"),
    "unexpected": ("model.layers.1.self_attn.q_proj.bias", torch.zeros(64), "has unknown"),
    "misshapen": ("model.layers.1.mlp.up_proj.weight", torch.zeros(95, 64), "misshapes"),
}


@pytest.mark.parametrize(("name", "tensor", "word"), FAULTS.values(), ids=FAULTS.keys())
def test_baseline_makes_up_no_weights(folder, tmp_path, name, tensor, word):
    """Transformers alone would initialise what is missing, and measure that."""
    changed = edited(folder, tmp_path, {name: tensor})
    case = Baseline()
    with pytest.raises(ValueError, match=rf"^checkpoint {re.escape(str(changed))} {word} tensors: {re.escape(name)}$"):
        case.prepare(plan(changed, "baseline"))
    case.close()


def test_baseline_takes_the_constants_of_old_exports_and_the_head_of_a_tied_model(tmp_path):
    tied = save(new_model(tie_word_embeddings=True), tmp_path / "tied")
    embedding = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    constant = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "lm_head.weight": embedding}
    tokens = []
    for place in (tied, edited(tied, tmp_path / "old", constant)):
        case = Baseline()
        assert case.prepare(plan(place, "baseline")).engine.startswith("transformers ")
        tokens.append(steps(case, prompt(9), NEW))
        case.close()
    assert tokens[0] == tokens[1]


def edited(folder: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A copy of a checkpoint with tensors set, or left out where None."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    tensors = load_file(target / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, target / "model.safetensors")
    return target


def test_what_generate_did_not_compile_is_no_compiled_case(folder, monkeypatch):
    monkeypatch.setattr(TransformersCompile, "_generate", Baseline._generate)
    with (
        closing(TransformersCompile()) as case,
        pytest.raises(RuntimeError, match=r"^generate ran .+ uncompiled: torch"),
    ):
        case.prepare(plan(folder, "transformers_compile", compile_mode="default"))


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune-no-cudagraphs"])
def test_the_forward_is_compiled_in_the_mode_asked_for(mode, folder, monkeypatch):
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda forward, **options: asked.append(options) or forward)
    with closing(TransformersCompile()) as case:
        assert f"torch.compile ({mode})" in case.prepare(plan(folder, "transformers_compile", compile_mode=mode)).engine
    assert [options["mode"] for options in asked] == [mode]


def test_baseline_has_no_options():
    Baseline.check_options({})
    with pytest.raises(ValueError, match=r"^baseline has no option compile: it has none"):
        Baseline.check_options({"compile": True})


@pytest.mark.parametrize("kind", [Jit, JitCudaGraph])
def test_triton_on_a_cpu_is_refused_never_replaced(kind, folder):
    case = kind()
    with pytest.raises(Unsupported, match=r"jit\.backend=triton needs a GPU: set cases\.jit\.jit\.backend=torchscript"):
        case.prepare(plan(folder, "jit", jit={"backend": "triton"}))
    case.close()


@pytest.mark.parametrize("backend", ["cuda", None, "", "Triton"])
def test_unknown_backends_are_refused(backend):
    with pytest.raises(ValueError, match=r"^jit\.backend must be auto, triton or torchscript, not "):
        Jit.check_options({"jit": {"backend": backend}})


def test_the_hybrid_checks_the_options_of_both():
    JitCudaGraph.check_options({"jit": JIT, "graph": GRAPH})
    with pytest.raises(ValueError, match=r"jit\.backend"):
        JitCudaGraph.check_options({"jit": {"backend": "x"}, "graph": GRAPH})
    with pytest.raises(ValueError, match=r"graph\.step"):
        JitCudaGraph.check_options({"jit": JIT, "graph": {**GRAPH, "step": 0}})


def test_the_engine_says_what_it_is_made_of(folder):
    def engine(kind: Any) -> str:
        case = kind()
        try:
            return case.prepare(plan(folder)).engine
        finally:
            case.close()

    assert "LlamaForCausalLM.generate" in engine(Baseline)
    assert engine(Eager).endswith("model: plain PyTorch; dynamic ops: plain PyTorch; no graphs")
    assert engine(Jit).endswith("model: TorchScript; dynamic ops: TorchScript; no graphs")
    assert "no graphs on a CPU: replayed eagerly, 4 buckets up to 64" in engine(CudaGraph)
    assert "model: TorchScript" in engine(JitCudaGraph)
    assert "replayed eagerly" in engine(JitCudaGraph)


@pytest.mark.parametrize(
    ("kind", "phases"),
    [(Eager, ["compile"]), (CudaGraph, ["compile", "capture"]), (JitCudaGraph, ["compile", "capture"])],
)
def test_a_lean_case_says_when_it_compiles_and_when_it_captures(kind, phases, folder):
    case, reported = kind(), []
    with heard(case, reported.append):
        case.prepare(plan(folder))
    case.close()
    assert reported == phases


def test_a_decode_graph_that_can_not_be_captured_fails_in_the_capture(folder, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room for a graph")

    monkeypatch.setattr(EagerCapture, "__call__", refuse)
    case, reported = CudaGraph(), []
    with heard(case, reported.append), pytest.raises(RuntimeError, match=r"captured: .*no room for a graph"):
        case.prepare(plan(folder))
    case.close()
    assert reported[-1] == "capture"


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (Eager, {"decode": "kv_cache", "foo": 1}, "there is no option foo; allowed: decode"),
        (Jit, {"jit": {"backend": "auto", "foo": 1}}, "there is no option jit.foo; allowed: backend"),
        (Jit, {"jit": {"backend": "auto"}, "graph": {}}, "there is no option graph; allowed: decode, jit"),
    ],
)  # fmt: skip
def test_an_option_that_nothing_reads_is_refused(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind.check_options(options)
