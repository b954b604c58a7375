"""Tests over blocks: exact where the answer is known, and harmless where there is nothing to find."""

import io
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from reports import aa, coverage, enriched, significance
from reports.__main__ import tables_of
from reports.blocks import components
from reports.blockwise import COLUMNS, average_interval, by_block, clustered, contrast, holm, p99_samples, t_test
from reports.decode_coverage import Sequences
from reports.latency import p99_table
from reports.overview import speedup_frame
from reports.quantiles import at
from reports.run import load
from tests import synthetic
from tests.synthetic import Spec, invent

TABLES = ("coverage", "adaptive", "decode_intervals", "compare_intervals", "false_positives")


def test_holm_as_textbooks_have_it():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm(np.array([0.5, math.nan, 0.9]))
    assert found[[0, 2]] == pytest.approx([1.0, 1.0])
    assert math.isnan(found[1])
    assert holm(np.array([])).size == 0


def test_a_pooled_ratio_that_is_the_mean_of_blocks_has_the_paired_t_test():
    one, other = np.array([1.0, 1.3, 0.9, 1.2]), np.array([0.7, 1.1, 0.8, 0.9])
    known = stats.ttest_rel(one, other)
    p, reach = t_test(one - other, np.array(np.mean(one - other)))
    assert float(p) == pytest.approx(known.pvalue)
    low, high = known.confidence_interval()
    assert 2 * float(reach) == pytest.approx(high - low)


def test_a_pooled_ratio_that_blocks_do_not_bear_out_is_less_sure():
    logs = np.array([0.1, 0.11, 0.12])
    assert t_test(logs, np.array(0.13))[1] > t_test(logs, np.array(0.11))[1]


def test_two_blocks_have_no_test_and_equal_ones_no_difference():
    assert math.isnan(contrast(np.array([1.0, 1.1]), 1.05).p)
    assert contrast(np.zeros(3), 0.0) == (1.0, 1.0, 1.0, 1.0, 3)
    assert contrast(np.ones(3), 1.0).p == 0.0


def test_the_cluster_bootstrap_of_a_mean_is_as_wide_as_student_says():
    rng = np.random.default_rng(3)
    blocks = [rng.normal(100 + shift, 0.1, 500) for shift in (-1, 0, 0.5, 1.5)]
    found = clustered(blocks, lambda values: float(values.mean()))
    means = [block.mean() for block in blocks]
    reach = stats.t.ppf(0.975, 3) * np.std(means, ddof=1) / 2
    assert found.value == pytest.approx(np.mean(means))
    assert found.high - found.value == pytest.approx(reach, rel=0.01)
    assert math.isnan(clustered(blocks[:2], lambda values: float(values.mean())).low)


def test_the_variance_between_blocks_is_told_from_that_within():
    rng = np.random.default_rng(5)
    shifts = rng.normal(0, 0.03, 200)
    own = pd.DataFrame({
        "block": np.repeat(np.arange(200), 50),
        "prompt_length": 10,
        "latency_ms": np.exp(np.repeat(shifts, 50) + rng.normal(0, 0.04, 10_000)),
    })  # fmt: skip
    found = components(own)
    assert found["block_share"] == pytest.approx(9 / 25, abs=0.05)
    assert found["block_sd"] == pytest.approx(0.03, rel=0.2)
    assert math.isnan(components(own[own["block"] == 0])["block_share"])


def table(run, name):
    return next(table for table in tables_of(run) if table.name == name)


def test_every_pair_and_row_is_in_the_csv_with_ratio_and_interval(full):
    found = table(full, "significance")
    frame = pd.read_csv(io.StringIO(found.csv()))
    assert len(found.rows) == 3 * 6
    assert (frame["family"] == "overall").sum() == 3 * 6
    assert len(frame.query("family == 'row' and metric == 'TTFT'")) == 3 * 6
    for _, row in frame[frame["family"] == "row"].groupby(["metric", "row"]):
        assert row["holm_p"].tolist() == pytest.approx(holm(row["p"].to_numpy()).tolist())
    assert (frame["ratio"] >= 1).all()
    assert ((frame["low"] <= frame["ratio"]) & (frame["ratio"] <= frame["high"])).all()
    assert (frame["holm_p"] >= frame["p"]).all()
    jit = frame.query("metric == 'TTFT' and row == 'Average' and case == 'jit' and over == 'baseline'").iloc[0]
    assert jit["verdict"] == "faster"
    logs = by_block(full, "TTFT").query("row == 'Average'").pivot(index="block", columns="case", values="value")
    assert jit["ratio"] == pytest.approx(float((logs["baseline"] / logs["jit"]).mean()), rel=0.01)


def test_speed_ups_have_the_interval_of_their_test(full):
    frame = speedup_frame(full).set_index(["metric", "case", "over"])
    there, back = frame.loc[("TTFT", "jit", "baseline")], frame.loc[("TTFT", "baseline", "jit")]
    assert there["low"] < there["speed_up"] < there["high"]
    assert back["low"] == pytest.approx(1 / there["high"])
    assert "×" in table(full, "speedup").rows[1][2].text
    assert "[" in table(full, "speedup").rows[1][2].text


def test_two_names_of_one_case_tie(tmp_path, monkeypatch):
    monkeypatch.setitem(synthetic.LATENCY, "jit", synthetic.LATENCY["jit_cuda_graph"])
    spec = Spec(cases=("baseline", "jit", "jit_cuda_graph"), missing=(), wrong=(), blocks=3, iterations=40)
    run = load(invent(tmp_path / "run", spec))
    assert {row[-1].text for row in table(run, "ttft").rows} <= {"tie: JIT-Only, JIT+CUDA", "tie: JIT+CUDA, JIT-Only"}
    assert [sum(cell.bold for cell in row) for row in table(run, "ttft").rows] == [0, 0, 0, 0], "bold is for winners"
    summary = table(run, "summary")
    assert not any(cell.bold for row in summary.rows for cell in row[1:4])
    assert re.search(r"Ties: Avg TTFT: JIT\S+, JIT\S+; ", summary.facts)
    frame = table(run, "ttft").frame
    assert not frame["winner"].any()
    assert set(frame.loc[frame["tie"], "case"]) == {"jit", "jit_cuda_graph"}
    verdicts = significance.overall(run).set_index(["metric", "case", "over"])["verdict"]
    assert verdicts[[set(index[1:]) == {"jit", "jit_cuda_graph"} for index in verdicts.index]].ne("faster").all()


def test_a_lost_block_is_no_witness(tmp_path):
    path = invent(tmp_path / "run", Spec(blocks=4))
    status = pd.read_csv(path / "status.csv")
    lost = (status["case"] == "jit") & (status["block"] == 2)
    status.assign(state=status["state"].mask(lost, "timeout")).to_csv(path / "status.csv", index=False)
    found = significance.tests(load(path), "TTFT")
    assert set(found.loc[(found["case"] == "jit") | (found["over"] == "jit"), "blocks"]) == {3}
    assert found.loc[(found["case"] != "jit") & (found["over"] != "jit"), "blocks"].eq(4).all()


def test_p99_of_an_open_number_of_requests_takes_them_all(full):
    sweep = {**full.sweep, "ttft_iterations": 5, "p99_iterations": "auto"}
    run = replace(full, manifest={**full.manifest, "config": {**full.manifest["config"], "sweep": sweep}})
    assert len(p99_samples(run)) == (full.samples["metric"] == "ttft").sum()


def test_a_run_that_did_not_reach_the_width_of_p99_that_was_asked_for_says_so(full):
    """A block stops by its own expectation or by its budget: the table says what came of it."""

    def facts(width, count="auto"):
        sweep = {**full.sweep, "p99_iterations": count, "p99_width": width}
        config = {**full.manifest["config"], "sweep": sweep}
        return p99_table(replace(full, manifest={**full.manifest, "config": config})).facts

    widths = enriched.p99(full)["p99_relative_width"]
    widest = f"the widest has {widths.max():.1%}."
    none = facts(1e-6)
    assert "within 0.0001% of it, or the budget of a block was used up" in none
    assert f"it is in 0 of {len(widths)} cells, {widest}" in none
    assert f"it is in {(widths <= widths.median()).sum()} of {len(widths)} cells, {widest}" in facts(widths.median())
    assert "the widest" not in facts(0.02, count=125)


def source(rng):
    """Requests with a heavy tail whose neighbours are alike, as those of a host."""
    slow = np.repeat(rng.standard_t(4, (2, 3, 30)), 5, axis=-1)
    return aa.Source("invented", 0.02 * (slow + rng.standard_t(4, slow.shape)), block_sd=0.05)


@pytest.mark.parametrize("design", aa.DESIGNS)
@pytest.mark.parametrize("kind", aa.EFFECTS)
def test_what_does_not_differ_is_rarely_found_to_differ(kind, design):
    rates = aa.rates(source(np.random.default_rng(1)), design, kind, 250, seed=2)
    assert max(rates["ttft_cell"], rates["p99_cell"], rates["average"]) <= 0.05 + 0.025
    assert rates["ttft_cell"] > 0.005, "a test that never finds anything would pass too"


def test_taking_requests_for_independent_would_find_differences_everywhere():
    assert aa.checks(source(np.random.default_rng(1)), aa.DESIGNS[-1], "normal", 200, seed=2)["naive"] > 0.5


def test_an_averages_interval_is_that_of_the_tables_and_holds_as_often_as_it_says():
    draw, made = np.random.default_rng(3), source(np.random.default_rng(1))
    many = aa.processes(made, aa.DESIGNS[-1], "normal", seed=2)
    samples = aa.requests(made, aa.DESIGNS[-1], 200, draw)
    samples = samples + made.block_sd * aa.shifts("normal", (200, aa.NAMES, 5, 1, 1), draw)
    truth = np.exp(at(np.moveaxis(many[0, 0], 0, 1).reshape(3, -1), 0.5)).mean()
    held = []
    for one in samples[:, 0]:
        means = np.exp(at(one, 0.5)).mean(axis=-1)
        value = float(np.exp(at(np.moveaxis(one, 0, 1).reshape(3, -1), 0.5)).mean())
        rows = [("10", "case", block, mean) for block, mean in enumerate(means)]
        found = average_interval(pd.DataFrame(rows, columns=list(COLUMNS)), "case", value)
        held.append(found.low <= truth <= found.high)
    assert aa.average_holds(samples, many, 0.5) == pytest.approx(np.mean(held))
    assert 0.9 < np.mean(held) < 0.99


def test_of_two_alike_below_all_others_a_table_names_a_winner_where_one_comparison_differs():
    """Holm leaves the last pair of a row uncorrected once all others differ: checked by his correction itself."""
    made, draw = source(np.random.default_rng(1)), np.random.default_rng(3)
    samples = aa.requests(made, aa.DESIGNS[-1], 400, draw)
    samples = samples + made.block_sd * aa.shifts("normal", (400, aa.NAMES, 5, 1, 1), draw)
    p = aa.p_values(*aa.quantiles(samples, 0.5))
    assert aa.found_in(samples)["winner"] == pytest.approx((p <= 0.05).any(axis=-1).mean(axis=1))
    others = np.array([0.0, 0.0, 50.0, 100.0])[:, None, None, None]
    apart = aa.p_values(*aa.quantiles(samples + others, 0.5))
    pair = aa.PAIRS.index((0, 1))
    named = [[holm(row)[pair] <= 0.05 for row in table.T] for table in apart]
    assert (np.delete(apart, pair, axis=1) < 1e-3).all(), "all others differ for certain"
    assert np.array_equal(np.array(named), apart[:, pair] <= 0.05)


def test_intervals_by_rank_hold_the_quantile_as_often_as_they_say():
    frame = coverage.coverage_frame(draws=1000, sizes=(190, 368, 380))
    there = frame.dropna(subset=["coverage"])
    assert there["exact"].between(0.95, 0.97).all()
    assert (there["coverage"] - there["exact"]).abs().max() < 0.03
    assert set(frame.loc[frame["coverage"].isna(), "n"]) == {190}


def test_the_committed_coverage_is_within_its_bar():
    frame = pd.read_csv(coverage.PUBLISHED.parent / "coverage" / "coverage.csv")
    assert frame["draws"].eq(10_000).all()
    assert frame["coverage"].dropna().between(0.94, 0.97).all()
    found = pd.read_csv(coverage.PUBLISHED.parent / "coverage" / "false_positives.csv")
    assert (found[["ttft_cell", "p99_cell", "average"]] <= 0.05).all(axis=None)
    sweep = yaml.safe_load((coverage.PUBLISHED.parents[1] / "conf/sweep/default.yaml").read_text(encoding="utf-8"))
    assert (sweep["blocks"], sweep["ttft_iterations"]) in set(zip(found["blocks"], found["requests"], strict=True))
    assert frame["n"].isin([sweep["blocks"] * sweep["ttft_iterations"]]).any()


def test_blocks_of_today_are_imitated_and_those_that_are_too_small_refused(tmp_path):
    cases = {"cases": ("baseline", "jit"), "missing": (), "wrong": ()}
    today = invent(tmp_path / "today", Spec(blocks=5, iterations=77, **cases))
    found = aa.null_rates(aa.sources(today), 4, seed=1)
    assert set(found["requests"]) == {77}, "127 would repeat what there is of it"
    assert found["source"].nunique() == 2
    with pytest.raises(ValueError, match="no case with two whole blocks of 77"):
        aa.sources(invent(tmp_path / "small", Spec(blocks=5, iterations=60, **cases)))


def test_a_mean_whose_processes_have_a_heavy_tail_is_held_as_others_are():
    """That of random processes is their rarest one's, which no interval holds: it has no limit."""
    made = replace(source(np.random.default_rng(1)), block_sd=0.23)
    assert aa.checks(made, aa.DESIGNS[-1], "heavy tail", 200, seed=2)["interval"] > 0.8


def test_the_command_writes_every_table(tmp_path, monkeypatch):
    made = source(np.random.default_rng(1))
    monkeypatch.setattr(coverage, "published_sources", lambda: [made])
    monkeypatch.setattr(coverage, "published_steps", lambda: [Sequences(made.name, made.residuals[0], 0.05)])
    monkeypatch.setattr(coverage, "SIZES", (190,))
    assert coverage.main(["--to", str(tmp_path / "new"), "--draws", "50"]) == 0
    names = {f"{name}.{end}" for name in TABLES for end in ("csv", "md", "tex")}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names


def test_a_run_with_the_four_cells_has_their_effects(stored, full):
    found = table(stored, "effects")
    medians = found.frame.query("label == 'TTFT, 10 tokens'").iloc[0]
    factor = math.sqrt(medians["jit"] / medians["eager"] * medians["jit_cuda_graph"] / medians["cuda_graph"])
    assert medians["jit_factor"] == pytest.approx(factor)
    assert medians["interaction_low"] <= medians["interaction"] <= medians["interaction_high"]
    assert "effects" not in {table.name for table in tables_of(full)}, "it has no eager"
