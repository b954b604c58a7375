"""The gate on the ids of the timed requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import run, schema
from harness.job import read_job
from harness.output import equivalence
from harness.output.summary import load_samples
from tests.runs import execute_in, status

STORED = Path(__file__).parent / "data/synthetic"


def judged(run_dir: Path, samples: pd.DataFrame) -> pd.DataFrame:
    found = equivalence.rows(run_dir, read_job(run_dir / "job.json"), samples)
    return pd.DataFrame(list(found)).set_index("case").loc["jit"]


@pytest.mark.parametrize("logits", [True, False])
def test_right_logits_do_not_excuse_other_ids_in_the_timed_requests(tmp_path, logits):
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    if not logits:
        (tmp_path / "blocks/jit-0/scores.f32").unlink()
    samples = load_samples(tmp_path / "samples.csv")
    before = judged(tmp_path, samples)
    assert before["passed"].eq(True).all() == logits
    samples.loc[(samples["case"] == "jit") & (samples["metric"] == "ttft"), "token_id"] = -1
    after = judged(tmp_path, samples)
    assert after["passed"].eq(False).all()
    assert (after["reason"] == "only 0 of 40 timed requests gave baseline's greedy id").all()
    job = json.loads((tmp_path / "job.json").read_text())
    (tmp_path / "job.json").write_text(json.dumps({**job, "sampling": {**job["sampling"], "strategy": "sample"}}))
    assert not judged(tmp_path, samples)["passed"].eq(False).any(), "sampled ids follow each engine's own generator"


def test_where_the_reference_judged_its_word_counts_and_no_share(tmp_path):
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    samples = load_samples(tmp_path / "samples.csv")
    samples.loc[(samples["case"] == "jit") & (samples["metric"] == "ttft"), "token_id"] = 63
    lines = [f"jit,ttft,{length},40,10,30,0,,0.9" for length in (10, 100, 400)]
    head = ",".join(schema.REFEREE)

    def after(*rows: str) -> pd.DataFrame:
        (tmp_path / "referee.csv").write_text("\n".join([head, *rows, ""]))
        return judged(tmp_path, samples).set_index("prompt_length")

    found = after(*lines, "jit,decode,10,100,100,0,0,,0")
    assert found["passed"].eq(True).all(), "thirty near-ties of forty"
    assert (found["judged_near_ties"] == 30).all()
    found = after(lines[0], "jit,ttft,100,40,10,28,2,7,3.5", lines[2], "jit,decode,10,100,100,0,0,,0")
    assert found["passed"].eq(True).to_list() == [True, False, True]
    said = "2 of 40 timed ids are neither baseline's likeliest nor near-ties of it, the first in request 7"
    assert found.loc[100, "reason"] == said
    (tmp_path / "blocks/jit-0/scores.f32").rename(tmp_path / "scores")
    found = after(*lines, "jit,decode,10,100,100,0,0,,0")
    assert found["passed"].isna().all(), "no logits, no pass"
    assert found["reason"].str.endswith("of jit got not so far; none of its timed ids is wrong").all()
    assert after(*lines, "jit,decode,10,100,99,0,1,42,1.5")["passed"].eq(False).all()
    (tmp_path / "scores").rename(tmp_path / "blocks/jit-0/scores.f32")
    found = after(*lines, "jit,decode,10,100,99,0,1,42,1.5")
    assert found["passed"].eq(False).all(), "a step belongs to no prompt length"
    assert found["reason"].str.endswith("the first at 42 tokens of context").all()


@pytest.mark.parametrize(
    ("row", "fails"),
    [
        ({"timed_tokens_compared": 40, "timed_tokens_equal": 20}, False),
        ({"timed_tokens_compared": 40, "timed_tokens_equal": 19, "passed": True}, True),
        ({"timed_tokens_compared": 40, "timed_tokens_equal": 0, "passed": False, "reason": "worse"}, False),
        ({}, False),
    ],
)
def test_a_row_fails_below_half_and_keeps_an_earlier_reason(row, fails):
    assert bool(equivalence.timed_fault(row)) == fails


def test_where_ids_first_differ_is_said(tmp_path):
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    samples = load_samples(tmp_path / "samples.csv")
    before = judged(tmp_path, samples)
    assert before[["timed_first_divergence", "decode_first_divergence"]].isna().all(axis=None)
    ours = samples["case"] == "jit"
    late = ours & (samples["metric"] == "ttft") & (samples["block"] == 1) & (samples["iteration"] == 3)
    samples.loc[late & (samples["prompt_length"] == 100), "token_id"] = -1
    decode = ours & (samples["metric"] == "decode") & (samples["block"] == 1)
    samples.loc[decode & samples["context_length"].isin([42, 51]), "token_id"] = -1
    after = judged(tmp_path, samples).set_index("prompt_length")
    assert after.loc[100, "timed_first_divergence"] == 20 + 3
    assert after.loc[[10, 400], "timed_first_divergence"].isna().all()
    assert set(after["decode_first_divergence"]) == {42}
    assert set(after["decode_tokens_compared"]) == {2 * 50}


def test_blocks_that_the_baseline_lacks_are_counted_as_not_compared(tmp_path):
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    samples = load_samples(tmp_path / "samples.csv")
    samples = samples[(samples["case"] != "baseline") | (samples["block"] == 0)]
    found = judged(tmp_path, samples)
    assert set(found["timed_tokens_compared"]) == set(found["timed_tokens_uncompared"]) == {20}
    assert set(found["decode_tokens_compared"]) == {2 * 50}, "decode prompts are the same in every block"


def test_forced_steps_name_their_first_divergence():
    reference = np.eye(4, 8, dtype=np.float32)
    logits = reference.copy()
    assert equivalence.compare(logits, reference, 0.02)["first_divergence"] is None
    logits[2] = np.roll(logits[2], 1)
    assert equivalence.compare(logits, reference, 0.02)["first_divergence"] == 2
    logits[3] = np.nan
    assert equivalence.compare(logits, reference, 0.02)["first_divergence"] == 2


def test_a_case_that_computes_otherwise_is_in_the_exit_code(tmp_path, monkeypatch, capsys):
    real = run.subprocess.run

    def without_report(call, **rest):
        return run.subprocess.CompletedProcess(call, 0) if "reports" in call else real(call, **rest)

    monkeypatch.setattr(run.subprocess, "run", without_report)
    wrong = [{"case": "other", "prompt_length": 10, "passed": False, "reason": "the ids are others"}]
    monkeypatch.setattr(equivalence, "rows", lambda *_: iter(wrong))
    assert execute_in(tmp_path) == run.UNEQUAL == 3
    assert "not equal to the baseline: other (at 10 tokens: the ids are others)" in capsys.readouterr().out
    assert {row["state"] for row in status(tmp_path).values()} == {"ok"}
    assert execute_in(tmp_path / "worse", "cases.fake.behaviour=exit") == 1
