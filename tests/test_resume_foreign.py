"""A run that goes on from files that somebody changed or damaged: one sentence, and nothing written outside."""

from __future__ import annotations

import json

import pytest

from harness import __main__ as main
from harness import run
from tests.runs import execute_in

FAILING = ("cases.fake.behaviour=exit",)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Nothing in place of the report."""
    real = run.subprocess.run
    done = run.subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(run.subprocess, "run", lambda call, **rest: done if "reports" in call else real(call, **rest))


@pytest.mark.parametrize(("change", "difference"), [
    (lambda job: job["sweep"].update(ttft_iterations=2), "sweep.ttft_iterations is 2 there and 3 here"),
    (lambda job: job["cases"]["fake"].update(target="os.Evil"), "cases.fake.target is "),
    (lambda job: (job["cases"].update({"../../x": job["cases"]["fake"]}), job["order"].append(["../../x", 0])),
     "cases.../../x"),
])  # fmt: skip
def test_a_plan_that_somebody_changed_is_refused_and_writes_nowhere(tmp_path, capsys, change, difference, fault):
    tried = fault("Resume", "job.json changed: a count, a case named as a path, another program")
    folder = tmp_path / "deep/run"
    assert execute_in(folder, *FAILING) == 1
    job = json.loads((folder / "job.json").read_text())
    change(job)
    (folder / "job.json").write_text(json.dumps(job))
    before = sorted(tmp_path.rglob("*"))
    assert execute_in(folder, *FAILING) == 2
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"failed: {folder / 'job.json'} is not the plan of this run's configuration (")
    assert difference in said
    assert sorted(tmp_path.rglob("*")) == before
    tried.happened("refused in one sentence with the difference, exit code 2; no block starts, nothing is written")


@pytest.mark.parametrize("name", ["blocks/fake-0/verdict.json", "settings.json", "manifest.json", "job.json"])
@pytest.mark.parametrize("text", ["{}", "[]", '{"state": "ok"}', '{"cut', "[" * 200_000, "\0"],
                         ids=["empty", "list", "part", "cut", "deep", "NUL"])  # fmt: skip
def test_a_damaged_file_behind_a_block_that_is_not_done_is_one_sentence(tmp_path, capsys, name, text, fault):
    tried = fault("Resume", "a verdict, the plan, the manifest or the settings damaged")
    assert execute_in(tmp_path) == 0
    for undone in ("fake-0", "other-0"):
        if undone not in name:
            (tmp_path / "blocks" / undone / "verdict.json").unlink()
    (tmp_path / name).write_text(text)
    capsys.readouterr()
    assert main.go_on([f"resume={tmp_path}"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert str(tmp_path / name) in said
    tried.happened("refused in one sentence with the file, exit code 2; no block starts")


def test_an_earlier_attempt_that_was_taken_away_leaves_room_for_the_next(tmp_path):
    assert execute_in(tmp_path, *FAILING) == 1
    (tmp_path / "blocks/fake-0/attempt-2").mkdir()
    assert execute_in(tmp_path, *FAILING) == 1
    assert (tmp_path / "blocks/fake-0/attempt-1/verdict.json").is_file()
    assert execute_in(tmp_path, *FAILING) == 1
    assert (tmp_path / "blocks/fake-0/attempt-3/verdict.json").is_file()


@pytest.mark.parametrize(
    "name", ["job.json.part", "manifest.json.part", "samples.csv.part", "telemetry.csv", "run.lock"]
)
def test_a_link_under_the_name_of_what_a_run_writes_leads_nowhere(tmp_path, name, fault):
    tried = fault("Resume", "a link to outside under the name of what a run writes, or of its lock")
    folder, outside = tmp_path / "run", tmp_path / "outside"
    assert execute_in(folder, *FAILING) == 1
    outside.write_text("precious\n")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    if name == "run.lock":
        with pytest.raises(ValueError, match="can't be written to"):
            execute_in(folder, *FAILING)
    else:
        assert execute_in(folder, *FAILING) == 1
    assert outside.read_text() == "precious\n"
    assert name != "telemetry.csv" or not (folder / name).is_symlink()
    tried.happened("the link is replaced, or refused in one sentence; what it named is kept")
