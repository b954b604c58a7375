import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from harness import schema
from harness.output import equivalence
from harness.output.summary import Floor, load_floor, load_samples, summarise, throttled
from reports.run import load
from tests.synthetic import STORED, VOCABULARY, Spec, invent

SUMMARIES = {
    "ttft.csv": schema.TTFT,
    "p99.csv": schema.P99,
    "decode.csv": schema.DECODE,
    "equivalence.csv": schema.EQUIVALENCE,
}


@pytest.fixture
def run_dir(tmp_path):
    return shutil.copytree(STORED, tmp_path / "run")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return invent(tmp_path_factory.mktemp("large") / "run", Spec(iterations=125, blocks=3))


def edit(path, **columns):
    table = pd.read_csv(path)
    table.assign(**{name: change(table) for name, change in columns.items()}).to_csv(path, index=False)


@pytest.mark.parametrize("name", SUMMARIES)
def test_columns_are_those_of_the_schema_and_stored_files_have_the_first_of_them(run_dir, name):
    stored = tuple(pd.read_csv(run_dir / name).columns)
    assert stored == SUMMARIES[name][: len(stored)]
    summarise(run_dir)
    assert tuple(pd.read_csv(run_dir / name).columns) == SUMMARIES[name]


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_stored_summaries_follow_from_the_stored_samples(run_dir, name):
    (run_dir / name).unlink()
    summarise(run_dir)
    stored = pd.read_csv(STORED / name)
    pd.testing.assert_frame_equal(pd.read_csv(run_dir / name)[list(stored)], stored, rtol=1e-6)
    assert not list(run_dir.glob(".*")), "a file written aside stayed"


def test_ttft_pools_blocks_and_takes_the_first_iterations(run_dir):
    job = json.loads((run_dir / "job.json").read_text())
    job["sweep"]["ttft_iterations"] = 3
    (run_dir / "job.json").write_text(json.dumps(job))
    edit(run_dir / "samples.csv", host_ms=lambda table: 10.0 * table["block"] + table["iteration"] + 1)
    summarise(run_dir)
    row = pd.read_csv(run_dir / "ttft.csv").iloc[0]
    assert (row["n"], row["mean_ms"], row["min_ms"], row["p50_ms"]) == (6, 7.0, 1.0, 3.0)
    assert row["std_ms"] == pytest.approx(np.std([1, 2, 3, 11, 12, 13], ddof=1))
    assert (row["p50_low_ms"], row["p50_high_ms"]) == (1.0, 13.0)
    p99 = pd.read_csv(run_dir / "p99.csv").iloc[0]
    assert (p99["n"], p99["max_ms"], p99["p90_ms"]) == (40, 30.0, 26.0)


def test_cold_is_never_among_the_warm_samples(run_dir):
    edit(run_dir / "samples.csv", host_ms=lambda t: t["host_ms"].where(t["metric"] != "cold", 1e6 + t["block"]))
    summarise(run_dir)
    ttft = pd.read_csv(run_dir / "ttft.csv").set_index(["case", "prompt_length"])
    assert ttft.loc[("baseline", 10), "cold_ms"] == 1e6
    assert math.isnan(ttft.loc[("baseline", 100), "cold_ms"])
    assert ttft["mean_ms"].max() < 1e6


def test_flags_are_counted_and_nothing_is_dropped(run_dir):
    edit(
        run_dir / "samples.csv",
        throttle=lambda t: np.where(t["iteration"] < 4, "sw_power_cap|idle", "none"),
        captures=lambda t: (t["iteration"] == 1).astype(int),
        ungraphed=lambda t: 2 * (t["iteration"] == 2),
        coalesced=lambda t: (t["iteration"] == 3).astype(int),
    )
    summarise(run_dir)
    row = pd.read_csv(run_dir / "ttft.csv").iloc[0]
    assert (row["n"], row["throttled"], row["captures"], row["ungraphed"], row["coalesced"]) == (40, 8, 2, 2, 2)


@pytest.mark.parametrize(
    ("reasons", "slow"),
    [("", False), ("none", False), ("idle", False), ("none|idle", False), ("hw_slowdown", True), ("idle|hw", True)],
)
def test_only_a_reason_that_slows_counts_as_throttled(reasons, slow):
    assert throttled(pd.Series([reasons])).tolist() == [slow]


def test_p99_is_given_where_n_supports_it_and_only_there(large, run_dir):
    enough, few = (pd.read_csv(folder / "p99.csv") for folder in (large, run_dir))
    assert (enough["n"] == 375).all()
    assert enough["supported"].all()
    assert (enough["p99_low_ms"] <= enough["p99_ms"]).all()
    assert (enough["p99_ms"] <= enough["p99_high_ms"]).all()
    assert not few["supported"].any()
    assert few["p99_ms"].isna().all()
    assert few["max_ms"].notna().all()


def test_decode_has_each_range_and_the_whole(run_dir):
    decode = pd.read_csv(run_dir / "decode.csv")
    rows = decode[decode["case"] == "jit"]
    assert list(zip(rows["context_from"], rows["context_to"], rows["n"], strict=True)) == [
        (10, 30, 42),
        (31, 60, 58),
        (10, 60, 100),
    ]


def test_a_case_without_samples_has_no_row(run_dir):
    assert all("tensorrt_llm" not in set(pd.read_csv(run_dir / name)["case"]) for name in SUMMARIES)


def test_what_another_engine_answered_speaks_for_nobody(large, tmp_path):
    """Its samples stay in samples.csv; a block that failed for another reason keeps its part in the tables."""
    run = shutil.copytree(large, tmp_path / "run")
    summarise(run)
    before = pd.read_csv(run / "ttft.csv")
    edit(run / "samples.csv", latency_ms=lambda t: t["latency_ms"].mask((t["block"] == 1) & (t["case"] == "jit"), 0.01))
    edit(run / "status.csv", state=lambda t: t["state"].mask((t["block"] == 1) & (t["case"] == "jit"), "failed"))
    summarise(run)
    pooled = pd.read_csv(run / "ttft.csv")
    assert pooled.loc[pooled["case"] == "jit", "min_ms"].eq(0.01).all()
    foreign = "contradicted: kernels of Transformers answered"
    status = pd.read_csv(run / "status.csv").assign(identity="proven: 9 different kernels")
    mask = (status["block"] == 1) & (status["case"] == "jit")
    status.assign(identity=status["identity"].mask(mask, foreign)).to_csv(run / "status.csv", index=False)
    summarise(run)
    without = pd.read_csv(run / "ttft.csv")
    own, others = without["case"] == "jit", without["case"] != "jit"
    assert (without.loc[own, "min_ms"] > 0.01).all()
    assert (without.loc[own, "n"] == before.loc[own, "n"] * 2 / 3).all()
    pd.testing.assert_frame_equal(without[others], before[others])
    read = load(run)
    assert (
        len(read.samples)
        == len(load_samples(run / "samples.csv")) - len(read.samples[read.samples["case"] == "jit"]) // 2
    )


def test_floor_is_the_longer_of_reading_and_computing():
    floor = Floor(4.66, 800.0, 13.21e9, 13.21e9)
    assert floor.milliseconds(1) == pytest.approx(2.8348, abs=1e-4)
    assert floor.milliseconds(400) == pytest.approx(6.605)


def test_without_calibration_the_floor_is_nan(run_dir):
    manifest = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps({**manifest, "matmul_tflop_s": None}))
    summarise(run_dir)
    assert pd.read_csv(run_dir / "ttft.csv")[["floor_ms", "ratio_to_floor"]].isna().all(axis=None)
    del manifest["weight_bytes"]
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has no weight_bytes"):
        load_floor(run_dir / "manifest.json")


def test_samples_without_a_column_are_refused(run_dir):
    pd.read_csv(run_dir / "samples.csv").drop(columns="throttle").to_csv(run_dir / "samples.csv", index=False)
    with pytest.raises(ValueError, match="no column throttle"):
        load_samples(run_dir / "samples.csv")


def test_no_samples_at_all_give_empty_tables(run_dir):
    (run_dir / "samples.csv").write_text(",".join(schema.SAMPLES) + "\n")
    summarise(run_dir)
    assert all(pd.read_csv(run_dir / name).empty for name in SUMMARIES)


def compare(logits, reference, tolerance=0.02):
    return equivalence.compare(np.array(logits, np.float32), np.array(reference, np.float32), tolerance)


def test_equal_logits_pass():
    row = compare([[1, 2, 3]], [[1, 2, 3]])
    assert (row["passed"], row["tokens_equal"], row["max_relative_logit_error"], row["reason"]) == (True, 1, 0.0, "")


def test_relative_error_is_the_worst_step():
    row = compare([[3, 4], [6, 8.5]], [[3, 4], [6, 8]], tolerance=0.04)
    assert row["max_relative_logit_error"] == pytest.approx(0.05)
    assert not row["passed"]
    assert "0.05 is above 0.04" in row["reason"]


@pytest.mark.parametrize(("gap", "passed"), [(0.01, True), (0.2, False)])
def test_another_token_passes_only_as_a_near_tie(gap, passed):
    reference = np.full(1000, 1.0)
    reference[7] += gap
    logits = reference.copy()
    logits[3] = logits[7] + 0.001
    row = compare([logits], [reference])
    assert (row["tokens_equal"], row["passed"]) == (0, passed)
    assert ("near-tie" in row["reason"]) != passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("ours", [True, False])
def test_nan_and_infinity_never_pass(bad, ours):
    spoilt, whole = [[1, bad, 0]], [[1, 2, 0]]
    row = compare(spoilt, whole) if ours else compare(whole, spoilt)
    assert row["passed"] is False
    assert "NaN or infinity" in row["reason"]


def test_zero_reference_passes_only_against_zero():
    assert compare([[0, 0]], [[0, 0]])["passed"]
    assert not compare([[0, 1]], [[0, 0]])["passed"]


def test_equivalence_of_the_stored_run(run_dir):
    table = pd.read_csv(run_dir / "equivalence.csv", keep_default_na=False, dtype={"passed": str}).set_index("case")
    assert (table.loc["jit", "passed"] == "True").all()
    assert (table.loc["eager", "passed"] == "False").all()
    assert (table.loc["jit", "timed_tokens_equal"] == 40).all()
    assert (table.loc["eager", "timed_tokens_equal"] == 38).all(), "iteration 3 of each block gives another token"
    assert "baseline" not in table.index


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ("jit", "no logits: block 0 of jit got not so far"),
        ("baseline", "no logits: block 0 of baseline got not so far"),
        ("jit", "no logits: the engine hands none out"),
    ],
)
def test_without_logits_passed_is_empty_and_the_reason_says_why(run_dir, spoilt, reason):
    state = "ok" if "engine" in reason else "failed"
    row = dict.fromkeys(schema.STATUS, "") | {"case": spoilt, "block": 0, "state": state}
    (run_dir / "blocks" / f"{spoilt}-0" / "verdict.json").write_text(json.dumps(row))
    (run_dir / "blocks" / f"{spoilt}-0" / "scores.f32").unlink()
    summarise(run_dir)
    table = (
        pd.read_csv(run_dir / "equivalence.csv", keep_default_na=False, dtype={"passed": str})
        .set_index("case")
        .loc["jit"]
    )
    assert (table["passed"] == "").all()
    assert table["reason"].str.startswith(reason).all()
    assert (table["timed_tokens_compared"] == 40).all()


def test_scores_of_another_size_are_not_compared(run_dir):
    np.zeros(VOCABULARY, "<f4").tofile(run_dir / "blocks" / "jit-0" / "scores.f32")
    summarise(run_dir)
    table = (
        pd.read_csv(run_dir / "equivalence.csv", keep_default_na=False, dtype={"passed": str})
        .set_index("case")
        .loc["jit"]
    )
    assert (table["passed"] == "").all()
    assert (table["reason"] == "jit-0/scores.f32 holds 64 logits where the run plans 576").all()


@pytest.mark.parametrize("spoilt", ["jit", "baseline"])
def test_logits_of_something_else_are_nobodys(run_dir, spoilt):
    status = pd.read_csv(run_dir / "status.csv")
    foreign = (status["case"] == spoilt) & (status["block"] == 0)
    status["identity"] = foreign.map({True: "contradicted: by Transformers", False: "proven: 3 kernels"})
    status.to_csv(run_dir / "status.csv", index=False)
    summarise(run_dir)
    found = pd.read_csv(run_dir / "equivalence.csv", keep_default_na=False).set_index("case").loc["jit"]
    assert found["reason"].str.startswith(f"no logits: something else answered in block 0 of {spoilt}").all()
