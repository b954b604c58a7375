"""One case under two names: ratios from the run's files, the share of significant cells from significance.csv."""

import pandas as pd
import pytest

from reports import experiments
from reports.__main__ import tables_of, write_report
from reports.experiments import aa
from reports.run import load
from tests.reports import studies

CELLS = [
    ("A vs B", "TTFT", "10", 1.01, 0.99, 1.03, 0.20, 0.9, "tie"),
    ("A vs B", "TTFT", "100", 1.02, 1.01, 1.03, 0.001, 0.004, "slower"),
    ("A vs B", "P99", "10", 0.97, 0.9, 1.02, 0.03, 0.12, "tie"),
    ("A vs B", "Decode", "whole", 1.0, "", "", "", "", "not tested"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("aa")
    with pytest.MonkeyPatch.context() as patch:
        return {name: getattr(studies, name)(root / name, patch, lengths=(10, 100)) for name in ("aa", "telemetry")}


@pytest.fixture
def tested(runs, tmp_path):
    """A run that the comparison of cases has been over."""
    path = studies.copy(runs["aa"], tmp_path / "run")
    frame = pd.DataFrame(CELLS, columns=list(aa.SIGNIFICANCE)).assign(blocks=3, test="paired")
    frame.to_csv(path / "significance.csv", index=False)
    return path


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_ratios_of_a_pair_come_from_the_runs_own_tables(runs):
    run = load(runs["aa"])
    section = experiments.section(run)
    (table,) = section.tables
    rows = texts(table)
    assert [row[1:3] for row in rows] == [
        ["TTFT", "10"],
        ["TTFT", "100"],
        ["P99", "10"],
        ["P99", "100"],
        ["Decode", "10"],
    ]
    ttft = run.ttft.set_index(["case", "prompt_length"])["p50_ms"]
    assert rows[0][0] == "JIT+CUDA (B) over JIT+CUDA (A)"
    assert rows[0][3] == f"{ttft['second', 10] / ttft['first', 10]:.3f}"
    assert aa.NONE in table.facts
    assert section.plots[0].figure is not None


def test_three_cases_are_three_pairs(runs):
    run = load(runs["telemetry"])
    (table,) = experiments.section(run).tables
    assert len({row[0] for row in texts(table)}) == 3
    assert write_report(run, tables_of(run), experiments.section(run)).is_file()


@pytest.mark.parametrize("place", ["", "report"])
def test_the_share_of_significant_cells_is_counted_where_they_were_tested(tested, place):
    if place:
        (tested / place).mkdir()
        (tested / "significance.csv").rename(tested / place / "significance.csv")
    share, cells, ratios = experiments.section(load(tested)).tables
    assert texts(share) == [["A vs B", "3", "1 of 3 (33.3 %)", "2 of 3 (66.7 %)", "0.970", "1.020"]]
    assert texts(cells)[1] == ["A vs B", "TTFT", "100", "1.020 [1.010, 1.030]", "0.001", "0.004", "slower"]
    assert texts(cells)[3][3] == "1.000"
    assert aa.NONE not in ratios.facts


def test_a_table_of_other_columns_is_refused(tested):
    frame = pd.read_csv(tested / "significance.csv").drop(columns="holm_p")
    frame.to_csv(tested / "significance.csv", index=False)
    with pytest.raises(ValueError, match="has no column holm_p"):
        experiments.section(load(tested))
