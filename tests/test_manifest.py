"""What a manifest says of the code: from git, from an export, or nothing."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from harness.output import manifest, provenance
from harness.output.manifest import commit_text, git_state
from harness.settings.compose import compose_raw, to_config

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_outside_git_the_revision_of_an_export_counts(tmp_path):
    (tmp_path / ".revision").write_text(SHA + "\n")
    assert git_state(tmp_path) == {"sha": SHA, "dirty": None}


def test_a_keyword_that_no_export_replaced_is_no_revision(tmp_path):
    (tmp_path / ".revision").write_text("$Format:%H$\n")
    assert git_state(tmp_path) == {"sha": None, "dirty": None}
    (tmp_path / ".revision").unlink()
    assert git_state(tmp_path) == {"sha": None, "dirty": None}


def test_in_a_checkout_git_says_commit_and_changes(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e@x", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    assert git_state(tmp_path)["dirty"] is False
    assert len(git_state(tmp_path)["sha"]) == 40
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path)["dirty"] is True
    sha = git_state(tmp_path)["sha"]
    assert commit_text(tmp_path) == f"{sha} and changes"
    assert commit_text(tmp_path, "elsewhere") == sha


def test_a_protocol_that_was_changed_does_not_go_by_its_name_alone():
    def said(*overrides: str) -> str:
        return manifest.protocol_of(to_config(compose_raw(list(overrides))))

    assert said() == "controlled"
    changed = said("protocol.decode=recompute", "protocol.sampling.top_k=5")
    assert changed == "controlled but sampling.top_k=5, decode=recompute"
    assert said("protocol.name=mine", "protocol.decode=recompute") == "mine"
    assert said("protocol=paper") == "paper"
    assert said("protocol=paper", "protocol.warmup=apart") == "paper but warmup=apart"
    assert said("protocol=paper", "sweep.ttft_iterations=9") == "paper but sweep.ttft_iterations=9"


def test_the_digest_covers_every_file_of_code(tmp_path):
    (tmp_path / "cases").mkdir()
    seen = set()
    for name in ("a.py", "a.cu", "a.cuh"):
        (tmp_path / "cases" / name).write_text("x")
        seen.add(manifest.code_digest(tmp_path))
    (tmp_path / "cases" / "NOTES.md").write_text("x")
    seen.add(manifest.code_digest(tmp_path))
    assert len(seen) == 3


def test_a_case_that_follows_another_procedure_is_named_beside_the_protocol():
    config = to_config(compose_raw(["run=[baseline,jit]"]))
    config.cases["jit"].procedure = replace(config.protocol, clock="server")
    assert manifest.protocol_of(config) == "controlled (another for jit)"


def test_blocks_of_a_cases_own_stand_beside_a_protocol_that_says_how_many():
    config = to_config(compose_raw(["protocol=paper", "run=[baseline,jit]"]))
    assert manifest.protocol_of(config) == "paper"
    config.cases["jit"].blocks = 3
    assert manifest.protocol_of(config) == "paper but cases.jit.blocks=3"
    config.cases["jit"].blocks = 1
    assert manifest.protocol_of(config) == "paper"


def commit(root, text: str) -> str:
    """A commit of code, and its name."""
    (root / "harness").mkdir(exist_ok=True)
    (root / "harness" / "a.py").write_text(text)
    for call in (["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", text, "--allow-empty"]):
        subprocess.run(["git", *call], cwd=root, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True).stdout[
        :40
    ]


def test_an_exported_tree_inside_another_checkout_has_not_that_checkouts_commit(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    commit(tmp_path, "x = 1")
    inside = tmp_path / "export"
    inside.mkdir()
    assert git_state(inside) == {"sha": None, "dirty": None}
    assert commit_text(inside) == "unknown"
    (inside / ".revision").write_text("a" * 40)
    assert git_state(inside) == {"sha": "a" * 40, "dirty": None}


def test_the_commit_whose_code_a_run_measured_is_found(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    first = commit(tmp_path, "x = 1")
    digest = manifest.code_digest(tmp_path)
    second = commit(tmp_path, "x = 2")
    (tmp_path / "README.md").write_text("other files make no other code")
    third = commit(tmp_path, "x = 2")
    assert provenance.commit_with(digest, tmp_path) == first
    assert provenance.commit_with(manifest.code_digest(tmp_path), tmp_path) == second != third
    assert provenance.commit_with("nothing", tmp_path) is None
    with pytest.raises(ValueError, match=r"^git rev-list failed"):
        provenance.commit_with(digest, tmp_path.parent)


def test_what_has_no_manifest_is_refused_in_one_sentence(tmp_path, capsys):
    assert provenance.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: name the folder of a run: python -m harness.output.provenance results/NAME\n"
    )
