"""Nothing answers under another's name or title."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness import identity
from harness.compose import Source, compose_raw, to_config
from tests.runs import begin

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
    with pytest.raises(ValueError, match="the name tensorrt_llm stands for"):
        begin(folder, "run=[tensorrt_llm]", "cases.tensorrt_llm.target=cases.baseline.Baseline")
    assert not folder.exists()


def test_engines_are_told_by_their_first_word():
    assert identity.wrong_engine("baseline", "transformers 5.17 LlamaForCausalLM.generate") == ""
    assert identity.wrong_engine("mine", "anything") == ""
    assert identity.wrong_engine("tensorrt_llm", "tensorrt_llmish 1.0")
    assert identity.wrong_engine("tensorrt_llm", "")
