"""One case under two names: ratios from the run's files, and the share of cells that tests call different."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import blockwise, coverage, experiments, significance
from reports.__main__ import tables_of, write_report
from reports.experiments import aa
from reports.run import load
from tests.reports import studies


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("aa")
    with pytest.MonkeyPatch.context() as patch:
        return {name: getattr(studies, name)(root / name, patch, lengths=(10, 100)) for name in ("aa", "telemetry")}


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_ratios_of_a_pair_come_from_the_runs_own_tables(runs):
    run = load(runs["aa"])
    section = experiments.section(run)
    table = section.tables[-1]
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
    assert aa.NONE not in table.facts
    assert section.plots[0].figure is not None


def test_three_cases_are_three_pairs(runs):
    run = load(runs["telemetry"])
    for table in experiments.section(run).tables:
        assert len({row[0] for row in texts(table)}) == 3
    assert write_report(run, tables_of(run), experiments.section(run)).is_file()


def test_the_share_of_significant_cells_is_that_of_the_tests_over_blocks(runs):
    run = load(runs["aa"])
    share, cells, _ = experiments.section(run).tables
    tested = pd.concat([significance.tests(run, metric) for metric in significance.POOLED])
    tested = tested[tested["p"].notna() & ~tested["row"].isin(["average", "10 (whole)"])]
    tested = tested[~tested["row"].str.contains("whole") & (tested["row"].str.lower() != "average")]
    uncorrected = int((tested["p"] < 0.05).sum())
    ((pair, count, _, below, *_),) = texts(share)
    assert pair == "JIT+CUDA (B) over JIT+CUDA (A)"
    assert int(count) == len(tested) > 0
    assert below.startswith(f"{uncorrected} of {len(tested)} ")
    assert len(texts(cells)) >= len(tested)


def test_a_ratio_and_its_interval_are_those_of_the_later_case_over_the_earlier(runs):
    run = load(runs["aa"])
    ratios = {(row["metric"], f"{row['place']:.0f}"): row["ratio"] for row in aa.ratios(run)}
    found = aa.tested(run)
    assert (found["low"] <= found["high"]).all()
    for row in found[found["metric"] == "TTFT"].to_dict("records"):
        assert row["ratio"] == pytest.approx(ratios["TTFT", row["cell"]])


def test_cells_stand_in_the_order_of_their_lengths(runs):
    found = aa.tested(load(runs["telemetry"]))
    for _, own in found.groupby(["pair", "metric"], sort=False):
        lengths = own["cell"].str.split("–").str[0].astype(int)
        assert lengths.is_monotonic_increasing
    assert list(dict.fromkeys(found["metric"])) == [
        name for name in significance.POOLED if name in set(found["metric"])
    ]
    names = pd.Series(["50", "401–407", "100", "10–50"], name="row")
    assert aa.places(names).tolist() == [50, 401, 100, 10]


def test_the_least_difference_told_is_the_one_at_which_the_correction_would_say_so():
    blocks = np.array([0.9, 1.0, 1.25])
    cells = 24
    logs = np.log(blocks / stats.gmean(blocks))
    at = aa.told(frame_of(logs, cells))["told_ttft"]
    # A paired t-test by scipy of blocks that differ by so much more has p just at the first step's level.
    moved = stats.ttest_1samp(logs + np.log1p(at / 100), 0.0).pvalue
    assert moved == pytest.approx(aa.LEVEL / cells, rel=1e-6)
    assert math.isnan(aa.told(frame_of(logs, cells))["told_p99"])


def frame_of(logs, cells):
    """The tests of one cell over these blocks, so many times."""
    found = blockwise.contrast(logs, float(logs.mean()))
    return pd.DataFrame([{"metric": "TTFT", **found._asdict()}] * cells)


def published(name):
    """The tests of the newest published run of an experiment."""
    folder = sorted(coverage.PUBLISHED.glob(f"*-{name}"))[-1]
    return aa.tested(load(folder))


def test_of_one_case_under_two_names_at_most_one_cell_in_twenty_differs_on_the_card():
    found = published("aa")
    assert len(found) >= 24
    assert found["p"].notna().all()
    assert (found["p"] < aa.LEVEL).mean() <= 0.05
    assert (found["holm_p"] < aa.LEVEL).mean() <= 0.05


def test_telemetry_costs_no_more_than_lies_between_one_case_and_itself():
    noise, cost = (published(name) for name in ("aa", "telemetry"))
    cost = cost[cost["pair"].str.contains("telemetry off over")]
    assert cost["pair"].nunique() == 2
    assert not (cost["holm_p"] < aa.LEVEL).any()
    for metric in ("TTFT", "Decode"):
        scatter, medians = ((part.loc[part["metric"] == metric, "ratio"] - 1) for part in (noise, cost))
        assert len(medians) == 2 * len(scatter)
        assert (-medians).max() <= scatter.abs().max(), "on over off"


def test_too_few_blocks_for_a_test_show_ratios_alone(runs, tmp_path):
    path = studies.copy(runs["aa"], tmp_path / "run")
    for name in ("samples", "status"):
        frame = pd.read_csv(path / f"{name}.csv")
        frame[frame["block"] < 2].to_csv(path / f"{name}.csv", index=False)
    (table,) = experiments.section(load(path)).tables
    assert aa.NONE in table.facts


def test_the_figures_bars_are_the_intervals_of_the_tests_in_per_cent(runs):
    run = load(runs["aa"])
    found = aa.tested(run)
    spans = aa.ttft_spans(run)

    assert len(spans) == (found["metric"] == "TTFT").sum() > 0
    for row in found[found["metric"] == "TTFT"].to_dict("records"):
        low, high = spans[row["pair"], float(row["cell"])]
        assert (1 + low / 100, 1 + high / 100) == pytest.approx((row["low"], row["high"]))
