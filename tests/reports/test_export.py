"""`python -m reports export`: one tidy Parquet file, read back as it was; what is refused."""

import csv
import shutil

import pandas as pd
import pytest

from harness import schema
from reports import export as exporter
from reports.run import load
from tests.reports.pairs import manifest
from tests.reports.sweeps import GPUS, export, invented

SMALL = {"iterations": 8, "blocks": 2}
WORDS = {"run", "gpu", "model", "dtype", "protocol", "case", "title", "metric", "throttle", "state", "driver"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [invented(folder / f"{gpu}-two", gpu, **SMALL) for gpu in GPUS]


@pytest.fixture
def two(pair, tmp_path):
    """Two runs, free to spoil."""
    for folder in pair:
        shutil.copytree(folder, tmp_path / "sweep" / folder.name)
    return tmp_path / "sweep"


@pytest.fixture
def parquet(two, tmp_path):
    """The samples of both, as read back."""
    assert export(two, "--to", tmp_path / "all.parquet") == 0
    return pd.read_parquet(tmp_path / "all.parquet")


def test_every_sample_of_every_run_is_a_row_with_what_its_csv_says(two, parquet):
    rows = [row | {"run": name} for name in ("fast-two", "slow-two")
            for row in csv.DictReader((two / name / "samples.csv").open(newline=""))]  # fmt: skip
    assert len(parquet) == len(rows) > 100
    for column in ("host_ms", "gpu_ms", "server_ms", "latency_ms", "started_ns", "token_id", "block", "iteration"):
        assert [None if pd.isna(value) else float(value) for value in parquet[column]] == [
            float(row[column]) if row[column] else None for row in rows
        ]
    for column in ("run", "case", "metric", "throttle"):
        assert list(parquet[column]) == [row[column] for row in rows]


def test_what_is_read_back_is_what_was_written(two, parquet):
    runs = [load(two / name) for name in ("fast-two", "slow-two")]
    frame = exporter.tidy([exporter.samples_of(run) for run in runs])
    pd.testing.assert_frame_equal(parquet, frame, check_exact=True)


def test_types_are_those_of_the_columns(parquet):
    assert set(schema.SAMPLES) <= set(parquet)
    kinds = {column: str(kind) for column, kind in parquet.dtypes.items()}
    assert {kinds[column] for column in WORDS} == {"category"}
    assert {kinds[c] for c in ("block", "prompt_length", "started_ns", "token_id", "co_tenants")} == {"Int64"}
    assert {kinds[c] for c in ("host_ms", "gpu_ms", "server_ms", "sm_clock_mhz", "power_w")} == {"float64"}
    assert kinds["smoke"] == "boolean"
    assert set(kinds.values()) == {"category", "Int64", "float64", "boolean"}
    assert parquet["co_tenants"].isna().all()
    assert set(parquet["gpu"]) == {name for name, _ in GPUS.values()}


def test_a_time_beyond_a_float_keeps_its_last_digit(two, tmp_path):
    path, late = two / "fast-two" / "samples.csv", 2**60 + 1
    frame = pd.read_csv(path, keep_default_na=False)
    frame["started_ns"] = late
    frame.to_csv(path, index=False)
    assert export(two / "fast-two", "--to", tmp_path / "one.parquet") == 0
    assert set(pd.read_parquet(tmp_path / "one.parquet")["started_ns"]) == {late}


def test_runs_of_any_kind_go_into_one_file_and_say_of_which_they_are(two, tmp_path):
    """A tidy table mixes nothing: protocol, smoke and neighbours are columns."""
    manifest(two / "slow-two", protocol="paper", smoke=True, neighbours={"runs": 1, "cores": [[0]]}, gpu=None)
    assert export(two, "--to", tmp_path / "new" / "all.parquet") == 0
    frame = pd.read_parquet(tmp_path / "new" / "all.parquet").drop_duplicates("run").set_index("run")
    assert dict(frame["protocol"]) == {"fast-two": "controlled", "slow-two": "paper"}
    assert dict(frame["smoke"]) == {"fast-two": False, "slow-two": True}
    assert frame.loc["slow-two", "gpu"] == "CPU, no GPU"
    assert frame.loc["slow-two", "driver"] == ""
    assert frame.loc["slow-two", "neighbours"].startswith("measured beside up to 1 other run")
    assert frame.loc["fast-two", "neighbours"] == ""


def test_the_state_of_a_block_stands_beside_its_samples(two, tmp_path):
    path = two / "fast-two" / "status.csv"
    path.write_text(path.read_text().replace("jit,1,ok,", "jit,1,failed,"))
    assert export(two, "--to", tmp_path / "all.parquet") == 0
    frame = pd.read_parquet(tmp_path / "all.parquet")
    failed = frame[frame["state"] == "failed"]
    assert set(zip(failed["run"], failed["case"], failed["block"], strict=True)) == {("fast-two", "jit", 1)}
    assert set(frame["state"]) == {"ok", "failed"}


def test_a_summary_has_a_row_a_cell(two, tmp_path):
    assert export(two, "--summary", "--to", tmp_path / "cells.parquet") == 0
    frame = pd.read_parquet(tmp_path / "cells.parquet")
    assert "object" not in set(map(str, frame.dtypes))
    for name in ("fast-two", "slow-two"):
        run = load(two / name)
        for table in ("ttft", "p99", "decode"):
            own = frame[(frame["run"] == name) & (frame["table"] == table)]
            assert list(own["p50_ms"]) == list(getattr(run, table)["p50_ms"])
            assert list(own["case"]) == list(getattr(run, table)["case"])
    assert frame.loc[frame["table"] == "p99", "supported"].eq(False).all()
    assert frame.loc[frame["table"] == "ttft", "ratio_to_floor"].notna().all()


def refused(capsys, *arguments):
    assert export(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_mistakes_end_in_one_sentence(two, tmp_path, capsys, monkeypatch):
    to = tmp_path / "all.parquet"
    assert "give one that ends in .parquet" in refused(capsys, two, "--to", tmp_path / "all.csv")
    assert "there is no folder" in refused(capsys, tmp_path / "nothing", "--to", to)
    shutil.copytree(two / "fast-two", tmp_path / "other" / "fast-two")
    assert "in folders called fast-two" in refused(capsys, two, tmp_path / "other" / "fast-two", "--to", to)
    for name, text, said in (
        ("samples.csv", "case,block\n", "has no column"),
        ("manifest.json", "[]", "no JSON object"),
    ):
        (tmp_path / "other" / "fast-two" / name).write_text(text)
        assert said in refused(capsys, tmp_path / "other", "--to", to)
    monkeypatch.setattr(exporter, "find_spec", lambda name: None)
    assert "is not installed: pip install -c constraints.txt -e '.[export]'" in refused(capsys, two, "--to", to)
    assert not to.exists()


@pytest.mark.parametrize("text", ["1.5", "soon", "99999999999999999999"])
def test_a_time_that_is_no_whole_number_is_refused(two, tmp_path, capsys, text):
    path = two / "fast-two" / "samples.csv"
    frame = pd.read_csv(path, keep_default_na=False).astype({"started_ns": str})
    frame.loc[0, "started_ns"] = text
    frame.to_csv(path, index=False)
    assert "started_ns" in refused(capsys, two, "--to", tmp_path / "all.parquet")


def test_a_file_that_can_not_be_written_leaves_the_old_one(two, tmp_path, capsys, monkeypatch):
    to = tmp_path / "all.parquet"
    to.write_bytes(b"old")

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    assert "no space left" in refused(capsys, two, "--to", to)
    assert to.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"all.parquet", "sweep"}
