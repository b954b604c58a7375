"""Nothing answers under another's name or title."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.job import CaseJob
from harness.settings import identity, validate
from harness.settings.compose import Source, compose_raw, to_config
from harness.settings.config import RunConfig

EXTRA = Source(extra=Path(__file__).parent / "conf")


@pytest.fixture(scope="module")
def configure():
    base = compose_raw(["experiment=smoke", "run=[fake,baseline,tensorrt_llm,eager]", "+case@cases.fake=fake"], EXTRA)
    OmegaConf.set_struct(base, False)
    return lambda *overrides: to_config(OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides))))


@pytest.mark.parametrize("name", identity.FIXED)
def test_a_fixed_name_keeps_its_target(configure, name):
    other = "cases.eager.Eager" if name != "eager" else "cases.jit.Jit"
    config = configure(f"run=[{name}]", f"cases.{name}.target={other}")
    with pytest.raises(ValueError, match=rf"^cases\.{name}\.target={other}: the name {name} stands for cases\."):
        identity.check_names(config)


@pytest.mark.parametrize("title", ["TensorRT-LLM", " tensorrt llm "])
def test_a_title_is_not_taken_from_another_engine(configure, title):
    config = configure(f"cases.fake.title='{title}'")
    with pytest.raises(ValueError, match=r"^cases\.fake\.title=.* is what tables call the case tensorrt_llm: choose"):
        identity.check_names(config)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["cases.fake.target=cases.cuda_graph.CudaGraph", "cases.fake.title=CUDA Graph"],
        ["cases.eager.title=Plain"],
        ["run=[fake]", "cases.baseline.target=cases.eager.Eager"],
    ],
    ids=str,
)
def test_honest_names_pass(configure, overrides):
    assert identity.check_names(configure(*overrides)) is None


def test_a_false_name_starts_nothing(tmp_path):
    folder = tmp_path / "run"
    call = [sys.executable, "-m", "harness", "experiment=smoke", f"output={folder}", "run=[tensorrt_llm]"]
    call += ["cases.tensorrt_llm.target=cases.jit.Jit"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "the name tensorrt_llm stands for" in done.stderr
    assert not folder.exists()


def test_two_stand_ins_are_one_too_many():
    with pytest.raises(ValueError, match="there is a case stand_in here already"):
        to_config(compose_raw(["experiment=paper", "cases.tensorrt_llm.impersonate=transformers"]))


def said(name: str, engine: str, **changed: Any) -> str:
    """What is wrong with this engine under that name, by the case that this repository ships."""
    target = identity.shipped_entry(name)["target"]
    return identity.wrong_engine(name, CaseJob("A case", changed.get("target", target), "inproc", None, 1, {}), engine)


def test_engines_are_told_by_their_first_word():
    assert said("baseline", "transformers 5.17 LlamaForCausalLM.generate") == ""
    assert said("tensorrt_llm", "tensorrt_llmish 1.0")
    assert said("tensorrt_llm", "")
    for name in ("vllm", "vllm_covering"):
        assert said(name, "vllm 0.23.0 LLMEngine in process") == ""
        assert "only vllm may answer" in said(name, "transformers 5.17")
    assert "only transformers may" in said("transformers_compile", "vllm 0.23.0 LLMEngine")
    assert said("tensorrt_llm", "transformers 5.17")
    assert said("jit_cuda_graph", "lean Llama, torch 2.11.0") == ""
    assert said("jit_cuda_graph", "anything", target="mine.Own") == ""


def test_an_engine_is_held_to_its_name_under_any_name_of_a_case():
    entry = CaseJob("vLLM, eager", "cases.vllm.Vllm", "inproc", None, 1, {})
    assert identity.wrong_engine("vllm_eager", entry, "vllm 0.23.0 LLMEngine in process") == ""
    told = identity.wrong_engine("vllm_eager", entry, "transformers 5.17")
    assert "under the name vllm_eager only vllm may answer" in told


def test_what_impersonates_must_be_transformers():
    assert said("tensorrt_llm", "transformers 5.17 x", target=identity.STAND_IN) == ""
    assert said("tensorrt_llm", "tensorrt_llm 1.2", target=identity.STAND_IN)


def composed(*overrides: str) -> RunConfig:
    return to_config(compose_raw(["experiment=smoke", "run=[tensorrt_llm]", *overrides]))


def test_the_published_stand_in_is_off_by_default_even_under_the_papers_protocol():
    case = composed("protocol=paper").cases["tensorrt_llm"]
    assert (case.title, case.target) == ("TensorRT-LLM", "cases.tensorrt_llm.TensorRtLlm")


def test_the_published_stand_in_has_a_label_that_it_can_not_lose():
    asked = ("protocol=paper", "cases.tensorrt_llm.impersonate=transformers")
    config = composed(*asked)
    assert (config.run, "tensorrt_llm" in config.cases) == (["stand_in"], False), "no file calls it TensorRT-LLM"
    case = config.cases["stand_in"]
    assert (case.title, case.target) == (identity.IMPERSONATED, identity.STAND_IN)
    validate.check(composed(*asked))
    with pytest.raises(ValueError, match="the case's title must stay"):
        validate.check(composed(*asked, "cases.tensorrt_llm.title=TensorRT-LLM"))
    with pytest.raises(ValueError, match="the case's title must stay"):
        validate.check(composed(*asked, "cases.tensorrt_llm.target=cases.baseline.Baseline"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["cases.tensorrt_llm.impersonate=transformers"], "it needs protocol.engine_check=false"),
        (["protocol=paper", "cases.tensorrt_llm.impersonate=vllm"], "must be null or transformers, not 'vllm'"),
        (["protocol=paper", "cases.tensorrt_llm.target=cases.stand_in.StandIn"], "needs impersonate=transformers"),
    ],
)
def test_no_other_way_into_the_engines_place(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        validate.check(composed(*overrides))
