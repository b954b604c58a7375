"""The command line as a person types it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.types import RunMode

from harness import task
from harness.machine.gpu import Gpu
from harness.settings import preset

ROOT = Path(__file__).resolve().parent.parent
FAKE = ("--config-dir", str(ROOT / "tests/conf"), "+case@cases.fake=fake", "run=[fake]", "experiment=smoke")


def harness(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["run=[basline]"], "error: run names the unknown case 'basline'"),
    (["sweep.prompt_length=[1]"], "error: unknown key 'sweep.prompt_length'"),
    (["--multirun", "model=tinny,tiny"], "error: model=tinny: no such choice"),
    (["model=tiny", "-m", "seed=1", "--nosuch"], "error: --nosuch is no flag"),
    (["seed=1", "-m", "model=tinny"], "error: model=tinny: no such choice"),
    (["resume=results/published/h200-2026-11-21-default"], "this run has no settings.json, as published runs"),
    (["--cfg", "job", "modle=tiny"], "error: unknown key 'modle'"),
    (["study=foo"], "error: study=foo is not allowed; choose capture_coverage, "),
    (["seed=99999999999999999999"], "error: seed: 99999999999999999999 is too large"),
    (["sweep.ttft_iterations=9999999999999"], "error: sweep.ttft_iterations: 9999999999999 is too large"),
    (["sweep.warmup_iterations=100001"], "error: sweep.warmup_iterations: 100001 is too large"),
    (["sweep.decode.sequences=100001"], "error: sweep.decode.sequences: 100001 is too large"),
    (["model.num_attention_heads=7", "model.num_key_value_heads=2"], "error: model.num_attention_heads=7 is not divis"),
    (["summarize", "x"], "error: summarize is no command; did you mean 'summarise'?"),
    (["--resolve"], "error: --resolve says how --cfg prints"),
    (["--cfg", "job", "-m"], "error: --cfg prints one configuration"),
    (["--shell-completion", "x"], "error: --shell-completion needs one of install=SHELL"),
    (["--experimental-rerun", "x"], "error: --experimental-rerun is not for this program"),
    (["-m", "seed=1,2", "hydra.sweep.dir=Makefile/in"], f"in: {ROOT}/Makefile is a file; give a folder"),
    (["--config-dir", "/nowhere"], "error: the configuration folder /nowhere does not exist"),
    ([*FAKE, "cases.fake.python=/nowhere/python"], "error: cases.fake.python=/nowhere/python does not run"),
    ([*FAKE, "output=Makefile"], "is a file: give a folder"),
])  # fmt: skip
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(arguments, sentence):
    done = harness(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert sentence in done.stderr


def test_dry_run_prints_the_plan_and_creates_nothing(tmp_path):
    done = harness(*FAKE, "dry_run=true", "sweep.blocks=2", f"output={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.count("Fake") for line in done.stdout.splitlines()].count(1) == 2
    assert "estimates" in done.stdout
    assert "not for this machine" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_run_that_goes_on_shows_what_is_done_and_of_anothers_folder_nothing(tmp_path):
    short = ["sweep.prompt_lengths=[10]", "sweep.decode.sequences=0", f"cache={tmp_path}", f"output={tmp_path / 'run'}"]
    done = harness(*FAKE, *short, "sweep.blocks=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    block = max((tmp_path / "run" / "blocks").iterdir())
    (block / "verdict.json").unlink()
    done = harness(f"resume={tmp_path / 'run'}", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "Fake" in line]
    assert ["done" in row for row in rows] == [True, False]
    done = harness(*FAKE, *short, "sweep.blocks=3", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds a run with other settings (sweep.blocks is 2 there and 3 here)" in done.stderr


def test_a_plan_says_when_an_interpreter_is_not_there(tmp_path):
    done = harness(*FAKE, "dry_run=true", "cases.fake.python=/nowhere/python", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not for this machine: cases.fake.python=/nowhere/python does not run" in done.stdout


def test_a_plan_says_when_this_machine_would_refuse_it(tmp_path):
    done = harness("dry_run=true", "gpu=99", cwd=tmp_path)  # no machine has a hundred
    assert done.returncode == 0, done.stderr
    assert "Plan: Llama-2-7B" in done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("not for this machine: ")]
    assert len(said) == 1
    assert "no usable GPU" in said[0] or "gpu=99: this machine has GPUs" in said[0]


@pytest.mark.parametrize(
    ("cases", "judged"),
    [("[baseline,jit]", True), ("[jit,eager]", False), ("[baseline]", False)],
)
def test_the_plan_holds_the_referee_where_there_is_one(tmp_path, cases, judged):
    done = harness("experiment=smoke", f"run={cases}", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("Referee" in done.stdout) == judged


def test_cfg_job_prints_the_configuration():
    done = harness("--cfg", "job", *FAKE, "seed=5")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert (shown["seed"], shown["cases"]["fake"]["title"], shown["model"]["name"]) == (5, "Fake", "tiny")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_the_values_of_this_command_line(flag):
    done = harness(flag, *FAKE, "seed=77")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "77" in lines["seed"]
    assert "how it fails" in lines["cases.fake.fail"]
    assert "controlled" in lines["protocol"]


def test_multirun_plans_each_combination_and_makes_no_folder(tmp_path):
    folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    done = harness(*FAKE, "--multirun", "dry_run=true", "model=tiny,llama2_7b", "model.dtype=float32", folder)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    titles = [lines.index(line) for line in ("model=tiny", "model=llama2_7b")]
    plans = [
        next(i for i, line in enumerate(lines) if line.startswith(f"Plan: {name},")) for name in ("tiny", "Llama-2-7B")
    ]
    assert titles[0] < plans[0] < titles[1] < plans[1]
    assert list(tmp_path.iterdir()) == []


def test_multirun_runs_each_combination_into_its_own_folder_and_ends_with_the_worst_code(tmp_path):
    where = [f"cache={tmp_path / 'cache'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    short = ["sweep.prompt_lengths=[10]", "sweep.blocks=1", "sweep.decode.sequences=0"]
    done = harness(*FAKE, *where, *short, "-m", "cases.fake.fail=raise,null")
    assert done.returncode == 1, done.stderr
    runs = [folder for folder in (tmp_path / "sweep").iterdir() if folder.is_dir()]
    states = {folder.name: (folder / "status.csv").read_text() for folder in runs}
    assert len(states) == 2
    assert [",ok," in text for name, text in sorted(states.items()) if "fail-null" in name] == [True]
    assert [",failed," in text for name, text in sorted(states.items()) if "fail-raise" in name] == [True]


def test_a_refused_run_of_a_sweep_leaves_no_folder(tmp_path):
    where = [f"cache={tmp_path / 'cache'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = harness(*FAKE, *where, "-m", "seed=1,2", "cases.fake.python=/nowhere/python")
    assert done.returncode == 2
    assert done.stderr.count("error: cases.fake.python=/nowhere/python does not run") == 2
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


def test_who_interrupts_a_sweep_is_told_how_all_of_it_goes_on(tmp_path, monkeypatch, capsys):
    of_sweep = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir=tmp_path))
    monkeypatch.setattr(task, "HydraConfig", SimpleNamespace(get=lambda: of_sweep))
    monkeypatch.setattr(task, "CODES", [])
    monkeypatch.setattr(task, "run_composed", lambda composed: 130)
    with pytest.raises(SystemExit) as ended:
        task.task(None)
    assert ended.value.code == 130
    said = f"the runs behind it did not begin: the same command with hydra.sweep.dir={tmp_path} goes on\n"
    assert capsys.readouterr().out == said


def gpu(index: int, free_mib: int) -> Gpu:
    return Gpu(index, "H200", f"GPU-{index}", "570", 143_000, free_mib, ())


@pytest.mark.parametrize(("gpus", "arguments", "reason"), [
    ([], ["experiment=smoke"], "no usable GPU (no driver)"),
    ([gpu(0, 1000), gpu(1, 2000)], ["experiment=smoke"], "no GPU has 20 GiB free (at most 2)"),
    ([gpu(0, 1000), gpu(1, 40_000)], ["gpu=1"], "GPU 1 (H200) has 39 GiB free"),
])  # fmt: skip
def test_bench_takes_the_first_gpu_with_room_else_the_smoke_run(gpus, arguments, reason):
    chosen, why = preset.choose(gpus, "no driver")
    assert chosen == arguments
    assert reason in why


@pytest.mark.parametrize(("arguments", "said"), [
    (["experiment=floor"], ""), (["run=[jit]", "device=cpu"], ""), (["--help"], ""),
    (["seed=1"], "no usable GPU (none)"),
])  # fmt: skip
def test_who_says_where_to_run_is_told_of_no_smoke_run(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(preset, "list_gpus", lambda: ([], "none"))
    preset.main(arguments)
    printed = capsys.readouterr()
    assert said in printed.err
    assert (printed.out.strip(), bool(printed.err)) == ("experiment=smoke" if said else "", bool(said))


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["h200-2026-11-23-default-4", "two words"])
def test_publishing_writes_over_nothing_and_takes_any_name(tmp_path, name):
    run = tmp_path / name
    run.mkdir()
    (run / "ttft.csv").touch()
    (run / "manifest.json").write_text('{"smoke": true}' if " " in name else "{}")
    done = make("publish", f"PYTHON={sys.executable}", f"RUN={run}")
    assert done.returncode == 2
    said = (
        f"error: {run} is a smoke run" if " " in name else f"error: results/published/{name} exists, which publishing"
    )
    assert done.stderr.splitlines()[0].startswith(said)


def test_an_interpreter_that_lacks_something_is_told_once_and_all_of_it(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    done = make("given", f"PYTHON={bare}")
    assert done.returncode == 2
    assert f"error: PYTHON={bare} lacks greenlet, hydra, jinja2" in done.stderr
    assert "Traceback" not in done.stderr
    assert "is not there" in make("given", "PYTHON=/nowhere/python").stderr


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    # `given` only checks a PYTHON that the user names; nobody calls it.
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(set(phony) - {"given"}) == sorted(
        line.split()[1] for line in shown.splitlines() if line.startswith("  make ")
    )
