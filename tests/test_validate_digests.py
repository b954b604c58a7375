"""`python -m harness validate`: the digests of a run's files, manifest and code, and who may lack them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.output import manifest
from harness.stored.command import validate
from harness.stored.digests import check_code, check_files, check_manifest
from tests import runs
from tests.damage import failures, field, forget_digests, take_out

ROOT = Path(__file__).resolve().parent.parent
WRITER = Path("harness/output/manifest.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of fake cases as the harness leaves it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert runs.execute_in(folder, "sweep.blocks=1") == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_an_edit_that_all_else_allows_is_seen_by_its_digest(copy):
    field(copy / "status.csv", 1, "load_s", "0.125")
    assert [line.text for line in failures(copy)] == [
        "status.csv is not the file that the run wrote: its digest differs"
    ]
    forget_digests(copy)
    assert failures(copy) == []
    (note,) = [line for line in validate(copy) if line.name == "files"]
    assert note.state == "note"
    assert "no digest of each CSV" in note.text


def test_files_lost_or_added_are_seen(copy):
    (copy / "more.csv").write_text("a\n1\n")
    assert [line.text for line in failures(copy)] == ["more.csv came after the run"]
    assert ("more.csv", "note") in [(line.name, line.state) for line in validate(copy)]
    (copy / "more.csv").unlink()
    (copy / "telemetry.csv").unlink()
    assert "telemetry.csv is missing" in [line.text for line in failures(copy)]


def test_a_resumed_run_has_no_digests_until_its_end(copy):
    path = copy / "manifest.json"
    assert json.loads(path.read_text())["files"]["samples.csv"]
    manifest.resumed(path, "2026-01-01T00:00:00+00:00")
    stored = json.loads(path.read_text())
    assert "files" not in stored
    assert stored["finished"] is None
    manifest.finish(path)
    assert json.loads(path.read_text())["files"] == manifest.file_digests(copy)


def committed(folder: Path, path: Path, text: str) -> str:
    """The commit of a new repository in `folder` that has this file alone."""
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(text)
    for call in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *call], cwd=folder, check=True)
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return asked.stdout.strip()


def test_code_is_held_against_the_commit_that_the_manifest_names(tmp_path):
    digest = manifest.code_digest(ROOT)
    assert check_code({"code_digest": digest, "git": {"same_code_as": "--output=/tmp/x"}}).state == "FAILED"
    assert check_code({"code_digest": digest, "git": {"same_code_as": "0" * 40}}).state == "note"
    assert check_code({"code_digest": digest, "git": {"sha": "0" * 40, "dirty": True}}).state == "note"
    told = {"git": {"sha": committed(tmp_path, Path("harness/a.py"), "x = 1\n"), "dirty": False}}
    assert check_code({**told, "code_digest": manifest.code_digest(tmp_path)}, tmp_path).state == "ok"
    assert check_code({**told, "code_digest": digest}, tmp_path).state == "FAILED"


def both(folder: Path, root: Path = ROOT) -> dict[str, tuple[str, str]]:
    """State and text of the two lines on what a run wrote of itself."""
    stored = json.loads((folder / "manifest.json").read_text())
    lines = (check_manifest(stored, root), check_files(folder, stored, root))
    return {line.name: (line.state, line.text) for line in lines}


def test_digests_of_a_run_of_today_can_t_be_taken_out(copy):
    """Neither one nor both: the manifest has what came after them."""
    take_out(copy, "digest")
    assert [line.name for line in failures(copy)] == ["manifest"]
    take_out(copy, "files")
    assert [line.name for line in failures(copy)] == ["manifest", "files"]
    assert {text.partition(": ")[2] for _, text in both(copy).values()} == {
        "the manifest has attempts, which came after such digests"
    }


@pytest.mark.parametrize("place", ["same_code_as", "sha"])
def test_nor_of_one_that_names_a_commit_whose_code_writes_them(copy, tmp_path, place):
    commit = committed(tmp_path / "checkout", WRITER, (ROOT / WRITER).read_text())
    forget_digests(copy)
    stored = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**stored, "git": {"sha": None, "dirty": None, place: commit}}))
    assert both(copy, tmp_path / "checkout") == {
        "manifest": (
            "FAILED",
            "manifest.json has no digest of itself, though the run wrote it: "
            f"the code of commit {commit[:8]}, which the manifest names, writes them",
        ),
        "files": (
            "FAILED",
            "the manifest has no digest of each CSV, though the run wrote it: "
            f"the code of commit {commit[:8]}, which the manifest names, writes them",
        ),
    }
    assert {state for state, _ in both(copy, tmp_path).values()} == {"note"}, "the commit is not in that folder"


def test_where_nothing_shows_that_a_run_had_digests_the_note_says_both(copy, tmp_path):
    older = (ROOT / WRITER).read_text().replace('"digest": own_digest(', "")
    commit = committed(tmp_path / "checkout", WRITER, older)
    forget_digests(copy)
    stored = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**stored, "git": {"sha": commit, "dirty": False}}))
    assert {name: state for name, (state, _) in both(copy, tmp_path / "checkout").items()} == {
        "manifest": "note",
        "files": "FAILED",
    }, "the first such code wrote only those of the CSVs"
    said = "either the run is older than such digests or they were taken out, so an edit by hand may go unseen"
    assert [text.partition(": ")[2] for _, text in both(copy, tmp_path).values()] == [said, said]


def test_an_unfinished_run_has_none_yet(copy):
    take_out(copy, "files", "digest", "finished")
    said = "the run is unfinished, so an edit by hand may go unseen"
    assert [(state, text.partition(": ")[2]) for state, text in both(copy).values()] == [("note", said)] * 2
