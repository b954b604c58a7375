"""results/published/SHA256SUMS: the manifest and CSVs of every published run are those that were published."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.stored import sums

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "results" / "published"


def listed() -> dict[str, str]:
    """From path to digest."""
    lines = (PUBLISHED / sums.NAME).read_text(encoding="utf-8").splitlines()
    found = {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    assert len(found) == len(lines), "a path is listed twice"
    return found


def test_every_listed_file_is_the_one_that_was_published():
    wrong = [
        path for path, digest in listed().items()
        if hashlib.sha256((PUBLISHED / path).read_bytes()).hexdigest() != digest
    ]  # fmt: skip
    assert wrong == []


def test_the_manifest_and_every_csv_of_every_run_are_listed_and_nothing_else():
    there = [path for run in PUBLISHED.iterdir() if run.is_dir() for path in run.iterdir() if path.suffix == ".csv"]
    there += PUBLISHED.glob("*/manifest.json")
    assert list(listed()) == sorted(path.relative_to(PUBLISHED).as_posix() for path in there)


@pytest.fixture
def folder(tmp_path):
    """Two runs, with what is not listed."""
    for name in ("b", "a"):
        (tmp_path / name / "report").mkdir(parents=True)
        for path in ("manifest.json", "ttft.csv", "samples.csv", "report/ttft.csv", "report/ttft.md"):
            (tmp_path / name / path).write_text(f"{name} {path}\n")
    return tmp_path


def test_sums_are_sorted_and_leave_reports_out(folder, capsys):
    assert sums.main([str(folder)]) == 0
    first, *others = (folder / "SHA256SUMS").read_text().splitlines()
    assert first == f"{hashlib.sha256(b'a manifest.json' + bytes([10])).hexdigest()}  a/manifest.json"
    assert [line.split("  ")[1] for line in others] == [
        "a/samples.csv", "a/ttft.csv", "b/manifest.json", "b/samples.csv", "b/ttft.csv"
    ]  # fmt: skip
    before = (folder / "SHA256SUMS").read_bytes()
    assert sums.main([str(folder)]) == 0
    assert (folder / "SHA256SUMS").read_bytes() == before, "a second time changes nothing"
    assert sums.main([str(folder / "a" / "report")]) == 2
    assert capsys.readouterr().err == f"error: {folder / 'a' / 'report'} holds no run\n"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_them(folder):
    sums.main([str(folder)])
    call = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(call, cwd=folder, capture_output=True, check=False).returncode == 0
    (folder / "b" / "ttft.csv").write_text("edited\n")
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "b/ttft.csv: FAILED\n")


def test_publishing_a_run_writes_them():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\npublish:")[2].partition("\n\n")[0]
    assert recipe.index("harness.output.provenance") < recipe.index("harness.stored.sums"), "which changes the manifest"
