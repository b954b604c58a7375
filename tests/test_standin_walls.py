"""The stand-in for TensorRT-LLM is test code: no run can take it for the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.job import CaseJob, write_job
from harness.processes.launch import child_environment, command, run_child
from tests.entries import CONFIGURED
from tests.standin import BEHAVIOUR, FOLDER, RELEASE

ROOT = Path(__file__).resolve().parent.parent


def imported(environment: dict[str, str]) -> str:
    """What `import tensorrt_llm` ends with under an environment."""
    code = "import tensorrt_llm; print(tensorrt_llm.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]


@pytest.fixture
def tempting(monkeypatch):
    """Everything that makes the stand-in importable for a test, set in the environment of whoever starts a run."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    monkeypatch.setenv(RELEASE, "1.2.0")
    monkeypatch.setenv(BEHAVIOUR, "{}")


def test_it_is_not_where_a_run_looks_for_packages():
    assert imported({"PATH": os.environ["PATH"]}) == "ModuleNotFoundError: No module named 'tensorrt_llm'"


@pytest.mark.usefixtures("tempting")
def test_where_it_is_put_before_a_run_the_run_s_workers_still_refuse_it():
    assert imported(dict(os.environ)) == "1.2.0", "the temptation is no temptation"
    given = child_environment("cuda", 0)
    assert str(FOLDER) in given["PYTHONPATH"]
    assert not {RELEASE, BEHAVIOUR} & given.keys()
    assert imported(given) == "ImportError: this tensorrt_llm is the tests' stand-in, and no run may use it"


@pytest.mark.usefixtures("tempting")
@pytest.mark.parametrize("transport", ["inproc", "unix"])
def test_a_worker_of_a_run_says_unavailable_instead(make_job, tiny_checkpoint, transport):
    (entry,) = [entry for entry in CONFIGURED if entry.name == "tensorrt_llm"]
    options = {**entry.options, "worker": "single"}
    case = CaseJob("TensorRT-LLM", entry.target, transport, None, 60, options)  # type: ignore[arg-type]
    cases = {"tensorrt_llm": case}
    job = replace(make_job(), device="cuda", checkpoint=tiny_checkpoint, cases=cases, order=[("tensorrt_llm", 0)])
    folder = Path(job.run_dir)
    folder.mkdir()
    write_job(job, folder / "job.json")
    call = command(None, "harness.worker", "block", str(folder / "job.json"), "tensorrt_llm", "0")
    found = run_child(call, child_environment("cuda", 0), folder / "log", 60, lambda _: None)
    assert found.state == "unavailable"
    assert "this tensorrt_llm is the tests' stand-in, and no run may use it" in found.reason


def test_nothing_outside_the_tests_names_it():
    folders = [ROOT / name for name in ("cases", "harness", "reports", "conf")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".yaml")]
    texts = {path: path.read_text(encoding="utf-8") for path in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"]}
    assert len(texts) > 100
    assert [
        path for path, text in texts.items() if "TENSORRT_LLM_STANDIN" in text.upper() or "tests.standin" in text
    ] == []
