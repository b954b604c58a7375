"""Composition and types: each yaml names a class, each mistake is one sentence."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from omegaconf import OmegaConf

from harness.settings import validate
from harness.settings.compose import CONF, Source, compose_raw, expand_sweeps, flatten, resolved, to_config
from harness.settings.config import CaseConfig, RunConfig
from harness.settings.helptext import NO_HELP, help_text, option_lines, yaml_comments

EXTRA = Source(extra=Path(__file__).parent / "conf")


def compose(*overrides: str) -> RunConfig:
    return to_config(compose_raw(overrides))


@pytest.mark.parametrize("overrides", [[], ["experiment=smoke"], ["model=tiny", "device=cpu"]])
def test_configurations_compose_into_types(overrides):
    config = compose(*overrides)
    assert config.run == ["baseline", "cuda_graph", "jit", "jit_cuda_graph", "tensorrt_llm"]
    assert all(isinstance(case, CaseConfig) for case in config.cases.values())
    assert config.sweep.p99_iterations == config.sweep.ttft_iterations


def test_engines_are_compared_by_naming_them():
    config = compose("run=[baseline,jit_cuda_graph,vllm,transformers_compile]")
    validate.check(config)
    assert config.run == ["baseline", "jit_cuda_graph", "vllm", "transformers_compile"]


def test_the_covering_vllm_captures_whole_forwards_of_the_sweeps_lengths_and_the_other_its_own():
    config = compose("run=[vllm,vllm_covering]", "sweep.prompt_lengths=[7,30]")
    validate.check(config)
    plain, covering = config.cases["vllm"], config.cases["vllm_covering"]
    assert (plain.options["capture_sizes"], covering.options["capture_sizes"]) == (None, [7, 30])
    assert (plain.options["cudagraph_mode"], covering.options["cudagraph_mode"]) == (None, "FULL")
    assert (plain.options["max_num_seqs"], covering.options["max_num_seqs"]) == (None, 1)
    own = ("max_num_seqs", "capture_sizes", "cudagraph_mode")
    assert {**covering.options, **{name: plain.options[name] for name in own}} == plain.options
    assert plain.target == covering.target


@pytest.mark.parametrize("path", sorted(CONF.glob("model/*.yaml")), ids=lambda path: path.stem)
def test_every_model_composes(path):
    config = compose(f"model={path.stem}", *(["model.weights=a/b"] if path.stem == "checkpoint" else []))
    assert config.model.name == yaml.safe_load(path.read_text())["name"]


@pytest.mark.parametrize("path", sorted(CONF.glob("case/*.yaml")), ids=lambda path: path.stem)
def test_every_case_is_in_the_defaults_list_and_typed(path):
    case = compose().cases[path.stem]
    common = {field.name for field in fields(CaseConfig)}
    own = yaml.safe_load(path.read_text()).keys() - common
    assert set(case.options) == own
    assert case.target.startswith("cases.")


def test_smoke_runs_on_the_cpu_with_the_tiny_model():
    config = compose("experiment=smoke")
    assert (config.device, config.model.name, config.sweep.blocks) == ("cpu", "tiny", 1)
    assert config.cases["jit_cuda_graph"].options["jit"]["backend"] == "auto"
    assert compose("experiment=smoke", "model=llama2_7b").model.name == "Llama-2-7B"


def test_overrides_reach_a_cases_own_keys():
    config = compose("cases.jit_cuda_graph.graph.max_graphs=20", "run=[baseline,jit_cuda_graph]")
    assert config.cases["jit_cuda_graph"].options["graph"]["max_graphs"] == 20
    assert config.run == ["baseline", "jit_cuda_graph"]


def test_cache_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LATENCY_CACHE", "/somewhere")
    assert compose().cache == "/somewhere"
    monkeypatch.delenv("LATENCY_CACHE")
    assert compose().cache == "~/.cache/llm-latency"


MISTAKES = [
    (["sweep.prompt_length=[1]"], "unknown key 'sweep.prompt_length'; did you mean 'sweep.prompt_lengths'?"),
    (["cases.jitt.title=x"], "did you mean 'cases.jit.title'? (keys of cases: baseline,"),
    (["cases.jit.jit.backnd=x"], "unknown key 'cases.jit.jit.backnd'"),
    (["modle=tiny"], "did you mean 'model'?"),
    (["+foo=1"], "unknown key 'foo'"),
    (["+sweep.foo=1"], "unknown key 'sweep.foo'"),
    (["model=tinny"], "model=tinny: no such choice; allowed: checkpoint, llama2_7b"),
    (["experiment=smok"], "experiment=smok: no such choice; allowed: aa, ablation, attribution, background_capture,"),
    (["case@cases.jit=nope"], "no such choice; allowed: baseline"),
    (["model=checkpoint"], "model.weights has no value"),
    (["run=[a"], "cannot read the override 'run=[a'"),
    (["output"], "cannot read the override 'output'"),
    (["sweep.blocks=1,2"], "write sweep.blocks=[1,2] for a list, or add --multirun"),
    (["sweep.blocks=abc"], "sweep.blocks: value 'abc'"),
    (["sweep.blocks=2.5"], "sweep.blocks: value '2.5'"),
    (["sweep.prompt_lengths=[1.5]"], "sweep.prompt_lengths"),
    (["run=baseline"], "run: a list is needed, written [a,b]"),
    (["sweep.context_ranges=[1,3]"], "item 0 of sweep.context_ranges: a list is needed, written [a,b]"),
    (["sweep.prompt_lengths=[[1]]"], "sweep.prompt_lengths: [1] is no single value"),
    (["sweep.stream.lengths=[[1],2]"], "sweep.stream.lengths: [1] is no single value"),
    (["run=[[jit]]"], "run: ['jit'] is no single value"),
    (["protocol=null"], "protocol=null: no such choice; allowed: controlled, paper"),
    (["model=3"], "model=3: no such choice; allowed: checkpoint, "),
    (["hydra=foo"], "hydra can't be set as a whole: set its keys one by one"),
    (["device=null"], "device: "),
    (["gpu=true"], "gpu: "),
    (["dry_run=maybe"], "dry_run: "),
    (["cases.jit=3"], "cases.jit must be a mapping"),
    (["cases=3"], "cases"),
    (["~sweep.blocks"], "sweep.blocks is missing"),
    (["~cases.jit.timeout_s"], "cases.jit.timeout_s is missing"),
    (["~cases.jit.expected.setup_s"], "cases.jit.expected.setup_s is missing"),
    (["output=${nope}"], "nope"),
]


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_sentence(overrides, sentence):
    with pytest.raises(ValueError) as caught:
        compose(*overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sweeps_expand_as_hydra_does():
    assert expand_sweeps(["a=1,2", "b=[1,2]"]) == [["a=1", "b=[1,2]"], ["a=2", "b=[1,2]"]]
    with pytest.raises(ValueError, match="cannot read the override"):
        expand_sweeps(["a=[1"])


def test_a_case_from_another_folder_needs_no_edit():
    config = to_config(compose_raw(["+case@cases.fake=fake", "run=[fake]"], EXTRA))
    options = config.cases["fake"].options
    assert {key: options[key] for key in ("fail", "fail_at", "tell")} == {
        "fail": None,
        "fail_at": "prepare",
        "tell": False,
    }


def test_resolved_leaves_no_interpolation():
    values = [str(value) for _, value in flatten(resolved(compose_raw([])))]
    assert not [value for value in values if "${" in value]


def leaves(kind: type, prefix: str = ""):
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from leaves(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_help_has_a_line_with_help_for_every_key():
    composed = compose_raw([])
    lines = list(option_lines(composed, Source()))
    shown = [key for key, _, _ in lines]
    written = OmegaConf.to_container(composed, resolve=False)
    keys = [key for key, _ in flatten(written) if not key.startswith("hydra.")]
    assert [key for key in keys if key not in shown] == []
    assert [key for key in leaves(RunConfig) if key not in shown and key != "cases"] == []
    assert len(shown) == len(set(shown))
    assert [key for key, _, text in lines if not text.strip() or text == NO_HELP] == []
    text = help_text(composed, Source())
    assert all(f"  {key} " in text for key in shown)


def test_help_of_a_cases_own_key_is_the_comment_beside_or_above_it():
    lines = {key: text for key, _, text in option_lines(compose_raw(["+case@cases.fake=fake"], EXTRA), EXTRA)}
    assert lines["cases.fake.fail"] == "how it fails"
    assert lines["cases.fake.fail_at"] == "where it fails"


def test_yaml_comments_of_nested_keys_and_quoted_hashes(tmp_path):
    path = tmp_path / "case.yaml"
    path.write_text("a:\n  b: '#1'   # first\n  c: [1, 2]\nd: x#y\n")
    assert yaml_comments(path) == {"a.b": "first", "a.c": "", "d": ""}
