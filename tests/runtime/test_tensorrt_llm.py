"""TensorRT-LLM where it is not, and over a stand-in for its LLM API."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cases.tensorrt_llm import TensorRtLlm
from harness.contract import Plan, Unavailable
from tests.runtime.llamas import plan

TRT = {"overlap_scheduler": False, "memory_fraction": 0.5, "impersonate": None}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 1}, "^tensorrt_llm has no option batch, only overlap_scheduler, memory_fraction, impersonate$"),
        ({"impersonate": "transformers"}, "^the engine itself impersonates nobody: impersonate must be null for it$"),
        ({"overlap_scheduler": "no"}, "^overlap_scheduler must be true or false, not 'no'$"),
        ({"overlap_scheduler": 1}, "^overlap_scheduler must be true or false, not 1$"),
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


GPU = Plan("tensorrt_llm", "nowhere", "cuda", "float16", 96, options=TRT)


def of_version(version: str | None) -> ModuleType:
    """A package of this name with nothing in it."""
    package = ModuleType("tensorrt_llm")
    if version is not None:
        package.__version__ = version  # type: ignore[attr-defined]
    return package


@pytest.mark.parametrize("module", [None, of_version("1.0.0")], ids=["missing", "without its LLM API"])
def test_tensorrt_llm_is_unavailable_without_its_package(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
    case = TensorRtLlm()
    with pytest.raises(Unavailable, match=r"can't be imported \(.+\): install the extra `tensorrt-llm` in an env"):
        case.prepare(GPU)
    case.close()


@pytest.mark.parametrize("version", ["0.21.0", "0.9", "", None])
def test_tensorrt_llm_below_1_0_is_unavailable_with_its_version(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt_llm", of_version(version))
    case = TensorRtLlm()
    stated = "of no stated version" if version is None else version
    with pytest.raises(Unavailable, match=rf"^tensorrt_llm {stated} is here, and 1\.0 or later is needed: install"):
        case.prepare(GPU)
    case.close()


class Request:
    """A streamed request as the LLM API hands it out: cumulative token ids, then an empty closing chunk."""

    def __init__(self, chunks: list[int]) -> None:
        self.left, self.sent, self.aborted = list(chunks), 0, False

    @property
    def finished(self) -> bool:
        return self.aborted or not self.left

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> Any:
        if self.finished:
            raise StopAsyncIteration
        self.sent += self.left.pop(0)
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=list(range(100, 100 + self.sent)))])

    async def aresult(self) -> None:
        self.left.clear()

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def streaming(monkeypatch):
    """TensorRtLlm over a stand-in for the package: `chunks` of the next request, and what it was called with."""
    seen = SimpleNamespace(chunks=[1, 1, 1, 0], requests=[], model={}, sampling=[], down=False)

    class Engine:
        def __init__(self, **arguments: Any) -> None:
            seen.model = arguments

        def generate_async(self, ids: list[int], sampling: Any, streaming: bool) -> Request:
            assert streaming
            seen.requests.append(Request(seen.chunks))
            return seen.requests[-1]

        def shutdown(self) -> None:
            seen.down = True

    Engine.__module__ = "tensorrt_llm.llmapi.llm"
    package, api = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    package.__version__ = "1.0"  # type: ignore[attr-defined]
    package.LLM = Engine  # type: ignore[attr-defined]
    package.SamplingParams = lambda **named: seen.sampling.append(named)  # type: ignore[attr-defined]
    api.CudaGraphConfig = api.KvCacheConfig = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", api)
    case = TensorRtLlm()
    set_up = case.prepare(Plan("tensorrt_llm", "there", "cuda", "float16", 96, options=TRT))
    assert set_up.engine == "tensorrt_llm 1.0 Engine, overlap scheduler off"
    yield case, seen
    case.close()
    assert seen.down


def test_tensorrt_llm_streams_token_by_token(streaming):
    case, seen = streaming
    assert [case.prefill([5, 6], 3), case.decode(), case.decode()] == [100, 101, 102]
    assert seen.model["model"] == "there"
    assert seen.model["skip_tokenizer_init"] is True
    assert seen.model["kv_cache_config"] == {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.5}
    assert (seen.sampling[0]["max_tokens"], seen.sampling[0]["temperature"]) == (3, 0.0)


def test_tensorrt_llm_aborts_what_was_left_before_the_next_request(streaming):
    case, seen = streaming
    case.prefill([5, 6], 3)
    assert case.prefill([7], 3) == 100
    assert [request.aborted for request in seen.requests] == [True, False]


def test_tensorrt_llm_fails_when_two_tokens_share_one_time(streaming):
    case, seen = streaming
    seen.chunks = [1, 2]
    case.prefill([5, 6], 3)
    with pytest.raises(RuntimeError, match="a chunk of the stream holds 2 tokens: they have no time of their own"):
        case.decode()


def test_tensorrt_llm_fails_when_the_stream_ends_early(streaming):
    case, seen = streaming
    seen.chunks = [1, 0]
    case.prefill([5, 6], 3)
    with pytest.raises(RuntimeError, match="the stream ended after 1 tokens"):
        case.decode()


@pytest.mark.usefixtures("streaming")
def test_what_is_not_of_the_package_does_not_answer_in_its_name():
    sys.modules["tensorrt_llm"].LLM.__module__ = "transformers.models"
    other = TensorRtLlm()
    with pytest.raises(
        RuntimeError, match=r"^tensorrt_llm\.LLM gave a transformers\.models\.Engine, which is not Tens"
    ):
        other.prepare(GPU)
    other.close()
