"""`python -m harness validate`: the committed runs hold, and every kind of damage is seen in one sentence."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness import schema
from harness.output import manifest
from harness.stored import tables
from harness.stored.check import Sheet
from harness.stored.command import main, validate
from harness.stored.ids import check_referee
from harness.stored.summaries import alike
from tests import runs
from tests.damage import DAMAGE, failures, field, forget_digests, replace

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "results" / "published").glob("*/manifest.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_the_committed_runs_hold(folder):
    lines = validate(folder)
    assert [line for line in lines if line.state == "FAILED"] == []
    held = {line.name for line in lines if line.state == "ok"}
    assert {"samples.csv", "requests", "latencies", "order", "telemetry", "ttft.csv again"} <= held
    stored = json.loads((folder / "manifest.json").read_text())
    assert {line for line, key in (("files", "files"), ("manifest", "digest")) if key in stored} <= held


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of fake cases as the harness leaves it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert runs.execute_in(folder, "sweep.blocks=2") == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_a_run_of_today_has_nothing_left_to_check(whole):
    lines = {line.name: line for line in validate(whole)}
    assert failures(whole) == []
    assert {name for name, line in lines.items() if line.state == "note"} <= {
        "telemetry",
        "energy",
        "referee",
        "code",
        "equivalence.csv again",
    }
    assert lines["files"].text == "all 8 CSVs are what the run wrote, by their digests"
    assert lines["plan"].state == lines["blocks"].state == lines["prompts"].state == "ok"


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_seen_in_one_sentence(copy, kind, capsys):
    """By its own check, whether or not there are digests."""
    spoil, said = DAMAGE[kind]
    forget_digests(copy)
    spoil(copy)
    assert main([str(copy)]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line for line in printed.out.splitlines() if "FAILED" in line]
    assert any(said in line for line in lines), lines


def test_a_case_can_t_have_passed_with_logits_further_off_than_is_allowed(tmp_path):
    """Without the logits, which no published run has, the row says so itself."""
    folder = shutil.copytree(ROOT / "results/published/h200-2026-11-22-default-4", tmp_path / "run")
    forget_digests(folder)
    assert failures(folder) == []
    lines = (folder / "equivalence.csv").read_text().splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("jit,"))
    assert lines[row].split(",")[5] == "True"
    field(folder / "equivalence.csv", row, "max_relative_logit_error", "0.5")
    (found,) = failures(folder)
    assert found.text == f"row {row + 1}: passed, with a logit error above the run's tolerance of 0.02"


def test_printed_digits_may_turn_in_the_last_place_only():
    assert alike("1.00000001", "1.00000001")
    assert alike("1.00000001", "1.00000001e0")
    assert alike("123456789", "123456789.1")
    assert not alike("1.00000001", "1.00000002")
    assert not alike("1.5", "")
    assert not alike("True", "False")


def test_a_run_that_was_gone_on_with_holds_too(copy):
    assert runs.execute_in(copy, "sweep.blocks=2") == 0
    assert json.loads((copy / "manifest.json").read_text())["resumed"]
    assert failures(copy) == []


def test_a_large_file_is_refused_unread(copy, monkeypatch):
    monkeypatch.setitem(tables.read_sheet.__globals__["MOST"], ".csv", 100)
    assert any("at most 0 are read" in line.text for line in failures(copy))


def test_a_run_marked_unfinished_may_lack_blocks(copy):
    forget_digests(copy)
    stored = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**stored, "finished": None}))
    rows = (copy / "status.csv").read_text().splitlines(keepends=True)
    case, block, *_ = rows.pop().split(",")
    (copy / "status.csv").write_text("".join(rows))
    kept = [
        row for row in (copy / "samples.csv").read_text().splitlines(True) if not row.startswith(f"{case},{block},")
    ]
    (copy / "samples.csv").write_text("".join(kept))
    for name in ("ttft", "p99", "decode", "equivalence"):
        (copy / f"{name}.csv").unlink()
    assert failures(copy) == []
    absent = [line.name for line in validate(copy) if line.text == "not there yet: the run is unfinished"]
    assert absent == ["ttft.csv", "p99.csv", "decode.csv", "equivalence.csv"]
    (line,) = [line for line in validate(copy) if line.name == "blocks"]
    assert (line.state, line.text[:14]) == ("note", "3 of 4 planned")


def test_telemetry_must_go_forward_and_explain_every_sample(copy):
    forget_digests(copy)
    started = [row.split(",")[6] for row in (copy / "samples.csv").read_text().splitlines()[1:]]
    head = ",".join(schema.TELEMETRY)
    readings = [f"{int(time) - 5}{',' * (len(schema.TELEMETRY) - 1)}" for time in sorted(started, key=int)]
    (copy / "telemetry.csv").write_text("\n".join([head, *readings, ""]))
    assert failures(copy) == []
    (copy / "telemetry.csv").write_text("\n".join([head, *reversed(readings), ""]))
    assert [line.text for line in failures(copy)] == ["telemetry.csv row 3 is not later than the one above it"]
    (copy / "telemetry.csv").write_text("\n".join([head, *(row.replace(",,", ",1980,", 1) for row in readings), ""]))
    assert ["no reading beside it does" in line.text for line in failures(copy)] == [True]


@pytest.mark.parametrize("column", schema.SAMPLES_STATE)
def test_every_part_of_the_cards_state_is_that_of_a_reading(tmp_path, column):
    folder = shutil.copytree(ROOT / "results" / "published" / "h200-2026-11-22-host_a", tmp_path / "run")
    forget_digests(folder)
    field(folder / "samples.csv", 7, column, "7")
    assert [line.name for line in failures(folder)][:1] == ["telemetry"]


def test_kernels_that_were_seen_are_those_that_are_counted(tmp_path):
    folder = shutil.copytree(ROOT / "results" / "published" / "h200-2026-11-22-host_a", tmp_path / "run")
    forget_digests(folder)
    (folder / "identity.csv").unlink()
    (line,) = failures(folder)
    assert line.name == "answered"
    assert line.text.endswith(" kernels in status.csv, 0 in identity.csv")


JOULES = {
    "fewer joules": ("joules", "1.5", "joules is '1.5', and telemetry.csv gives "),
    "fewer joules a request": ("joules_per_request", "0.001", "joules_per_request is '0.001', and telemetry.csv gives"),
    "another card at rest": ("idle_w", "9", "idle_w is '9', and telemetry.csv gives"),
    "more requests": ("n", "99999", "99999 of 10 tokens are not"),
    "a span without an end": ("ended_ns", "", "does not end after it began"),
    "a span of nothing": ("n", "0", "0 of 10 tokens are not"),
    "an earlier end": ("ended_ns", "9", "does not end after it began"),
}


@pytest.mark.parametrize("kind", JOULES)
def test_joules_are_those_of_the_counter_that_the_telemetry_read(tmp_path, kind):
    folder = shutil.copytree(ROOT / "results" / "published" / "h200-2026-11-22-default-2", tmp_path / "run")
    forget_digests(folder)
    path = folder / "energy.csv"
    row = next(number for number, line in enumerate(path.read_text().splitlines()) if ",0,ttft,10," in line)
    column, text, said = JOULES[kind]
    field(path, row, column, text)
    (line,) = failures(folder)
    assert (line.name, said in line.text) == ("energy", True), line.text


def noted(folder: Path) -> dict[str, str]:
    return {line.name: line.text for line in validate(folder) if line.state == "note"}


def test_what_is_not_checked_is_said_and_why(tmp_path):
    """Of a run that went on, whose clock or card may be another; of telemetry that does not hold; of older files."""
    folder = shutil.copytree(ROOT / "results" / "published" / "h200-2026-11-22-default-2", tmp_path / "run")
    forget_digests(folder)
    assert "energy" not in noted(folder)
    replace("manifest.json", '"resumed": []', '"resumed": ["t"]')(folder)
    assert noted(folder)["energy"].startswith("the run was resumed, ")
    replace("manifest.json", '"resumed": ["t"]', '"resumed": []')(folder)
    field(folder / "telemetry.csv", 7, "time_ns", "1")
    assert noted(folder)["energy"] == "the readings in telemetry.csv do not hold: joules are not made again from them"
    older = noted(ROOT / "results" / "published" / "h200-2026-11-21")
    assert {"given ids", "answered", "energy", "referee"} <= set(older)


def test_a_file_that_is_not_there_is_said_with_the_reason_that_the_run_gave(copy):
    assert noted(copy)["energy"].startswith("there is no energy.csv, so no joules are checked: the run is on the CPU")
    assert noted(copy)["referee"] == "there is no referee.csv, so no ids that a referee judged are checked"
    manifest.judged(copy / "manifest.json", "out of memory")
    assert noted(copy)["referee"].endswith("judged are checked: out of memory")


def test_samples_of_a_foreign_case_keep_no_digest_from_being_checked(copy):
    field(copy / "samples.csv", 2, "case", "intruder")
    assert {"samples", "files"} <= {line.name for line in failures(copy)}


def test_what_is_no_run_is_refused_in_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error", "error"]
    assert errors[1].endswith("has no manifest.json: it is no run's folder")


def test_the_worst_of_several_runs_is_the_exit_code(whole, copy, tmp_path):
    (copy / "samples.csv").unlink()
    assert main([str(whole), str(copy)]) == 1
    assert main([str(tmp_path / "nowhere"), str(whole)]) == 2


def test_the_command_line_knows_validate(whole):
    call = [sys.executable, "-m", "harness", "validate", str(whole)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith("checks, none failed")


@pytest.mark.parametrize("seed", range(16))
def test_whatever_happens_to_a_byte_nothing_but_sentences_come(copy, seed, capsys):
    draw = random.Random(seed)
    path = draw.choice([*sorted(copy.glob("*.csv")), copy / "manifest.json", copy / "job.json"])
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3, 30))):
        at = draw.randrange(len(data))
        data[at : at + draw.choice((0, 1, 1, 9))] = draw.choice(
            (b"", b"\x00", b"\n", b'"', b"\xff", b",", b"9e999", b"[[{")
        )
    path.write_bytes(bytes(data))
    assert main([str(copy)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_every_column_of_the_schema_has_a_type():
    assert [column for columns in tables.TABLES.values() for column in columns if not tables.typed(column)] == []


def test_ids_of_something_else_are_not_counted_as_judged():
    job = Mock(cases={"other": None}, same_requests=lambda case: True)
    samples = Sheet(["case", "block", "metric", "prompt_length"], [["other", block, "ttft", "3"] for block in "001"])
    referee = Sheet(list(schema.REFEREE), [["other", "ttft", "3", "2", "2", "0", "0", "", "0"]])
    status = Sheet(["case", "block", "identity"], [["other", "0", "proven: 3"], ["other", "1", "contradicted: by JIT"]])
    assert [line.state for line in check_referee(job, samples, referee, status)] == ["ok"]
    assert [line.state for line in check_referee(job, samples, referee, None)] == ["FAILED"]
