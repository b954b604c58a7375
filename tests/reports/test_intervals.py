"""Intervals and verdicts of the report's tables, made again from the raw samples by other means."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import blockwise, enriched, significance
from reports.blocks import components
from reports.experiments import aa, ablation
from reports.run import load
from tests.synthetic import Spec, invent


def by_rank(values, p):
    """The quantile with the least share of at least p at or below it."""
    return np.sort(values)[math.ceil(round(len(values) * p, 6)) - 1]


def exact(values, p):
    """The ends of the interval by ranks, from the binomial's quantiles."""
    ordered, law = np.sort(values), stats.binom(len(values), p)
    return ordered[int(law.ppf(0.025)) - 1], ordered[int(law.ppf(0.975))]


def over_blocks(parts, statistic):
    """The ends of the interval of a statistic, every way to draw the blocks taken."""
    count = len(parts)
    logs = [math.log(statistic(np.concatenate(drawn))) for drawn in itertools.product(parts, repeat=count)]
    reach = math.sqrt(np.var(logs) * count / (count - 1)) * stats.t.ppf(0.975, count - 1)
    value = statistic(np.concatenate(parts))
    return value * math.exp(-reach), value * math.exp(reach)


def ends(row, name):
    return row[f"{name}_low_ms"], row[f"{name}_high_ms"]


def parts_of(samples):
    return [part["latency_ms"].to_numpy() for _, part in samples.groupby("block")]


@pytest.mark.parametrize(("table", "exactly"), [("ttft", ("p50", "p90")), ("p99", ("p50", "p90", "p99"))])
def test_quantiles_of_requests_have_the_ranks_of_the_binomial(full, table, exactly):
    timed = full.samples[full.samples["metric"] == "ttft"].groupby(["case", "prompt_length"])
    found = getattr(enriched, table)(full).set_index(["case", "prompt_length"])
    assert len(found) == 4 * 3
    for key, row in found.iterrows():
        own = timed.get_group(key)
        for name in exactly:
            p = int(name[1:]) / 100
            assert row[f"{name}_ms"] == pytest.approx(by_rank(own["latency_ms"], p), rel=1e-6)
            assert ends(row, name) == pytest.approx(exact(own["latency_ms"], p), rel=1e-6), (key, name)
        if table == "ttft":
            assert ends(row, "mean") == pytest.approx(over_blocks(parts_of(own), np.mean)), key


def test_decode_has_intervals_over_blocks_and_no_end_of_a_p99_that_is_refused(tmp_path):
    run = load(invent(tmp_path / "run", Spec(blocks=3, context=200, context_ranges=((10, 30), (31, 200)))))
    steps = run.samples[run.samples["metric"] == "decode"]
    found = enriched.decode(run)
    assert set(found["n"] >= 368) == {True, False}
    for row in found.to_dict("records"):
        between = steps["context_length"].between(row["context_from"], row["context_to"])
        parts = parts_of(steps[between & (steps["case"] == row["case"])])
        assert ends(row, "mean") == pytest.approx(over_blocks(parts, np.mean))
        for name, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            if name == "p99" and row["n"] < 368:
                assert np.isnan([row["p99_ms"], *ends(row, name)]).all()
                continue
            assert ends(row, name) == pytest.approx(over_blocks(parts, lambda values, p=p: by_rank(values, p))), name


@pytest.mark.parametrize("lost", [False, True])
def test_a_block_that_lacks_a_row_has_no_average(tmp_path, lost):
    path = invent(tmp_path / "run", Spec(blocks=4))
    samples = pd.read_csv(path / "samples.csv")
    gone = (samples["case"] == "jit") & (samples["block"] == 2) & (samples["prompt_length"] == 400) & lost
    samples[~gone].to_csv(path / "samples.csv", index=False)
    found = blockwise.by_block(load(path), "TTFT")
    own = found[(found["case"] == "jit") & (found["row"] == blockwise.AVERAGE)]
    assert set(own["block"]) == ({0, 1, 3} if lost else {0, 1, 2, 3})
    means = found[(found["case"] == "jit") & (found["row"] != blockwise.AVERAGE)]
    whole = means[means["block"].isin(own["block"])].groupby("block")["value"].mean()
    value = float(whole.mean())
    reach = math.exp(stats.sem(np.log(whole)) * stats.t.ppf(0.975, len(whole) - 1))
    ours = blockwise.average_interval(found, "jit", value)
    assert ours.high / ours.value == pytest.approx(reach, rel=0.01)


def rows_of(*pairs):
    """Tests of a row as `significance.tests` has them, from (case, over, p)."""
    known = {"metric": "TTFT", "row": "10", "ratio": 1.1, "low": 1.0, "high": 1.2, "blocks": 5}
    return pd.DataFrame([{**known, "case": case, "over": over, "p": p} for case, over, p in pairs])


def test_a_verdict_is_that_of_the_corrected_p():
    found = significance.judged(rows_of(("a", "b", 0.01), ("a", "c", 0.03), ("b", "c", 0.04), ("b", "d", math.nan)))
    assert found["holm_p"].tolist() == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert found["verdict"].tolist() == ["faster", "tie", "tie", "not tested"]


def test_the_summary_corrects_over_every_pair_and_metric_and_a_row_over_its_own(full):
    found = significance.overall(full)
    assert len(found) == 3 * 6
    assert found["holm_p"].tolist() == pytest.approx(blockwise.holm(found["p"]).tolist())
    row = significance.tests(full, "TTFT").query("row == 'Average'").set_index(["case", "over"])
    whole = found[found["metric"] == "TTFT"].set_index(["case", "over"])
    assert whole["p"].tolist() == pytest.approx(row.loc[whole.index, "p"].tolist())
    assert (whole["holm_p"] >= row.loc[whole.index, "holm_p"]).all()
    assert whole["holm_p"].max() > row["holm_p"].max(), "18 tests are more than 6"


@pytest.mark.parametrize(
    ("pairs", "ties", "untested"),
    [
        ([("a", "b", 0.001), ("a", "c", 0.001)], (), ()),
        ([("a", "b", 0.001), ("a", "c", 0.5)], ("c",), ()),
        ([("a", "b", 0.001), ("c", "a", 0.001)], ("c",), ()),
        ([("a", "b", 0.001)], (), ("c",)),
        ([("a", "b", 0.001), ("c", "a", math.nan)], (), ("c",)),
    ],
)
def test_the_lowest_wins_only_where_it_is_the_faster_of_every_pair(pairs, ties, untested):
    run = SimpleNamespace(cases=dict.fromkeys("abc", "title"), competes=lambda case: True)
    found = significance.standing(run, pd.Series({"a": 1.0, "b": 2.0, "c": 3.0}), significance.judged(rows_of(*pairs)))
    assert (found.best, found.ties, found.untested) == ("a", ties, untested)
    assert found.winner == (() if ties or untested else ("a",))


def test_a_p99_is_compared_by_that_of_each_block(full):
    found = blockwise.by_block(full, "P99").query("row == '100' and case == 'jit'").set_index("block")["value"]
    timed = full.samples.query("metric == 'ttft' and prompt_length == 100 and case == 'jit'").groupby("block")
    assert found.to_dict() == {block: by_rank(part["latency_ms"], 0.99) for block, part in timed}


def test_the_spread_between_blocks_is_freed_of_what_few_requests_give():
    rng = np.random.default_rng(6)
    shifts = np.repeat(rng.normal(0, 0.03, 3000), 4)
    own = pd.DataFrame({
        "block": np.repeat(np.arange(3000), 4), "prompt_length": 10,
        "latency_ms": np.exp(shifts + rng.normal(0, 0.09, 12_000)),
    })  # fmt: skip
    assert components(own)["block_share"] == pytest.approx(9 / 90, abs=0.03), "0.27 with the requests' part"


def test_cells_that_differ_are_counted_and_their_ends_keep_their_order(tmp_path):
    """Cases that are not alike, as if one had two names: the later is the faster in some pairs."""
    spec = Spec(cases=("baseline", "jit", "jit_cuda_graph"), missing=(), wrong=(), blocks=4)
    run = load(invent(tmp_path / "run", spec))
    found = aa.tested(run)
    assert (found["low"] <= found["ratio"]).all()
    assert (found["ratio"] <= found["high"]).all()
    assert (found["ratio"] < 1).any()
    shares = {row[0].text: row[2].text for row in aa.share_table(run, "aa", found).rows}
    for pair, own in found.groupby("pair"):
        count = int((own["holm_p"] <= 0.05).sum())
        assert count > 0
        assert shares[pair].startswith(f"{count} of {len(own)} ("), pair


def test_a_block_that_one_cell_lost_is_in_no_effect(tmp_path):
    path = invent(tmp_path / "run", Spec(blocks=4))
    status = pd.read_csv(path / "status.csv")
    lost = (status["case"] == "jit") & (status["block"] == 2)
    status.assign(state=status["state"].mask(lost, "failed")).to_csv(path / "status.csv", index=False)
    assert ablation.shared_blocks(load(path)) == [0, 1, 3]


def test_the_launch_gap_is_the_median_of_differences_and_no_difference_of_medians():
    frame = pd.DataFrame({"host_ms": [3.0, 4.0, 9.0], "gpu_ms": [2.5, 1.0, 7.0]})
    assert enriched.launch_gap(frame) == 2.0, "of 0.5, 3 and 2"
    assert math.isnan(enriched.launch_gap(frame.assign(gpu_ms=math.nan)))
