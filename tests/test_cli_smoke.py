"""A whole run through the command line: real cases, real workers, the socket server, summaries and report."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = (
    "experiment=smoke", "run=[baseline,cuda_graph,jit,jit_cuda_graph,tensorrt_llm]", "sweep.prompt_lengths=[10,40]",
    "sweep.ttft_iterations=3", "sweep.decode.context=20", "sweep.context_ranges=[[10,20]]",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("smoke")
    done = subprocess.run(
        [sys.executable, "-m", "harness", *SHORT, f"output={folder / 'run'}", f"cache={folder / 'cache'}"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    return folder / "run", done


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_exits_0_and_ends_with_table_and_report(finished):
    folder, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SMOKE" in done.stdout
    assert done.stdout.index("JIT+CUDA 1/1: ok") < done.stdout.index("Winner")
    assert str(folder / "report") in done.stdout.strip().splitlines()[-1]
    assert (folder / "report" / "report.html").is_file()


def test_every_case_has_its_row_and_its_samples(finished):
    folder, _ = finished
    states = {row["case"]: row["state"] for row in rows(folder / "status.csv")}
    torch_cases = ["baseline", "cuda_graph", "jit", "jit_cuda_graph"]
    assert states == {**dict.fromkeys(torch_cases, "ok"), "tensorrt_llm": "unavailable"}
    samples = rows(folder / "samples.csv")
    for case in torch_cases:
        own = [row for row in samples if row["case"] == case]
        assert [row["metric"] for row in own].count("ttft") == 2 * 3
        assert [row["metric"] for row in own].count("cold") == 1
        assert [row["metric"] for row in own].count("decode") == 10
        assert any(row["server_ms"] for row in own) == (case in ("cuda_graph", "jit_cuda_graph"))


def test_every_torch_case_agrees_with_the_baseline(finished):
    folder, _ = finished
    judged = {(row["case"], row["prompt_length"]): row["passed"] for row in rows(folder / "equivalence.csv")}
    agreed = [judged[case, length] for case in ("cuda_graph", "jit", "jit_cuda_graph") for length in ("10", "40")]
    assert {value.lower() for value in agreed} == {"true"}


def test_the_manifest_is_stamped_smoke_and_says_what_was_measured(finished):
    folder, _ = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["smoke"], manifest["gpu"], manifest["protocol"]) == (True, None, "controlled")
    assert manifest["config"]["sweep"]["prompt_lengths"] == [10, 40]
    assert len(manifest["model"]["digest"]) == 64
    assert manifest["versions"]["torch"]
    assert manifest["finished"]
