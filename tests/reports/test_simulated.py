"""Simulated: intervals of decode, of compare, and of P99 after measuring until it is known; what is said of them."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from harness.measure.adaptive import P
from reports import aa, adaptive_coverage, coverage, decode_coverage, nominal, ratio_coverage
from reports.blockwise import clustered
from reports.compare.verdict import ratio_of
from reports.decode_coverage import Sequences, block_mean, block_quantiles
from reports.enriched import decode_intervals, mean, rank
from reports.latency import decode_table, p99_table
from reports.resample import measured
from tests.synthetic import Spec, invent

ROOT = coverage.PUBLISHED.parents[1]
QUOTED = coverage.RUNS[-1]


def steps(rng, sequences=5, size=60, block_sd=0.03):
    """Decode steps with a heavy tail, of which neighbours are alike."""
    slow = np.repeat(rng.standard_t(4, (sequences, size // 5)), 5, axis=1)
    return Sequences("invented", 0.02 * slow, block_sd)


def processes(seed=3):
    rng = np.random.default_rng(seed)
    return steps(rng).residuals + rng.normal(0, 0.05, (5, 1))


def test_intervals_are_those_of_the_tables():
    logs = processes()
    width = stats.t.ppf(0.975, 4)
    for found, statistic in (
        (block_mean(logs), mean),
        *zip(block_quantiles(logs, 0.5, 0.9, 0.99), map(rank, (0.5, 0.9, 0.99)), strict=True),
    ):
        known = clustered(list(np.exp(logs)), statistic)
        assert math.exp(found.value) == pytest.approx(known.value)
        reach = width * math.sqrt(found.variance)
        assert math.exp(found.value - reach) == pytest.approx(known.low)
        assert math.exp(found.value + reach) == pytest.approx(known.high)
    part = pd.DataFrame({"block": np.repeat(range(5), 60), "latency_ms": np.exp(logs).ravel()})
    reach = width * math.sqrt(block_quantiles(logs, 0.99)[0].variance)
    assert math.log(decode_intervals(part)["p99_high_ms"]) == pytest.approx(
        block_quantiles(logs, 0.99)[0].value + reach
    )


def test_ratios_are_those_of_compare():
    both = [processes(seed) for seed in (3, 4)]
    known = ratio_of(*(measured(np.exp(logs).ravel(), np.repeat(range(5), 60), 0.99) for logs in both))
    found = [block_quantiles(logs, 0.99)[0] for logs in both]
    assert ratio_coverage.holds(*found) == (known.low <= 1 <= known.high)
    assert found[0].variance == pytest.approx(measured(np.exp(both[0]).ravel(), np.repeat(range(5), 60), 0.99).variance)


@pytest.mark.parametrize("kind", aa.EFFECTS)
def test_the_truth_is_that_of_very_many_processes(kind):
    source, rng = steps(np.random.default_rng(1)), np.random.default_rng(2)
    even = aa.evenly(kind)
    assert even.mean() == pytest.approx(0, abs=1e-9)
    assert even.std() == pytest.approx(1, abs=0.05)
    every = source.residuals[rng.integers(5, size=20_000)] + 0.03 * aa.shifts(kind, (20_000, 1), rng)
    known = decode_coverage.truths(source, kind)
    assert known["mean"] == pytest.approx(np.log(np.exp(every).mean()), abs=0.002)
    for name in ("p90", "p99"):
        assert known[name] == pytest.approx(np.quantile(every, decode_coverage.QUANTILES[name]), abs=0.004)


def test_shares_are_counted_of_all_draws():
    alike = Sequences("alike", np.zeros((2, 20)), 0.0)
    assert set(decode_coverage.held(alike, "normal", 3, seed=1).values()) == {1.0}
    found = decode_coverage.decode_frame([steps(np.random.default_rng(1))], 200, seed=1)
    assert found["effects"].tolist() == list(aa.EFFECTS)
    assert found.loc[0, ["mean", "p50"]].between(0.88, 1).all()
    assert (found["p90"] < 1).all(), "an interval that always holds would pass too"


def test_sequences_are_whole_and_over_their_blocks_median(tmp_path):
    for name, sequences in (("h200-2026-11-21-default", 4), (QUOTED, 5)):
        found = decode_coverage.decode_sources(coverage.PUBLISHED / name)
        assert {source.residuals.shape for source in found} == {(sequences, 397)}
        assert all(abs(np.median(source.residuals)) < 0.02 and source.block_sd > 0 for source in found)
    with pytest.raises(ValueError, match="no case with two blocks of whole decode sequences"):
        decode_coverage.decode_sources(invent(tmp_path / "one", Spec(blocks=1)))


def test_the_design_is_that_of_the_default_run():
    sweep = yaml.safe_load((ROOT / "conf/sweep/default.yaml").read_text(encoding="utf-8"))
    assert decode_coverage.BLOCKS == ratio_coverage.DESIGN.blocks == adaptive_coverage.BLOCKS == sweep["blocks"]
    assert ratio_coverage.DESIGN.requests == adaptive_coverage.FIRST == sweep["ttft_iterations"]
    assert sweep["decode"]["sequences"] == 1
    assert adaptive_coverage.BUDGETS_S[0] == sweep["p99_budget_s"]
    assert adaptive_coverage.WIDTHS[0] == sweep["p99_width"]


def test_true_p99s_are_those_of_their_distributions():
    rng = np.random.default_rng(5)
    for law in adaptive_coverage.laws():
        assert (law.draw(rng, 2_000_000) <= law.p99).mean() == pytest.approx(P, abs=2e-4)


def test_a_run_with_auto_ends_by_its_width_or_its_budget():
    smooth, spiky = adaptive_coverage.laws()
    last = adaptive_coverage.most(adaptive_coverage.BUDGETS_S[0])
    values, narrow = adaptive_coverage.measured(smooth.draw, 0.05, last, np.random.default_rng(1))
    assert narrow
    assert 368 <= len(values) < 5 * last
    values, narrow = adaptive_coverage.measured(spiky.draw, 1e-6, last, np.random.default_rng(1))
    assert not narrow
    assert len(values) == 5 * last


def committed(name):
    return pd.read_csv(nominal.COVERAGE / f"{name}.csv")


def test_the_committed_tables_are_of_the_runs_and_draws_of_today():
    for name, draws in (("false_positives", 2000), ("decode_intervals", 2000), ("compare_intervals", 1000)):
        found = committed(name)
        assert {source.rpartition(", ")[2] for source in found["source"]} == set(coverage.RUNS)
        assert found["draws"].eq(draws).all()
    found = committed("adaptive")
    assert found["draws"].eq(2000).all()
    assert found["held_fixed"].between(0.94, 0.98).all()


def test_a_few_draws_agree_with_the_committed_ones():
    """Within five standard errors of 100 draws: what computes them is what is here."""
    sources = decode_coverage.decode_sources(coverage.PUBLISHED / QUOTED)
    found = decode_coverage.decode_frame(sources, 100, coverage.SEED)
    known = committed("decode_intervals").query("source in @found.source").reset_index(drop=True)
    assert known["block_sd"].to_numpy() == pytest.approx(found["block_sd"].to_numpy())
    columns = list(decode_coverage.COLUMNS)
    error = np.sqrt((known[columns] * (1 - known[columns])).clip(0.01) / 100)
    assert ((found[columns] - known[columns]).abs() < 5 * error).all(axis=None)


def test_feet_say_what_the_simulation_gives(full, monkeypatch, tmp_path):
    decode, adaptive = committed("decode_intervals"), committed("adaptive")
    foot = decode_table(full).facts
    assert f"of P90 in {nominal.between(decode['p90'])}, of P99 in {nominal.between(decode['p99'])}." in foot
    sweep = {**full.sweep, "p99_iterations": "auto", "p99_width": 0.02}
    run = replace(full, manifest={**full.manifest, "config": {**full.manifest["config"], "sweep": sweep}})
    spiky = adaptive[adaptive["distribution"].str.startswith("spiky")]
    assert f"in {nominal.between(spiky['held_narrow'])} with rare spikes." in p99_table(run).facts
    assert "nominal" not in p99_table(full).facts
    monkeypatch.setattr(nominal, "COVERAGE", tmp_path)
    assert "95 % are nominal. Winner" in decode_table(full).facts
    assert p99_table(run).facts.count("narrow by luck, too.") == 1


def test_a_range_is_of_the_shares_that_there_are():
    assert nominal.between(pd.Series([0.915, math.nan, 0.961])) == "92 to 96 %"
    assert nominal.between(pd.Series([0.95])) == "95 %"


def most(shares):
    """The greatest share, as the front page has it."""
    return f"{100 * shares.max():.0f} %"


def claims():
    """What the front page says of each simulation, with the figures of its committed table."""
    say, null, decode = nominal.between, committed("false_positives"), committed("decode_intervals")
    today, before = null[null["blocks"] == 5], null[null["blocks"] == 3]
    yield f"in at most {most(today[['ttft_cell', 'p99_cell', 'average']].max())} of comparisons (requests taken as "
    yield f"units instead, in {say(today['naive'])})"
    yield f"a difference in up to {most(today['row'])}, some row of nine in up to {most(today['table'])};"
    yield f"one of two alike cases the winner in up to {most(today['winner'])},"
    yield f"those of a mean hold in {say(today['interval'])}, of an average of medians in "
    yield f"of an average of medians in {say(today['p50_interval'])} ("
    yield f"whose blocks scatter by {most(today['block_sd'])};"
    yield f"of an average of P99 in {say(today['p99_interval'])}, because"
    yield f"two speeds has a difference in up to {most(before['row'])},"
    yield f"a Baseline's mean may hold in {100 * before['interval'].min():.0f} % only"
    yield f"P50, P90 and P99 hold in {say(committed('coverage')['coverage'])} ("
    kept = [say(decode[name]) for name in decode_coverage.COLUMNS]
    yield "those of the mean hold in {}, of P50 in {}, of P90 in {} and of P99 in {};".format(*kept)
    own = decode[decode["source"].str.endswith(QUOTED) & (decode["effects"] == "normal")]
    yield "and normal, in {}, {}, {} and {}.".format(*(say(own[name]) for name in decode_coverage.COLUMNS))
    found = committed("adaptive")
    spiky = found["distribution"].str.startswith("spiky")
    yield f"holds in {say(found.loc[~spiky, 'held'])} with a smooth tail"
    yield f"up to 15 % slower) in {say(found.loc[spiky, 'held'])}, but"
    yield f"as narrow as asked in {say(found.loc[spiky, 'held_narrow'])} only; with a number of requests fixed "
    yield f"beforehand in {say(found['held_fixed'])}."
    found = committed("compare_intervals")
    yield f"of TTFT's P99 in {say(found['p99'])}, of its median in {say(found['ttft'])} and of decode's median in "
    yield f"decode's median in {say(found['decode'])}."


def test_the_front_page_says_what_the_committed_tables_have():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [claim for claim in claims() if claim not in text] == []
