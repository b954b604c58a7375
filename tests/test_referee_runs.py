"""Whole runs with a referee, of the tiny Llama on the CPU: who lies is caught, and a referee that fails says so."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from harness import judging, run, start
from harness.output import judged, manifest
from harness.processes.launch import Outcome
from harness.settings.compose import compose_raw, resolved, to_config
from harness.stored.command import validate
from tests.damage import field, forget_digests
from tests.runs import EXTRA, execute_in

SMALL = (
    "experiment=smoke", "sweep.prompt_lengths=[10]", "sweep.ttft_iterations=2", "sweep.decode.context=30",
    "sweep.context_ranges=[[10,30]]",
)  # fmt: skip
LYING = ("+case@cases.liar=eager", "cases.liar.target=tests.liars.Liar", "cases.liar.title=Liar")
CRASHING = "tests.referee_worker"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """`small(folder, override, ...)`: the exit code of a run of the tiny model, without the report."""
    cache = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    real = run.subprocess.run
    patch.setattr(run.subprocess, "run", lambda call, **rest: (
        run.subprocess.CompletedProcess(call, 0) if "reports" in call else real(call, **rest)
    ))  # fmt: skip

    def execute(folder: Path, *overrides: str, worker: str = "harness.worker") -> int:
        composed = compose_raw([*SMALL, f"output={folder}", f"cache={cache}", *overrides], EXTRA)
        return run.carry_out(start.begin(to_config(composed), resolved(composed), worker))

    yield execute
    patch.undo()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def failures(folder: Path) -> list[str]:
    return [line.text for line in validate(folder) if line.state == "FAILED"]


OVERRIDES = ("run=[baseline,eager,liar]", *LYING)


@pytest.fixture(scope="module")
def caught(small, tmp_path_factory):
    """A run with a liar in it, and its exit code."""
    folder = tmp_path_factory.mktemp("caught") / "run"
    return folder, small(folder, *OVERRIDES)


@pytest.fixture
def copy(caught, tmp_path):
    folder = shutil.copytree(caught[0], tmp_path / "run")
    forget_digests(folder)
    return folder


def test_a_case_that_gives_ids_it_did_not_compute_has_not_passed(caught):
    folder, code = caught
    assert code == run.UNEQUAL
    said = {(row["case"], row["metric"]): row for row in rows(folder / "referee.csv")}
    assert set(said) == {(case, metric) for case in ("eager", "liar") for metric in ("ttft", "decode")}
    assert {said["eager", metric]["wrong"] for metric in ("ttft", "decode")} == {"0"}
    assert (said["eager", "decode"]["judged"], said["liar", "ttft"]["wrong"]) == ("20", "0")
    liar = said["liar", "decode"]
    assert int(liar["wrong"]) >= 4
    assert liar["first_wrong"] == str(10 + 4), "the fifth step"
    assert float(liar["widest_gap"]) > 1
    (eager,), (wrong,) = ([row for row in rows(folder / "equivalence.csv") if row["case"] == case]
                          for case in ("eager", "liar"))  # fmt: skip
    assert (eager["passed"], eager["decode_judged"], eager["decode_wrong"], eager["judged_tokens"]) == (
        "True", "20", "0", "2"
    )  # fmt: skip
    assert (wrong["passed"], wrong["tokens_equal"]) == ("False", wrong["tokens_compared"]), "its logits are right"
    assert wrong["reason"] == (
        f"{liar['wrong']} of 20 decode ids are neither baseline's likeliest nor near-ties of it, the first at 14 "
        "tokens of context"
    )
    assert failures(folder) == []


def test_where_every_id_is_a_near_tie_the_liar_passes(small, tmp_path):
    assert small(tmp_path, "run=[baseline,liar]", *LYING, "sweep.equivalence.tolerance=9") == 0
    said = {row["metric"]: row for row in rows(tmp_path / "referee.csv")}["decode"]
    assert int(said["near_ties"]) >= 4
    assert said["wrong"] == "0"
    assert 0 < float(said["widest_gap"]) <= 1
    assert failures(tmp_path) == []


def test_what_was_judged_stands_when_the_run_goes_on_and_is_made_again_where_it_is_lost(caught, small, capsys):
    folder, _ = caught
    before = (folder / "referee.csv").read_text()
    (folder / "referee.csv").touch()
    capsys.readouterr()
    assert small(folder, *OVERRIDES) == run.UNEQUAL
    assert "Referee" not in capsys.readouterr().out
    (folder / "referee.csv").unlink()
    assert small(folder, *OVERRIDES) == run.UNEQUAL
    assert "Referee: ok" in capsys.readouterr().out
    assert (folder / "referee.csv").read_text() == before
    assert failures(folder) == []


def test_a_block_that_is_measured_again_is_judged_again(caught, small, tmp_path, capsys):
    folder = shutil.copytree(caught[0], tmp_path / "run")
    stored = json.loads((folder / "settings.json").read_text())
    (folder / "referee.csv").write_text("stale\n")
    (folder / "blocks/eager-0/verdict.json").unlink()
    assert small(folder, *OVERRIDES) == run.UNEQUAL
    assert "Referee: ok" in capsys.readouterr().out
    assert (folder / "referee.csv").read_text() == (caught[0] / "referee.csv").read_text()
    assert json.loads((folder / "settings.json").read_text()) == stored


def test_a_referee_that_dies_is_a_reason_and_fails_nothing_measured(small, tmp_path, monkeypatch, capsys, fault):
    tried = fault("Worker", "SIGKILL of the referee")
    monkeypatch.setenv("HF_TEST_REFEREE", "kill")
    assert small(tmp_path, "run=[baseline,eager]", worker=CRASHING) == 1
    said = capsys.readouterr().out
    why = json.loads((tmp_path / "manifest.json").read_text())[manifest.NOT_JUDGED]
    assert why.startswith("no verdict, ")
    assert f"Referee: failed {why}" in said
    assert f"failed: the referee ({why})" in said
    assert not (tmp_path / "referee.csv").exists()
    assert {row["state"] for row in rows(tmp_path / "status.csv")} == {"ok"}
    (row,) = rows(tmp_path / "equivalence.csv")
    assert (row["passed"], row["reason"], row["decode_judged"]) == ("True", f"not judged: {why}", "")
    assert failures(tmp_path) == []
    tried.happened("every row `ok`; `not judged: ...` in equivalence.csv, exit code 1; made when the run goes on")
    monkeypatch.delenv("HF_TEST_REFEREE")
    assert small(tmp_path, "run=[baseline,eager]", worker=CRASHING) == 0
    (row,) = rows(tmp_path / "equivalence.csv")
    assert (row["passed"], row["reason"], row["decode_judged"]) == ("True", "", "20")
    assert manifest.NOT_JUDGED not in json.loads((tmp_path / "manifest.json").read_text())
    assert failures(tmp_path) == []


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Outcome("timeout", "ended after its limit of 5 s in stage judge", "judge", -9, 5.0), "ended after its limit"),
        (Outcome("failed", "OutOfMemoryError: CUDA out of memory", "judge", 1, 5.0), "OutOfMemoryError"),
        (Outcome("ok", "", "", 0, 5.0), "said ok, but wrote no referee.csv"),
    ],
)
def test_however_the_referee_ends_the_run_says_it(small, tmp_path, monkeypatch, outcome, why):
    monkeypatch.setattr(judging, "due", lambda job: True)
    monkeypatch.setattr(judging, "REFERENCE", "fake")
    monkeypatch.setattr(judging, "run_child", lambda *_: outcome)
    assert execute_in(tmp_path) == 1
    assert json.loads((tmp_path / "manifest.json").read_text())[manifest.NOT_JUDGED].startswith(why)


def test_who_asks_to_stop_meanwhile_is_heeded(small, tmp_path, monkeypatch, capsys):
    def asked(*arguments):
        arguments[-1].asked = arguments[-1].times = 2
        return Outcome("failed", "interrupted", "judge", 1, 1.0)

    monkeypatch.setattr(judging, "due", lambda job: True)
    monkeypatch.setattr(judging, "REFERENCE", "fake")
    monkeypatch.setattr(judging, "run_child", asked)
    assert execute_in(tmp_path) == 130
    assert f"go on with: python -m harness resume={tmp_path}" in capsys.readouterr().out
    assert manifest.NOT_JUDGED not in json.loads((tmp_path / "manifest.json").read_text())


def test_runs_without_a_baseline_or_without_its_requests_have_no_referee(small, tmp_path, capsys):
    assert execute_in(tmp_path) == 0
    assert "Referee" not in capsys.readouterr().out
    assert not list(tmp_path.glob("referee*"))


@pytest.mark.parametrize(
    ("row", "column", "text", "said"),
    [
        (1, "judged", "3", "referee.csv row 2: 3 ids are judged, and samples.csv has 2"),
        (1, "likeliest", "1", "referee.csv row 2: 1 likeliest, 0 near-ties and 0 wrong are not the 2 judged"),
        (1, "first_wrong", "0", "referee.csv row 2: first_wrong is '0', and 0 are wrong"),
        (1, "widest_gap", "1.5", "referee.csv row 2: widest_gap is 1.5, with 0 near-ties and 0 wrong"),
        (1, "widest_gap", "nan", "referee.csv row 2: widest_gap is 'nan', not a finite number"),
        (1, "case", "baseline", "referee.csv has no row of"),
        (1, "metric", "cold", "referee.csv row 2: metric is 'cold', not one of ttft, decode"),
        (1, "wrong", "", "referee.csv row 2: wrong is '', and it may not be empty"),
        (2, "metric", "ttft", "referee.csv row 2: there are two such rows"),
    ],
)
def test_a_damaged_referee_csv_is_seen(copy, row, column, text, said):
    field(copy / "referee.csv", row, column, text)
    assert any(line.startswith(said) for line in failures(copy)), failures(copy)


def test_a_verdict_that_was_bettered_is_seen(copy):
    path = copy / "referee.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for line in lines[1:]:
        if line[6] != "0":
            line[4:] = [line[3], "0", "0", "", "0.5"]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    assert any("decode_wrong is" in line or "passed is" in line for line in failures(copy))


def test_a_published_run_can_not_call_a_liar_right(copy):
    """Without the logits, which nobody publishes."""
    shutil.rmtree(copy / "blocks")
    assert failures(copy) == []
    (row,) = (number for number, row in enumerate(rows(copy / "equivalence.csv"), 1) if row["case"] == "liar")
    field(copy / "equivalence.csv", row, "passed", "True")
    assert failures(copy) == [f"row {row + 1}: passed is not False, and the timed ids alone are enough for that"]


def test_a_cut_file_is_one_sentence_and_no_more(copy):
    (copy / judged.TABLE).write_bytes((copy / judged.TABLE).read_bytes()[:-5])
    assert failures(copy) == ["referee.csv ends within a line: it was cut off"]


def test_a_run_whose_referee_csv_was_taken_away_is_not_what_it_says(copy):
    (copy / judged.TABLE).unlink()
    assert any(line.startswith("row ") for line in failures(copy)), "equivalence.csv has counts that nothing gives"
