"""`make setup-NAME`: an environment of an engine's own, and how a case finds it."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from harness.settings import compose, validate
from harness.settings.compose import compose_raw, to_config
from harness.settings.plan import ENGINES, interpreter

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ".venv-tensorrt-llm"
PYTHON = """#!/bin/sh
echo "$0 $*" >> "{log}"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-c import tomllib"*) echo "engine>=1.0,<1.3" ;;
  *{fails}*) echo "no index answers" >&2; exit 1 ;;
esac
"""


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def setup(tmp_path):
    """`setup(gpu=..., python=..., fails=...)`: make in a copy, with a Python and an nvidia-smi that only pretend."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()

    def run(gpu: bool = True, python: bool = True, fails: str = "nothing") -> subprocess.CompletedProcess[str]:
        if gpu:
            script(tools / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: pretended'\n")
        if python:
            script(tools / "python3.12", PYTHON.format(log=tmp_path / "log", fails=fails))
        environment = {"PATH": f"{tools}:/usr/bin:/bin"}
        call = ["make", "-C", str(tmp_path), "setup-tensorrt-llm", "ENGINE_PYTHON=" + str(tools / "python3.12")]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)

    return run


def test_it_installs_the_extra_and_what_a_worker_needs_and_nothing_of_the_harness(setup, tmp_path):
    done = setup()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / FOLDER / ".ready").is_file()
    installed = [line for line in (tmp_path / "log").read_text().splitlines() if "pip install" in line][-1]
    packages = installed.split("--disable-pip-version-check ")[1].split()
    assert packages[0] == "engine>=1.0,<1.3"
    assert [package.split("==")[0] for package in packages[1:]] == ["msgpack"]
    before = (tmp_path / "log").read_text()
    assert setup().returncode == 0
    assert (tmp_path / "log").read_text() == before, "what is ready is not made again"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"python": False}, "error: tensorrt-llm needs "),
        ({"gpu": False}, "error: tensorrt-llm runs on an NVIDIA GPU, and nvidia-smi shows none here: set it up on the"),
        (
            {"fails": "pip install"},
            "error: tensorrt-llm was not installed, and .venv-tensorrt-llm is removed again: the",
        ),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_no_half_of_it(setup, tmp_path, given, sentence):
    done = setup(**given)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith(sentence)]) == 1
    assert not (tmp_path / FOLDER).exists()


def test_git_ignores_the_folder_and_clean_removes_it():
    asked = ["git", "-C", str(ROOT), "check-ignore", f"{FOLDER}/bin/python"]
    assert subprocess.run(asked, capture_output=True, check=False).returncode == 0
    done = subprocess.run(["make", "-n", "-C", str(ROOT), "clean"], capture_output=True, text=True, check=True)
    assert ".venv-*" in done.stdout


def python_of(*overrides: str, case: str = "tensorrt_llm") -> str | None:
    return to_config(compose_raw(overrides)).cases[case].python


def test_a_case_has_its_environment_s_interpreter_once_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    assert python_of() is None
    (tmp_path / FOLDER / "bin").mkdir(parents=True)
    (tmp_path / FOLDER / "bin/python").touch()
    assert python_of() == f"{FOLDER}/bin/python"
    assert python_of("cases.tensorrt_llm.python=/opt/python") == "/opt/python"
    assert python_of("cases.tensorrt_llm.python=null") is None


@pytest.mark.parametrize("case", ["vllm", "vllm_covering"])
def test_both_settings_of_vllm_have_the_one_environment_of_vllm(tmp_path, monkeypatch, case):
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    assert python_of(case=case) is None
    (tmp_path / ".venv-vllm/bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm/bin/python").touch()
    assert python_of(case=case) == ".venv-vllm/bin/python"
    assert python_of() is None, "the other engine's is not there"


def test_what_stands_in_for_the_engine_runs_under_the_harness_s_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    (tmp_path / FOLDER / "bin").mkdir(parents=True)
    (tmp_path / FOLDER / "bin/python").touch()
    cases = to_config(compose_raw(["cases.tensorrt_llm.impersonate=transformers"])).cases
    assert cases["stand_in"].python is None


def test_its_path_is_one_from_the_repository_s_root_wherever_the_run_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert FOLDER.startswith(ENGINES)
    assert interpreter(f"{FOLDER}/bin/python") == str(ROOT / FOLDER / "bin/python")
    assert interpreter("bin/python") == str(tmp_path / "bin/python")
    assert interpreter("python3") == "python3"


@pytest.mark.parametrize(
    ("overlap", "title"), [("false", "TensorRT-LLM"), ("true", "TensorRT-LLM (overlap scheduler)")]
)
def test_the_variant_stands_in_the_title(overlap, title):
    case = to_config(compose_raw([f"cases.tensorrt_llm.overlap_scheduler={overlap}"])).cases["tensorrt_llm"]
    assert case.title == title


def test_the_overlap_scheduler_is_off_and_the_worker_the_engines_own_way_unless_asked():
    options = to_config(compose_raw([])).cases["tensorrt_llm"].options
    assert (options["overlap_scheduler"], options["early_first_token"], options["worker"]) == (False, False, "auto")


def test_the_runs_that_the_document_advises_for_a_first_install_are_accepted():
    text = (ROOT / "cases/tensorrt_llm.md").read_text(encoding="utf-8")
    spans = [span.removeprefix("make bench ARGS=") for span in re.findall(r"`([^`]*run=\[[^`]*)`", text)]
    short, variant = (shlex.split(span) for span in spans)
    for overrides in (shlex.split(*short), variant):
        validate.check(to_config(compose_raw(overrides)))
