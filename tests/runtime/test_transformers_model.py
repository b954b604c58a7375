"""Transformers' forward inside our runtime: its own logits, the baseline's tokens, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from cases.baseline import Baseline
from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.dynamic_ops import PlainOps
from cases.runtime.llama import State
from cases.runtime.shape import read_shape
from cases.runtime.transformers_model import TransformersLlama, load_model
from harness.contract import Sampling
from tests.runtime.llamas import GRAPH, JIT, new_model, plan, prompt, save

PUBLISHED = {"model_code": "transformers", "decode": "recompute", "logits": "all"}
EXACT = GRAPH | {"buckets": "exact", "largest": 40, "max_graphs": 50, "initial": [5, 9], "beyond": "ungraphed"}


@pytest.fixture(scope="module", params=["llama", "mistral"])
def folder(request, tmp_path_factory):
    return save(new_model(request.param), tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("every", [True, False], ids=["all positions", "last position"])
def test_the_last_real_tokens_logits_are_those_of_transformers(folder, every):
    shape, model = read_shape(folder), load_model(folder, "float32", "cpu")
    state = State(shape, 96, torch.float32, "cpu")
    ours, ops = TransformersLlama(shape, model, state, all_positions=every), PlainOps(Sampling(), "cpu", 321)
    for length, count in ((1, 1), (7, 7), (7, 16), (40, 48)):
        ids = prompt(length)
        ops.load_prompt(ids, count, state)
        ours.forward(count)
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(state.logits, expected, rtol=1e-5, atol=1e-5)


def steps(case, ids, count):
    return [case.prefill(ids, count), *(case.decode() for _ in range(count - 1))]


@pytest.mark.parametrize("kind", [Eager, CudaGraph, Jit, JitCudaGraph])
def test_every_case_gives_the_baselines_tokens_and_logits(folder, kind):
    baseline, case = Baseline(), kind()
    baseline.prepare(plan(folder))
    options = {"graph": EXACT} if issubclass(kind, CudaGraph) else {}
    setup = case.prepare(plan(folder, **PUBLISHED, **options))
    assert setup.engine.startswith("Transformers 5")
    assert "logits of all positions" in setup.engine
    for length in (1, 5, 9, 30):
        assert steps(case, prompt(length), 8) == steps(baseline, prompt(length), 8)
        for ours, theirs in zip(
            case.score(prompt(length), [4, 5]), baseline.score(prompt(length), [4, 5]), strict=True
        ):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-4)
    if isinstance(case, CudaGraph):
        assert case.stats().hits > 0
    case.close()
    baseline.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_code": "vllm"}, "model_code must be lean or transformers"),
        ({"logits": "some"}, "logits must be last or all"),
        ({"logits": "all"}, "logits=all needs model_code=transformers"),
        ({"model_code": "transformers"}, "set decode=recompute with it"),
        ({**PUBLISHED, "graph": GRAPH}, "set graph.beyond=ungraphed with it"),
    ],
)
def test_what_does_not_go_together_is_refused(options, says):
    given = {"decode": "kv_cache", "graph": EXACT, "jit": JIT} | options
    with pytest.raises(ValueError, match=says):
        JitCudaGraph.check_options(given)
