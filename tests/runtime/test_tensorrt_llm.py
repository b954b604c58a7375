"""TensorRT-LLM where it is not, and what its case asks of each release, over the strict stand-in of its API."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cases.tensorrt import processes, versions
from cases.tensorrt_llm import TensorRtLlm
from harness.contract import Plan, Sampling, Unavailable, Unsupported
from tests.entries import CONTEXT
from tests.runtime.llamas import plan
from tests.standin import RELEASES, act, stand_in

TRT = {
    "overlap_scheduler": False,
    "early_first_token": False,
    "worker": "single",
    "memory_fraction": 0.5,
    "impersonate": None,
}
GIVEN = "overlap_scheduler, early_first_token, worker, memory_fraction, impersonate"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 1}, f"^tensorrt_llm has no option batch, only {GIVEN}$"),
        ({"impersonate": "transformers"}, "^the engine itself impersonates nobody: impersonate must be null for it$"),
        ({"overlap_scheduler": "no"}, "^overlap_scheduler must be true or false, not 'no'$"),
        ({"overlap_scheduler": 1}, "^overlap_scheduler must be true or false, not 1$"),
        ({"early_first_token": None}, "^early_first_token must be true or false, not None$"),
        ({"early_first_token": True}, "^early_first_token=true .* needs overlap_scheduler=true$"),
        ({"worker": "thread"}, "^worker must be one of auto, processes, single, not 'thread'$"),
        ({"memory_fraction": 0}, "^memory_fraction must lie between 0 and 1, not 0$"),
        ({"memory_fraction": 1}, "^memory_fraction must lie between 0 and 1, not 1$"),
        ({"memory_fraction": True}, "^memory_fraction must lie between 0 and 1, not True$"),
        ({"memory_fraction": "half"}, "^memory_fraction must lie between 0 and 1, not 'half'$"),
    ],
)
def test_tensorrt_llm_refuses_bad_options_in_one_sentence(change, sentence):
    TensorRtLlm.check_options(TRT)
    with pytest.raises(ValueError, match=sentence):
        TensorRtLlm.check_options(TRT | change)


@pytest.mark.parametrize("name", TRT)
def test_tensorrt_llm_says_which_option_was_taken_away(name):
    with pytest.raises(ValueError, match=f"^tensorrt_llm needs the option {name}, which conf/case/tensorrt_llm.yaml"):
        TensorRtLlm.check_options({key: value for key, value in TRT.items() if key != name})


def test_tensorrt_llm_is_unavailable_on_a_cpu():
    case = TensorRtLlm()
    with pytest.raises(Unavailable, match="TensorRT-LLM needs a CUDA GPU; this run is on the CPU"):
        case.prepare(plan("nowhere", "tensorrt_llm"))
    case.close()


def gpu(checkpoint: str, sampling: Sampling | None = None, **change: object) -> Plan:
    return Plan("tensorrt_llm", checkpoint, "cuda", "float16", CONTEXT, sampling or Sampling(), TRT | change)


def prepared(checkpoint: str, **change: object) -> str:
    """The engine string of a case that was made and closed again."""
    case = TensorRtLlm()
    try:
        return case.prepare(gpu(checkpoint, **change)).engine
    finally:
        case.close()


def of_version(version: str | None) -> ModuleType:
    """A package of this name with nothing in it."""
    package = ModuleType("tensorrt_llm")
    if version is not None:
        package.__version__ = version  # type: ignore[attr-defined]
    return package


@pytest.mark.parametrize("module", [None, of_version("1.0.0")], ids=["missing", "without its LLM API"])
def test_tensorrt_llm_is_unavailable_without_its_package(monkeypatch, module, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
    with pytest.raises(Unavailable, match=r"can't be imported \(.+\): `make setup-tensorrt-llm` installs it in an env"):
        prepared(tiny_checkpoint)
    assert processes.MARK not in os.environ, "what is started later is not the engine's"


@pytest.mark.parametrize("version", ["0.21.0", "0.9", "", None])
def test_tensorrt_llm_below_1_0_is_unavailable_with_its_version(monkeypatch, version, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, "tensorrt_llm", of_version(version))
    stated = "of no stated version" if version is None else version
    with pytest.raises(Unavailable, match=rf"^tensorrt_llm {stated} is here, and 1\.0 or later is needed: `make"):
        prepared(tiny_checkpoint)


@pytest.mark.parametrize("missing", ["config.json", "*.safetensors"])
def test_without_the_weights_nothing_is_loaded(tmp_path, tiny_checkpoint, missing):
    for path in Path(tiny_checkpoint).iterdir():
        if not path.match(missing):
            (tmp_path / path.name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"^the checkpoint .* has no config\.json and \*\.safetensors to load$"):
        prepared(str(tmp_path))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("overlap", [False, True])
def test_the_engine_says_version_backend_and_every_variant(release, overlap, tiny_checkpoint):
    clock = "arrival in the engine" if release == "1.0.0" else "submission"
    with stand_in(release):
        assert prepared(tiny_checkpoint, overlap_scheduler=overlap) == (
            f"tensorrt_llm {release} LLM, backend pytorch, CUDA graph of batch 1, block reuse off, overlap scheduler "
            f"{'on' if overlap else 'off'}, single-process worker, server clock from a request's {clock}"
        )


@pytest.mark.parametrize("release", RELEASES)
def test_the_engine_and_its_requests_are_asked_for_what_the_plan_says(release, tiny_checkpoint):
    with stand_in(release):
        case = TensorRtLlm()
        case.prepare(gpu(tiny_checkpoint))
        args, request = vars(case._engine.llm.args), vars(case._engine.sampling(7))
        defaults = case._engine.sampling_class.fields
        case.close()
    wanted = {
        "model": tiny_checkpoint, "skip_tokenizer_init": True, "trust_remote_code": False, "dtype": "float16",
        "max_batch_size": 1, "max_seq_len": CONTEXT, "max_num_tokens": CONTEXT, "enable_chunked_prefill": False,
        "disable_overlap_scheduler": True, "stream_interval": 1,
    }  # fmt: skip
    assert {name: args[name] for name in wanted} == wanted
    assert args["kv_cache_config"].free_gpu_memory_fraction == 0.5
    given = {name: value for name, value in request.items() if value != defaults[name]}
    assert given == {
        "max_tokens": 7, "end_id": -1, "pad_id": -1, "ignore_eos": True, "detokenize": False,
        "return_perf_metrics": True, "top_k": 1,
    }  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
def test_an_argument_that_a_release_does_not_know_is_an_error_that_names_it(release, tiny_checkpoint):
    with stand_in(release), pytest.raises(Unsupported) as raised:
        prepared(tiny_checkpoint, overlap_scheduler=True, early_first_token=True)
    said = f"tensorrt_llm {release} has no argument enable_early_first_token_response of LLM: this case is written for"
    assert str(raised.value).startswith(said)


def test_the_metrics_of_llm_are_asked_for_from_1_1_on_and_1_0_would_refuse_them(monkeypatch, tiny_checkpoint):
    numbers = {release: (int(release[0]), int(release[2])) for release in RELEASES}
    asked = {
        release: versions.llm_arguments(gpu(tiny_checkpoint), versions.Version(release, numbers[release]))
        for release in RELEASES
    }
    assert [asked[release].get("return_perf_metrics") for release in RELEASES] == [None, True, True]
    monkeypatch.setattr(versions, "LLM_METRICS", (1, 0))
    with stand_in("1.0.0"), pytest.raises(Unsupported, match=r"^tensorrt_llm 1\.0\.0 has no argument return_perf_met"):
        prepared(tiny_checkpoint)


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("cache_arguments", lambda _: {"block_reuse": False}, "KvCacheConfig: .* block_reuse"),
        ("sampling_arguments", lambda *_: {"max_new_tokens": 1}, "SamplingParams: .* max_new_tokens"),
    ],
)
def test_a_name_that_a_configuration_does_not_know_names_the_version_too(
    monkeypatch, tiny_checkpoint, name, change, kind
):
    monkeypatch.setattr(versions, name, change)
    with stand_in("1.1.0"), pytest.raises(Unsupported, match=rf"^tensorrt_llm 1\.1\.0 refuses the arguments of {kind}"):
        prepared(tiny_checkpoint)


def test_a_repetition_penalty_is_refused_before_the_first_request(tiny_checkpoint):
    case = TensorRtLlm()
    with stand_in("1.2.0"), pytest.raises(Unsupported, match="penalises repetitions"):
        case.prepare(gpu(tiny_checkpoint, Sampling(repetition_penalty=1.1)))
    case.close()


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ({"backend": "tensorrt"}, "^the engine runs with backend='tensorrt', and 'pytorch' was asked for$"),
        ({"block_reuse": True}, "^the engine runs with enable_block_reuse=True, and False was asked for$"),
    ],
)
def test_what_the_engine_runs_with_is_held_against_what_was_asked_for(
    monkeypatch, tiny_checkpoint, behaviour, sentence
):
    act(monkeypatch, **behaviour)
    with stand_in("1.2.0"), pytest.raises(RuntimeError, match=sentence):
        prepared(tiny_checkpoint)


def test_dummy_weights_are_no_engine(monkeypatch, tiny_checkpoint):
    real = versions.llm_arguments
    monkeypatch.setattr(versions, "llm_arguments", lambda *given: {**real(*given), "load_format": "dummy"})
    with stand_in("1.2.0"), pytest.raises(RuntimeError, match="load_format='DUMMY', and 'AUTO' was asked for"):
        prepared(tiny_checkpoint)


def test_what_is_not_of_the_package_does_not_answer_in_its_name(tiny_checkpoint):
    with stand_in("1.2.0"):
        import tensorrt_llm

        tensorrt_llm.LLM.__module__ = "transformers.models"
        with pytest.raises(
            RuntimeError, match=r"^tensorrt_llm\.LLM gave a transformers\.models\.LLM, which is not Ten"
        ):
            prepared(tiny_checkpoint)


@pytest.mark.parametrize("release", RELEASES)
def test_every_name_that_the_case_uses_stands_in_its_document(release, tiny_checkpoint):
    text = (Path(__file__).resolve().parents[2] / "cases/tensorrt_llm.md").read_text(encoding="utf-8")
    version = versions.Version(release, (int(release[0]), int(release[2])))
    sampled = gpu(tiny_checkpoint, Sampling("sample", top_k=5))
    used = {*versions.llm_arguments(sampled, version), *versions.cache_arguments(sampled), *versions.GRAPH_ARGUMENTS}
    used |= {*versions.sampling_arguments(sampled, 1), *versions.sampling_arguments(gpu("x"), 1)}
    assert [name for name in sorted(used) if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("kind", "name", "releases"),
    [
        ("TorchLlmArgs", "enable_mixed_sampler", ["1.0.0"]),
        ("TorchLlmArgs", "build_config", ["1.0.0", "1.1.0"]),
        ("TorchLlmArgs", "sampler_type", ["1.1.0", "1.2.0"]),
        ("TorchLlmArgs", "return_perf_metrics", ["1.1.0", "1.2.0"]),
        ("TorchLlmArgs", "nvfp4_gemm_config", ["1.2.0"]),
        ("SamplingParams", "prompt_ignore_length", ["1.2.0"]),
        ("SamplingParams", "return_perf_metrics", ["1.0.0", "1.1.0", "1.2.0"]),
    ],
)
def test_the_stand_in_has_of_each_release_what_its_pages_show(kind, name, releases):
    found = []
    for release in RELEASES:
        with stand_in(release):
            from tensorrt_llm import llmapi

            found += [release] if name in getattr(llmapi, kind).fields else []
    assert found == releases


@pytest.mark.parametrize("release", RELEASES)
def test_the_sampling_that_the_case_asks_for_is_what_each_release_takes_it_for(release):
    with stand_in(release):
        from tensorrt_llm import SamplingParams

        plans = [gpu("x"), gpu("x", Sampling("sample", temperature=0.7)), gpu("x", Sampling("sample", top_k=5))]
        given = [SamplingParams(**versions.sampling_arguments(plan, 1)) for plan in plans]
        assert [params._greedy_decoding for params in given] == [True, False, False]
        assert SamplingParams(temperature=0.7)._greedy_decoding is (release != "1.2.0")


@pytest.mark.parametrize("release", RELEASES)
def test_a_request_takes_the_arguments_of_its_release_alone(release, tiny_checkpoint):
    with stand_in(release):
        case = TensorRtLlm()
        case.prepare(gpu(tiny_checkpoint))
        taken = []
        for name in ("scheduling_params", "cache_salt", "trace_headers", "priority"):
            with pytest.raises((TypeError, ValueError)) as raised:
                case._engine.llm.generate_async([1], None, streaming=True, **{name: None})
            taken += [name] if raised.type is ValueError else []  # past the names, at the missing end_id
        case.close()
    assert taken == ["scheduling_params", "cache_salt", "trace_headers"][: 1 + RELEASES.index(release)]


def test_close_closes_the_loop_where_the_engine_fails_to_end(tiny_checkpoint, monkeypatch):
    case = TensorRtLlm()
    with stand_in("1.2.0"):
        case.prepare(gpu(tiny_checkpoint))
        loop, engine = case._loop, case._engine
        with monkeypatch.context() as broken:
            broken.setattr(type(engine), "shutdown", lambda _: {}["engine"])
            with pytest.raises(KeyError, match="engine"):
                case.close()
        engine.shutdown()
    assert loop.is_closed()
