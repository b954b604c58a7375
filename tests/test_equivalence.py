"""The gate on the ids of the timed requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness import equivalence
from harness.job import read_job
from harness.summary import load_samples

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
