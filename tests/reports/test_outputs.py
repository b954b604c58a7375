"""The tables on a whole model's outputs, from files made by the benchmark's own writer."""

from __future__ import annotations

import json

import pytest

from cases.runtime.kernels import accuracy, replays
from cases.runtime.kernels.tables import write_rows
from reports.kernels import main
from reports.outputs import ACCURACY, REPLAYS, accuracy_table, output_tables, replays_table
from tests.reports.test_kernels import FACTS as STORED

FACTS = {**STORED, "origin": ""}
NAME = "Triton 0.0 kernels"
KERNELS = ("phase", "kernel", "rows", "context", "us", "tb_s", "tflop_s", "floor_us", "of_ceiling")
ERRORS = [
    {"prompt_length": 10, "step": 0, "kernels_error": 0.001234, "plain_error": 0.0015},
    {"prompt_length": 10, "step": 1, "kernels_error": 0.0021, "plain_error": 0.002},
    {"prompt_length": 100, "step": 0, "kernels_error": 0.0011, "plain_error": 0.0011},
]
REPEATED = [
    {"phase": "prefill", "prompt_length": 10, "rows": 16, "replays": 5000, "differing": 0, "cache_equal": True},
    {"phase": "decode", "prompt_length": 10, "rows": 1, "replays": 5000, "differing": 3, "cache_equal": False},
]


@pytest.fixture
def folder(tmp_path):
    errors = [row | {"not_above_plain": row["kernels_error"] <= row["plain_error"], "kernels": NAME} for row in ERRORS]
    write_rows(tmp_path / "accuracy.csv", accuracy.COLUMNS, errors)
    write_rows(tmp_path / "replays.csv", replays.COLUMNS, [row | {"kernels": NAME} for row in REPEATED])
    write_rows(tmp_path / "kernels.csv", KERNELS, [dict.fromkeys(KERNELS, 1) | {"phase": "decode", "kernel": "down"}])
    (tmp_path / "kernels.json").write_text(json.dumps(STORED))
    return tmp_path


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_reader_and_writer_agree_on_columns():
    assert (ACCURACY, REPLAYS) == (accuracy.COLUMNS, replays.COLUMNS)


def test_errors_stand_beside_those_of_plain_operations_and_are_summed_up(folder):
    table = accuracy_table(folder, FACTS)
    assert texts(table) == [
        ["10", "0", "0.00123", "0.00150", "yes"],
        ["10", "1", "0.00210", "0.00200", "no"],
        ["100", "0", "0.00110", "0.00110", "yes"],
    ]
    assert table.rules == frozenset({2})
    assert table.facts.startswith(
        "The error of the kernels is at most 0.00210 and 0.00148 on average, that of plain float16 operations at most "
        "0.00200 and 0.00153, and in 2 of 3 rows the kernels' is not above the plain one."
    )
    assert "llama2_7b, float16, random weights; kernels: Triton 0.0 kernels; Invented GPU; 2026-01-02" in table.facts


def test_replays_say_how_many_differ(folder):
    table = replays_table(folder, FACTS)
    assert texts(table) == [
        ["10", "prefill", "16", "5000", "0", "equal"],
        ["10", "decode", "1", "5000", "3", "not equal"],
    ]
    assert table.facts.startswith("3 of 10000 replays gave logits")
    assert "bit for bit, in 1 of 2 rows" in table.facts


def test_the_page_holds_all_tables_and_each_has_files_of_its_own(folder, capsys):
    assert main([str(folder)]) == 0
    page = (folder / "report" / "kernels.md").read_text()
    places = [page.index(f"### {title}") for title in ("Kernels of", "Errors of the logits", "Replays of the graphs")]
    assert places == sorted(places)
    assert "missing" not in page
    for name in ("kernels", "accuracy", "replays"):
        assert all((folder / "report" / f"{name}.{suffix}").is_file() for suffix in ("csv", "md", "tex"))
    shown = capsys.readouterr().out
    assert "Errors of the logits" in shown
    assert "5000" in shown


def test_what_is_missing_is_said_and_no_older_table_stays(folder, capsys):
    assert main([str(folder)]) == 0
    (folder / "accuracy.csv").unlink()
    (folder / "replays.csv").unlink()
    capsys.readouterr()
    assert main([str(folder)]) == 0
    page, shown = (folder / "report" / "kernels.md").read_text(), capsys.readouterr().out
    for name in ("accuracy", "replays"):
        assert f"{name}.csv" in page
        assert f"{name}.csv" in shown
        assert not list((folder / "report").glob(f"{name}.*"))
    assert page.count("is missing: the benchmark ran with --no-accuracy, or ended before it was written.") == 2


def test_one_may_be_there_without_the_other(folder):
    (folder / "replays.csv").unlink()
    tables, [missing] = output_tables(folder, FACTS)
    assert [table.name for table in tables] == ["accuracy"]
    assert missing.startswith("replays.csv (replays of one graph compared) is missing")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("accuracy", ",".join(ACCURACY), "has a heading and no rows"),
        ("accuracy", f"{','.join(ACCURACY)}\n10,0,,0.1,True,x", "has an empty field in the column kernels_error"),
        ("accuracy", f"{','.join(ACCURACY)}\n10,0,0.1,0.1,,x", "has an empty field in the column not_above_plain"),
        ("accuracy", f"{','.join(ACCURACY)}\n10,0,0.1,0.1,maybe,x", "is 'maybe', not True or False"),
        ("replays", "phase,rows\nprefill,1", "has no column prompt_length, replays"),
        ("replays", f"{','.join(REPLAYS)}\nprefill,10,16,many,0,True,x", "replays is 'many', not a number"),
    ],
)
def test_malformed_files_are_one_sentence(folder, capsys, name, text, sentence):
    (folder / f"{name}.csv").write_text(f"{text}\n")
    assert main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
