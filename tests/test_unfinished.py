"""`python -m harness summarise`: the tables of a run that was killed, made without the machine that it ran on."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import __main__ as command
from harness import unfinished
from harness.machine import lock
from harness.stored.command import validate
from reports.run import load
from tests.begun import Begun, finish
from tests.runs import execute_in, status

SLOW = ("cases.fake.prefill_s=0.2", "cases.other.prefill_s=0.2", "sweep.warmup_iterations=1", "sweep.blocks=1")
SUMMARIES = ("ttft.csv", "p99.csv", "decode.csv", "equivalence.csv")


def summarise(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> int:
    monkeypatch.setattr("sys.argv", ["harness", "summarise", *map(str, folders)])
    return command.main()


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory) -> Path:
    """A run of two blocks, killed in the second one behind a few requests."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    folder.mkdir()
    run = Begun(folder, *SLOW)
    try:
        run.until(lambda: (folder / "status.csv").is_file() and len(status(folder)) == 1)
        late = next(name for name in ("fake", "other") if (name, "0") not in status(folder))
        samples = folder / f"blocks/{late}-0/samples.csv"
        run.until(lambda: samples.is_file() and samples.read_text().count("ttft") >= 1)
        run.process.kill()
        run.process.wait()
    finally:
        finish(run)
    return folder


@pytest.fixture
def killed(killed_once, tmp_path) -> Path:
    """A copy, elsewhere than where it was measured."""
    return Path(shutil.copytree(killed_once, tmp_path / "killed"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_run_has_no_tables_and_the_report_says_what_makes_them(killed):
    assert not any((killed / name).exists() for name in SUMMARIES)
    with pytest.raises(ValueError, match=rf"was killed before its summaries: python -m harness summarise {killed} "):
        load(killed)


def test_its_tables_are_of_the_blocks_that_ended_and_say_so(killed, monkeypatch, capsys, fault):
    tried = fault("Parent", "SIGKILL, and no machine of the kind to go on with")
    (done,) = {case for case, _ in status(killed)}
    assert summarise(monkeypatch, killed) == 0
    said = capsys.readouterr().out
    assert said == (f"the tables of {killed} are of 1 of 2 blocks; they are shown by: python -m reports {killed}\n")
    assert all((killed / name).is_file() for name in SUMMARIES)
    assert {row["case"] for row in rows(killed / "ttft.csv")} == {done}
    assert {row["case"] for row in rows(killed / "samples.csv")} == {done}, "a block under way is not in them"
    assert load(killed).unfinished == "interrupted: 1 of 2 blocks"
    assert not [line for line in validate(killed) if line.state == "FAILED"]
    assert json.loads((killed / "manifest.json").read_text())["finished"] is None
    tried.happened("`summarise` makes the tables of the blocks that ended; they say how many")


def test_what_was_lost_between_a_verdict_and_the_tables_comes_back(killed, monkeypatch):
    """The run may be killed behind a block's verdict, before its rows are in the run's tables."""
    whole = {name: (killed / name).read_bytes() for name in ("samples.csv", "status.csv")}
    for name in whole:
        (killed / name).unlink()
    assert summarise(monkeypatch, killed) == 0
    assert {name: (killed / name).read_bytes() for name in whole} == whole


def test_it_can_still_go_on(killed, monkeypatch):
    assert summarise(monkeypatch, killed) == 0
    settings = json.loads((killed / "settings.json").read_text())["config"]
    assert settings["run"] == ["fake", "other"]
    monkeypatch.setattr("harness.run.subprocess.run", lambda call, **rest: subprocess.CompletedProcess(call, 0))
    assert execute_in(killed, *SLOW) == 0
    assert {row["case"] for row in rows(killed / "ttft.csv")} == {"fake", "other"}
    assert load(killed).unfinished == ""


def test_one_that_is_under_way_is_left_alone(killed, monkeypatch, capsys):
    with lock.hold_folder(killed):
        assert summarise(monkeypatch, killed) == 2
    assert "is being written by another run" in capsys.readouterr().err
    assert not any((killed / name).exists() for name in SUMMARIES)


def test_a_finished_run_keeps_its_tables(killed, monkeypatch, capsys):
    stored = json.loads((killed / "manifest.json").read_text())
    (killed / "manifest.json").write_text(json.dumps({**stored, "finished": "2026-01-01T00:00:00+00:00"}))
    assert summarise(monkeypatch, killed) == 2
    assert f"{killed} is finished and has its tables" in capsys.readouterr().err


def test_without_a_block_that_ended_there_is_nothing_to_make(killed, monkeypatch, capsys):
    for verdict in killed.glob("blocks/*/verdict.json"):
        verdict.unlink()
    assert summarise(monkeypatch, killed) == 2
    assert f"no block of {killed} ended: go on with python -m harness resume={killed}" in capsys.readouterr().err
    assert not any((killed / name).exists() for name in SUMMARIES)


def test_what_is_no_run_is_refused_and_the_others_are_made(killed, tmp_path, monkeypatch, capsys):
    assert summarise(monkeypatch, tmp_path, killed) == 2
    assert f"{tmp_path} has no job.json and no manifest.json: name the folder of a run" in capsys.readouterr().err
    assert (killed / "ttft.csv").is_file()


@pytest.mark.parametrize("left", [None, 100])
def test_tables_that_still_have_what_a_block_lost_are_kept(killed, monkeypatch, capsys, left):
    assert summarise(monkeypatch, killed) == 0
    whole = {path: path.read_bytes() for path in killed.glob("*.csv")}
    (table,) = [path.with_name("samples.csv") for path in killed.glob("blocks/*/verdict.json")]
    table.unlink() if left is None else table.write_bytes(table.read_bytes()[:left])
    assert summarise(monkeypatch, killed) == 2
    assert f"{table.parent} lost samples since it ended: nothing was made or changed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in killed.glob("*.csv")} == whole


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"," * 99 + b"\n"])
def test_a_damaged_table_is_one_sentence_with_the_run_in_it(killed, monkeypatch, capsys, damage):
    (table,) = [path.with_name("samples.csv") for path in killed.glob("blocks/*/verdict.json")]
    table.write_bytes(table.read_bytes() + damage)
    assert summarise(monkeypatch, killed) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: a file of {killed} is not as the harness wrote it (")
    assert said.count("\n") == 1


def test_a_full_disk_is_one_sentence(killed, monkeypatch, capsys):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "ttft.csv"))

    monkeypatch.setattr(unfinished, "summarise", full)
    assert summarise(monkeypatch, killed) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"failed: {killed / 'ttft.csv'} can't be written (No space left on device): free some space")


def test_what_the_file_system_refuses_otherwise_is_one_sentence_too(killed, tmp_path, monkeypatch, capsys):
    (killed / "ttft.csv").mkdir()
    assert summarise(monkeypatch, tmp_path / ("x" * 300), killed) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("failed: ") for line in said] == [True, True]
    assert "File name too long" in said[0]
    assert str(killed) in said[1]
