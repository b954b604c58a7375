"""Bad settings, each refused with one sentence before anything runs."""

import io
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from harness.job import read_job, write_job
from harness.machine.gpu import Gpu, visible
from harness.settings import machine, plan, validate
from harness.settings.compose import Source, compose_raw, to_config

SMOKE = ("experiment=smoke", "run=[fake]", "+case@cases.fake=fake")
H200 = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, ())


@pytest.fixture(scope="module")
def configure():
    """Composes once, then sets keys: what Hydra does with overrides is tested elsewhere, and takes longer."""
    base = compose_raw(SMOKE, Source(extra=Path(__file__).parent / "conf"))
    OmegaConf.set_struct(base, False)
    return lambda *overrides: to_config(OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides))))


MISTAKES = [
    (["run=[]"], "run is empty"),
    (["run=[basline]"], "unknown case 'basline'; allowed: baseline, cuda_graph"),
    (["run=[fake,fake]"], "run names fake twice"),
    (["device=gpu"], "device=gpu is not allowed; choose cuda, cpu"),
    (["gpu=-1"], "gpu: -1 is too small"),
    (["seed=-1"], "seed: -1"),
    (["cache=''"], "cache is empty"),
    (["output=''"], "output is empty"),
    (["prepare_timeout_s=0"], "prepare_timeout_s=0.0"),
    (["sweep.prompt_lengths=[]"], "sweep.prompt_lengths is empty"),
    (["sweep.prompt_lengths=[10,0]"], "sweep.prompt_lengths: 0 is too small, it must be at least 1"),
    (["sweep.prompt_lengths=[-5]"], "-5 is too small"),
    (["sweep.prompt_lengths=[10,20,10]"], "sweep.prompt_lengths names 10 twice"),
    (["sweep.prompt_lengths=[10,1024]"], "1024 is too long for the model's 1024 positions"),
    (["sweep.prompt_lengths=[1020]"], "at most 1019 fit"),
    (["sweep.ttft_iterations=0"], "sweep.ttft_iterations: 0 is too small"),
    (["sweep.p99_iterations=0"], "sweep.p99_iterations: 0"),
    (["sweep.warmup_iterations=-1"], "sweep.warmup_iterations: -1"),
    (["sweep.pause_ms=-1"], "sweep.pause_ms=-1.0 must lie between 0"),
    (["sweep.pause_ms=100000"], "must lie between 0 and 10000 milliseconds"),
    (["sweep.blocks=0"], "sweep.blocks: 0"),
    (["cases.fake.blocks=0"], "cases.fake.blocks: 0 is too small, it must be at least 1"),
    (["sweep.decode.prompt_length=0"], "sweep.decode.prompt_length: 0"),
    (["sweep.decode.sequences=-1"], "sweep.decode.sequences: -1"),
    (["sweep.decode.context=10"], "must be greater than sweep.decode.prompt_length=10"),
    (["sweep.decode.context=2000"], "sweep.decode.context=2000 exceeds the model's 1024 positions"),
    (["sweep.context_ranges=[[50,10]]"], "[50, 10] is no range"),
    (["sweep.context_ranges=[[1,2,3]]"], "[1, 2, 3] is no range"),
    (["sweep.context_ranges=[[500,600]]"], "[500, 600] lies outside the contexts"),
    (["sweep.equivalence.forced_tokens=-1"], "forced_tokens: -1"),
    (["sweep.equivalence.tolerance=0"], "tolerance=0.0"),
    (["sweep.equivalence.tolerance=inf"], "tolerance"),
    (["protocol.sampling.strategy=beam"], "protocol.sampling.strategy=beam is not allowed; choose greedy, sample"),
    (["protocol.pinning=all"], "protocol.pinning=all is not allowed; choose quickest, none"),
    (["protocol.sampling.temperature=0"], "temperature=0.0"),
    (["protocol.sampling.top_k=-1"], "top_k: -1"),
    (["protocol.sampling.top_p=1.5"], "top_p=1.5"),
    (["model.dtype=float8"], "model.dtype=float8 is not allowed; choose float16, bfloat16, float32"),
    (["model.dtype=float16"], "model.dtype=float16 is not for device=cpu"),
    (["model.weights=/nowhere/at/all"], "model.weights=/nowhere/at/all: there is no such folder"),
    (["model.weights='a b'"], "neither random, nor a folder, nor a repository id"),
    (["model.hidden_size=null"], "model.hidden_size is null, but random weights need it"),
    (["model.num_hidden_layers=0"], "model.num_hidden_layers: 0"),
    (["cases.fake.title=' '"], "cases.fake.title is empty"),
    (["cases.fake.transport=tcp"], "cases.fake.transport=tcp is not allowed; choose inproc, unix"),
    (["cases.fake.timeout_s=0"], "cases.fake.timeout_s=0.0"),
    (["cases.fake.expected.setup_s=-1"], "cases.fake.expected.setup_s"),
    (["cases.fake.target=tests.fakes.Nothing"], "cases.fake: target 'tests.fakes.Nothing': module tests.fakes has no"),
    (["cases.fake.target=json.dumps"], "lies outside the packages cases and tests"),
    (["cases.fake.wrong=1"], "cases.fake: the fake case has no option wrong"),
]


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES, ids=lambda value: str(value)[:44])
def test_a_bad_setting_is_one_sentence(configure, overrides, sentence):
    config = configure(*overrides)
    with pytest.raises(ValueError) as caught:
        validate.check(config)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = [
    [],
    ["sweep.prompt_lengths=[1,1019]"],
    ["sweep.decode.sequences=0"],
    ["model.weights=meta-llama/Llama-2-7b-hf"],
    ["model.dtype=bfloat16"],
]


@pytest.mark.parametrize("overrides", GOOD, ids=str)
def test_good_settings_pass(configure, overrides):
    assert validate.check(configure(*overrides)) is None


def test_weights_folder_without_config_is_refused_and_positions_come_from_it(configure, tmp_path):
    config = configure(f"model.weights={tmp_path}", "model.max_position_embeddings=null")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        validate.check(config)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    rest = {"model_type": "llama", "num_attention_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 256}
    (tmp_path / "config.json").write_text(json.dumps(sizes | rest))
    with pytest.raises(ValueError, match="too long for the model's 256 positions"):
        validate.check(config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        validate.check(config)


@pytest.mark.parametrize(("lengths", "positions", "expected"), [("[10]", 1024, 512), ("[600]", 1024, 768),
                                                                ("[763]", 1024, 768), ("[764]", 1024, 1024),
                                                                ("[600]", 700, 700)])  # fmt: skip
def test_kv_capacity_is_rounded_up_and_capped(configure, lengths, positions, expected):
    assert plan.kv_capacity(configure(f"sweep.prompt_lengths={lengths}").sweep, positions) == expected


def test_order_holds_every_pair_once_block_by_block_and_follows_the_seed(configure):
    config = configure("run=[baseline,jit,eager,fake]", "sweep.blocks=3")
    pairs = plan.order(config)
    assert [block for _, block in pairs] == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(pairs) == sorted((name, block) for name in config.run for block in range(3))
    assert plan.order(config) == pairs
    config.seed += 1
    assert plan.order(config) != pairs


def test_without_blocks_of_their_own_all_cases_have_the_order_they_always_had(configure):
    config = configure("run=[baseline,jit,eager,fake]", "sweep.blocks=2", "seed=5")
    first, second = ["baseline", "jit", "fake", "eager"], ["eager", "fake", "jit", "baseline"]
    assert plan.order(config) == [*((name, 0) for name in first), *((name, 1) for name in second)]
    config.cases["jit"].blocks = 2
    assert plan.order(config) == [*((name, 0) for name in first), *((name, 1) for name in second)]


def test_a_case_takes_part_in_as_many_blocks_as_it_has(configure):
    config = configure("run=[baseline,jit,eager,fake]", "sweep.blocks=1", "seed=5")
    config.cases["fake"].blocks, config.cases["jit"].blocks = 3, 2
    pairs = plan.order(config)
    assert sorted(pairs) == [("baseline", 0), ("eager", 0), *(("fake", b) for b in range(3)), ("jit", 0), ("jit", 1)]
    for name in config.run:
        assert [block for case, block in pairs if case == name] == list(
            range(plan.blocks_of(config.cases[name], config.sweep))
        )


def test_cases_with_few_blocks_run_anywhere_among_the_rounds_of_the_others(configure):
    places = set()
    config = configure("run=[baseline,fake]", "sweep.blocks=1")
    config.cases["fake"].blocks = 3
    for seed in range(30):
        config.seed = seed
        places.add(plan.order(config).index(("baseline", 0)))
    assert places == {0, 1, 2, 3}, "not always ahead of the blocks that others have more"


def test_all_cases_have_the_blocks_of_the_sweep_but_those_with_their_own(configure):
    config = configure("run=[baseline,jit,eager,fake]", "sweep.blocks=2", "seed=5")
    config.cases["fake"].blocks = 3
    assert sorted(plan.order(config)) == sorted(
        [(name, block) for name in config.run for block in (0, 1)] + [("fake", 2)]
    )


def test_a_job_says_how_many_blocks_each_case_has(configure, tmp_path):
    config = configure("run=[jit,fake]", "sweep.blocks=2", "cases.fake.blocks=3")
    job = plan.build_job(config, tmp_path, {"checkpoint": "x", "vocab_size": 9}, 1024)
    assert [job.blocks_of(name) for name in config.run] == [2, 3]
    write_job(job, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job
    stored = json.loads((tmp_path / "job.json").read_text())
    for case in stored["cases"].values():
        del case["blocks"]  # as in jobs from before cases had blocks of their own
    (tmp_path / "job.json").write_text(json.dumps(stored))
    assert [read_job(tmp_path / "job.json").blocks_of(name) for name in config.run] == [2, 2]


def test_the_plan_shows_every_block_and_counts_its_requests(configure):
    config = configure("run=[jit,fake]", "sweep.blocks=1", "cases.fake.blocks=3")
    console = Console(record=True, width=160, file=io.StringIO())
    plan.show(config, console)
    shown = [[part.strip() for part in row.split("│")] for row in console.export_text().splitlines() if "│" in row]
    found = sorted((row[3], int(row[4]), int(row[5])) for row in shown)
    counts = [(name, block) for name, blocks in (("fake", 3), ("jit", 1)) for block in range(blocks)]
    assert found == [(n, b, plan.requests(config.cases[n], config.sweep, b)) for n, b in counts]


def test_parameters_of_llama_2_7b_are_its_published_count():
    shape = validate.known_shape(to_config(compose_raw([])).model)
    assert machine.parameters(shape) == 6_738_415_616
    assert machine.needed_bytes(shape, "float16") == int(6_738_415_616 * 2 * 1.2) + 2 * 2**30


def test_too_little_gpu_memory_names_needed_and_free():
    shape = validate.known_shape(to_config(compose_raw([])).model)
    with pytest.raises(ValueError, match=r"needs about 17\.1 GiB, GPU 0 \(H200\) has 9\.8 GiB free"):
        machine.check_memory(Gpu(0, "H200", "", "", 143_000, 10_000, ()), shape, "float16")
    machine.check_memory(H200, shape, "float16")


def test_no_gpu_names_the_way_out(monkeypatch):
    monkeypatch.setattr(machine, "list_gpus", lambda: ([], "no driver"))
    with pytest.raises(ValueError, match=r"no usable GPU \(no driver\): .*experiment=smoke \(or `make smoke`\)"):
        machine.find_gpu(0)


def test_a_gpu_that_is_not_here_or_hidden_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "list_gpus", lambda: ([H200], ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.find_gpu(0) is H200
    with pytest.raises(ValueError, match="gpu=2: this machine has GPUs 0"):
        machine.find_gpu(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ValueError, match="gpu=0 is hidden by CUDA_VISIBLE_DEVICES, which allows none"):
        machine.find_gpu(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-ab")
    assert visible([H200]) == [H200]


@pytest.mark.parametrize(("python", "sentence"), [("/nowhere/python", "does not run"), ("/bin/false", "exit code 1"),
                                                  ("/tmp", "does not run")])  # fmt: skip
def test_an_interpreter_that_does_not_run_is_refused(configure, python, sentence):
    with pytest.raises(ValueError) as caught:
        machine.check_machine(configure(f"cases.fake.python={python}"))
    assert sentence in str(caught.value)
    assert f"cases.fake.python={python}" in str(caught.value)


def test_an_unknown_variable_of_ours_is_refused(configure, monkeypatch):
    monkeypatch.setenv("LATENCY_CASHE", "/x")
    with pytest.raises(ValueError, match=r"sets LATENCY_CASHE, which nothing reads; did you mean 'LATENCY_CACHE'\?"):
        machine.check_machine(configure())


def test_a_relative_interpreter_becomes_absolute_and_keeps_its_links():
    assert plan.interpreter("python3") == "python3"
    assert plan.interpreter("./venv/bin/python") == str(Path.cwd() / "venv/bin/python")


def test_the_cpu_needs_no_gpu(configure):
    assert machine.check_machine(configure()) is None


@pytest.mark.parametrize("key", ["output", "cache"])
def test_a_folder_that_cannot_be_made_is_one_sentence_with_its_key(tmp_path, key):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"{key}=.*can't be made .*: choose another folder"):
        machine.make_folder(key, tmp_path / "file" / "below")
