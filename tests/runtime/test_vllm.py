"""vLLM where it is not, and over a stand-in for its API."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from cases.vllm import Vllm
from cases.vllm_engine import ENVIRONMENT
from harness.contract import Footprint, Plan, Sampling, Stats, Unavailable, Unsupported
from tests.runtime import vllm_api
from tests.runtime.llamas import plan

OPTIONS: dict[str, Any] = {
    "max_num_seqs": None, "capture_sizes": None, "cudagraph_mode": None, "async_scheduling": None,
    "memory_fraction": 0.9,
}  # fmt: skip


def gpu(sampling: Sampling | None = None, **changes: Any) -> Plan:
    return Plan("vllm", "there", "cuda", "float16", 96, sampling or Sampling(), OPTIONS | changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 1}, "^vllm has no option batch, only max_num_seqs, capture_sizes, cudagraph_mode, async_schedul"),
        ({"max_num_seqs": 0}, "^max_num_seqs must be null or a whole number from 1 on, not 0$"),
        ({"max_num_seqs": True}, "^max_num_seqs must be null or a whole number from 1 on, not True$"),
        ({"capture_sizes": []}, r"^capture_sizes must be null or a list of whole numbers from 1 on, not \[\]$"),
        ({"capture_sizes": [0, 1]}, r"^capture_sizes must be null or a list .* not \[0, 1\]$"),
        ({"capture_sizes": [True]}, r"^capture_sizes must be null or a list .* not \[True\]$"),
        ({"capture_sizes": "10"}, "^capture_sizes must be null or a list .* not '10'$"),
        ({"cudagraph_mode": "full"}, "^cudagraph_mode must be null or one of FULL_AND_PIECEWISE, FULL, .* not 'full'$"),
        ({"cudagraph_mode": "NONE"}, "^cudagraph_mode must be null or one of .* not 'NONE'$"),
        ({"async_scheduling": 1}, "^async_scheduling must be null, true or false, not 1$"),
        ({"memory_fraction": 1}, "^memory_fraction must lie between 0 and 1, not 1$"),
        ({"memory_fraction": True}, "^memory_fraction must lie between 0 and 1, not True$"),
    ],
)
def test_vllm_refuses_bad_options_in_one_sentence(change, sentence):
    Vllm.check_options(OPTIONS)
    with pytest.raises(ValueError, match=sentence):
        Vllm.check_options(OPTIONS | change)


@pytest.mark.parametrize("name", OPTIONS)
def test_vllm_says_which_option_was_taken_away(name):
    with pytest.raises(ValueError, match=f"^vllm needs the option {name}, which conf/case/vllm.yaml gives$"):
        Vllm.check_options({key: value for key, value in OPTIONS.items() if key != name})


def test_vllm_is_unavailable_on_a_cpu():
    case = Vllm()
    with pytest.raises(Unavailable, match=r"^vLLM needs a CUDA GPU; this run is on the CPU$"):
        case.prepare(plan("nowhere", "vllm"))
    case.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The variables that the case sets are set otherwise before, and as they were after a test."""
    for name in (*ENVIRONMENT, "VLLM_USE_FLASHINFER_SAMPLER"):
        monkeypatch.setenv(name, "before")


def of_version(version: str | None) -> ModuleType:
    """A package of this name with nothing in it."""
    package = ModuleType("vllm")
    if version is not None:
        package.__version__ = version  # type: ignore[attr-defined]
    return package


@pytest.mark.parametrize("module", [None, of_version("0.23.0")], ids=["missing", "without its API"])
def test_vllm_is_unavailable_without_its_package(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "vllm", module)
    case = Vllm()
    with pytest.raises(Unavailable, match=r"^the package vllm can't be imported \(.+\): `make setup-vllm` puts"):
        case.prepare(gpu())
    case.close()


@pytest.mark.parametrize("version", ["0.22.9", "0.8.5", "dev", "", None])
def test_vllm_below_0_23_is_unavailable_with_its_version(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "vllm", of_version(version))
    case = Vllm()
    stated = "of no stated version" if version is None else version
    with pytest.raises(Unavailable, match=rf"^vllm {stated} is here, and 0\.23 or later is needed: `make setup-vllm`"):
        case.prepare(gpu())
    case.close()


@pytest.fixture
def installed(monkeypatch):
    """Put the stand-in where the package would be; returns what it sees."""

    def install(**named: Any) -> vllm_api.Seen:
        modules, seen = vllm_api.packages(**named)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return seen

    return install


@pytest.fixture(params=[None, False], ids=["asynchronous", "synchronous"])
def stepped(request, installed):
    """A prepared case and what its engine saw."""
    seen = installed()
    case = Vllm()
    case.prepare(gpu(async_scheduling=request.param))
    yield case, seen
    case.close()


def test_every_call_gives_the_next_token_and_nothing_more_runs(stepped):
    case, seen = stepped
    assert [case.prefill([5, 6], 3), case.decode(), case.decode()] == [12, 13, 14]
    with pytest.raises(RuntimeError, match=r"^prefill\(prompt, new_tokens\) with new_tokens above 1 comes before"):
        case.decode()
    assert [case.prefill([7]), case.prefill([7])] == [8, 8]
    assert seen.ran == ["1", "1", "1", "2", "3"]
    assert (seen.aborted, case.stats()) == ([], Stats())


def test_what_a_request_had_left_is_aborted_and_taken_before_the_next(stepped):
    case, seen = stepped
    case.prefill([5, 6], 9)
    case.decode()
    assert [case.prefill([7], 2), case.decode()] == [8, 9]
    assert seen.aborted == ["1"]
    assert seen.ran[seen.ran.index("2") :] == ["2", "2"], "no step of the first request runs beside the second"
    assert seen.in_flight == [0, 0], "what the first had in flight was taken before the second was given"


def test_tokens_that_share_a_step_fail_the_request_and_the_next_one_goes_on(stepped):
    case, seen = stepped
    case.prefill([5, 6], 8)
    seen.tokens_a_step = 2
    with pytest.raises(RuntimeError, match=r"^a step of the engine gave 2 tokens: they have no time of their own$"):
        case.decode()
    seen.tokens_a_step = 1
    assert case.prefill([7]) == 8
    assert seen.aborted == ["1"]


def test_a_request_that_the_engine_ends_early_fails(stepped):
    case, seen = stepped
    case.prefill([5, 6], 8)
    seen.lose = True
    with pytest.raises(RuntimeError, match=r"^the engine ended the request before its last token$"):
        case.decode()
    with pytest.raises(RuntimeError, match=r"comes before decode\(\)$"):
        case.decode()


def test_tokens_from_the_prefix_cache_fail_the_request(stepped):
    case, seen = stepped
    seen.cached = 16
    with pytest.raises(RuntimeError, match=r"^16 prompt tokens came from the prefix cache, which is off$"):
        case.prefill([5, 6])


def test_the_engine_is_asked_for_what_the_plan_says(installed):
    seen, case = installed(), Vllm()
    set_up = case.prepare(gpu())
    given = {name: value for name, value in vars(seen.arguments).items() if value is not None}
    assert given == {
        "model": "there", "load_format": "safetensors", "trust_remote_code": False, "skip_tokenizer_init": True,
        "dtype": "float16",
        "max_model_len": 96, "enable_prefix_caching": False, "gpu_memory_utilization": 0.9,
        "disable_log_stats": True, "use_tqdm_on_load": False,
    }  # fmt: skip
    assert seen.usage is vllm_api.UsageContext.LLM_CLASS
    wanted = ENVIRONMENT | {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    assert {name: seen.environment[name] for name in wanted} == wanted
    assert set_up.engine == (
        "vllm 0.23.0 LLMEngine in process, model runner 2, FLASH_ATTN, CUDA graphs FULL_AND_PIECEWISE of 51 sizes "
        "from 1 to 512 tokens, "
        "async scheduling on; VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 "
        "VLLM_USE_FLASHINFER_SAMPLER=0"
    )
    case.close()


def test_capture_sizes_have_one_for_decode_and_options_reach_the_engine(installed):
    seen, case = installed(version="0.24.0rc1"), Vllm()
    seen.resolved = {"compilation_time": 2.5}
    set_up = case.prepare(gpu(max_num_seqs=1, capture_sizes=[400, 10], cudagraph_mode="FULL", async_scheduling=False))
    assert seen.arguments.max_num_seqs == 1
    assert seen.arguments.cudagraph_capture_sizes == [1, 10, 400]
    assert seen.arguments.compilation_config == {"cudagraph_mode": "FULL"}
    assert "vllm 0.24.0rc1 " in set_up.engine
    assert "CUDA graphs FULL of 1, 10, 400 tokens, async scheduling off" in set_up.engine
    assert set_up.compile_s == 2.5
    case.close()


def test_the_sampler_of_flashinfer_stays_where_flashinfer_is(installed, monkeypatch):
    there = ModuleType("flashinfer")
    there.__spec__ = ModuleSpec("flashinfer", None)
    monkeypatch.setitem(sys.modules, "flashinfer", there)
    seen, case = installed(), Vllm()
    assert "FLASHINFER" not in case.prepare(gpu()).engine
    assert seen.environment["VLLM_USE_FLASHINFER_SAMPLER"] == "before"
    case.close()


def test_sampling_is_handed_on_as_it_is(stepped):
    case, seen = stepped
    case.prefill([5], 2)
    case.use(Sampling("sample", temperature=0.7, top_k=50, top_p=0.9, seed=4, repetition_penalty=1.1))
    case.prefill([5], 2)
    greedy, sampled = seen.sampling
    assert (greedy.temperature, greedy.seed, greedy.max_tokens, greedy.repetition_penalty) == (0.0, None, 2, 1.0)
    assert (sampled.temperature, sampled.top_k, sampled.top_p, sampled.seed) == (0.7, 50, 0.9, 4)
    assert sampled.repetition_penalty == 1.1
    for params in (greedy, sampled):
        assert (params.ignore_eos, params.detokenize, params.output_kind.name) == (True, False, "DELTA")


def test_sampling_that_vllm_would_change_is_refused(stepped):
    case, _ = stepped
    with pytest.raises(ValueError, match=r"^temperature must be above 0 to sample, not 0$"):
        case.use(Sampling("sample", temperature=0))
    with pytest.raises(Unsupported, match=r"no temperature below 0\.01"):
        case.use(Sampling("sample", temperature=0.001))
    with pytest.raises(Unsupported, match="seed -1"):
        case.use(Sampling("sample", seed=-1))
    other = Vllm()
    with pytest.raises(Unsupported, match=r"no temperature below 0\.01"):
        other.prepare(gpu(Sampling("sample", temperature=0.001)))
    other.close()


def test_no_logits_are_made_up(stepped):
    case, _ = stepped
    assert not case.capabilities.logits
    with pytest.raises(Unsupported, match="does not hand out logits"):
        case.score([5], [])


def test_an_argument_that_this_version_does_not_know_is_an_error(installed):
    installed(version="0.31.0", arguments=[n for n in vllm_api.ENGINE_ARGUMENTS if n != "async_scheduling"])
    case = Vllm()
    with pytest.raises(RuntimeError, match=r"^vllm 0\.31\.0 has no engine argument async_scheduling: this case needs"):
        case.prepare(gpu())
    case.close()


@pytest.mark.parametrize(
    ("resolved", "asked", "sentence"),
    [
        ({}, {}, "^vLLM has prefix caching on, which was asked to be off$"),
        ({"cudagraph_mode": "PIECEWISE"}, {"cudagraph_mode": "FULL"},
         "^vLLM took cudagraph_mode PIECEWISE, not FULL: its .*; cudagraph_mode=null takes"),
        ({"cudagraph_mode": "NONE"}, {}, "^vLLM took cudagraph_mode NONE, not one with graphs: its "),
        ({"cudagraph_capture_sizes": [1, 10]}, {"capture_sizes": [10, 20]},
         r"^vLLM captures \[1, 10\], without the size 20 asked for$"),
    ],
)  # fmt: skip
def test_an_engine_that_took_other_settings_does_not_answer(installed, resolved, asked, sentence):
    seen, case = installed(), Vllm()
    seen.resolved, seen.prefix_caching = resolved, not (resolved or asked)
    with pytest.raises(Unsupported if "cudagraph_mode" in resolved else RuntimeError, match=sentence):
        case.prepare(gpu(**asked))
    case.close()
    assert seen.down == ["renderer", "core"]


def test_an_engine_in_another_process_or_package_does_not_answer(installed):
    seen, case = installed(), Vllm()
    seen.core = "SyncMPClient"
    with pytest.raises(RuntimeError, match=r"^the engine's core is a SyncMPClient, not in this process$"):
        case.prepare(gpu())
    case.close()
    installed()
    sys.modules["vllm"].LLMEngine.__module__ = "transformers.models"
    with pytest.raises(RuntimeError, match=r"^vllm\.LLMEngine gave a transformers\.models\.LLMEngine, which is not vL"):
        case.prepare(gpu())
    case.close()


def test_close_gives_the_engine_back_once(installed):
    seen, case = installed(), Vllm()
    assert case.footprint() == Footprint()
    case.prepare(gpu())
    case.prefill([5], 4)
    case.close()
    case.close()
    assert seen.down == ["renderer", "core"]
    with pytest.raises(RuntimeError, match=r"^prepare\(\) comes before the first request$"):
        case.prefill([5])


def test_close_ends_the_core_where_the_renderer_fails(installed, monkeypatch):
    seen, case = installed(), Vllm()
    case.prepare(gpu())
    monkeypatch.setattr(case._engine.renderer, "shutdown", lambda: {}["renderer"])
    with pytest.raises(KeyError, match="renderer"):
        case.close()
    assert seen.down == ["core"]
