"""Whether a case computes what the baseline computes: logits under teacher forcing, and the timed token ids."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.foreign import foreign_blocks
from harness.job import Job
from harness.output import judged, record
from harness.schema import REFERENCE

TIMED_SHARE = 0.5
"""Part of the timed greedy ids that must be the reference's, where it did not judge them. Rounding swaps the near-ties,
a few in a hundred where weights are random; another computation agrees in hardly any."""
Logits = npt.NDArray[np.float32]
Row = dict[str, Any]


def rows(run_dir: Path, job: Job, samples: pd.DataFrame) -> Iterator[Row]:
    """Rows of equivalence.csv: one a case other than the reference and prompt length.

    A row's `passed` is None, and its reason says why, where there are no logits to compare. Whatever the logits say,
    a case has not passed when the reference, asked about its timed ids, calls one wrong (harness/measure/referee.py),
    or, where it was not asked, when too few of them are the reference's own.
    """
    timed = samples[samples["metric"] == "ttft"]
    reference, reference_fault = load_scores(run_dir, job, REFERENCE)
    referee = judged.load(run_dir, job)
    for case in job.cases:
        if case == REFERENCE or case not in set(samples["case"]):
            continue
        scores, fault = load_scores(run_dir, job, case)
        alike = job.same_requests(case)
        tokens = timed_tokens(timed, case) if alike else {}
        decoded = decode_tokens(samples, case) if alike else {}
        for index, length in enumerate(job.sweep.prompt_lengths):
            row: Row = {"case": case, "prompt_length": length, **tokens.get(length, {}), **decoded}
            if scores is None or reference is None:
                row |= {"reason": fault if scores is None else reference_fault}
            else:
                row |= compare(scores[index], reference[index], job.sweep.tolerance)
            yield with_ids(row, referee) if alike else row


def with_ids(row: Row, referee: judged.Referee) -> Row:
    """The row, with what is known of the timed ids of a case that has the reference's requests."""
    case, length = row["case"], row["prompt_length"]
    if referee.judged(case):
        row = row | referee.counts(case, length)
        return row | referee.verdict(row)
    row = row | timed_fault(row)
    return row | referee.lacking(row)


def load_scores(run_dir: Path, job: Job, case: str) -> tuple[Logits | None, str]:
    """Logits of block 0 as float32 [length, step, vocabulary], or None and one sentence on what is wrong."""
    path = run_dir / "blocks" / f"{case}-0" / "scores.f32"
    if case not in job.cases:
        return None, f"{case} is not part of this run"
    if (case, 0) in foreign_blocks(run_dir / "status.csv"):
        return None, f"no logits: something else answered in block 0 of {case}"
    if not path.is_file():
        row = record.read_verdict(replace(job, run_dir=str(run_dir)), case, 0)
        there = row is not None and row["state"] == "ok"
        return None, "no logits: the engine hands none out" if there else f"no logits: block 0 of {case} got not so far"
    shape = (len(job.sweep.prompt_lengths), job.sweep.forced_tokens + 1, job.vocab_size)
    values = np.fromfile(path, dtype="<f4")
    if values.size != math.prod(shape):
        return None, f"{path.parent.name}/{path.name} holds {values.size} logits where the run plans {math.prod(shape)}"
    return values.reshape(shape), ""


def compare(logits: Logits, reference: Logits, tolerance: float) -> Row:
    """Compare logits [step, vocabulary] with the reference's.

    Passed: at every step ||a - b|| / ||b|| <= tolerance, and the likeliest ids agree, or are so close in the
    reference (gap <= 2 * tolerance * RMS of its logits) that an error of that size may swap them.
    """
    a, b = logits.astype(np.float64), reference.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return failed(a, b, "logits hold NaN or infinity")
    error = relative_error(a, b)
    ids, reference_ids = a.argmax(axis=1), b.argmax(axis=1)
    steps = np.arange(len(b))
    gap = b[steps, reference_ids] - b[steps, ids]
    near = gap <= 2.0 * tolerance * np.sqrt(np.mean(b**2, axis=1))
    swapped = int((~((ids == reference_ids) | near)).sum())
    return {
        "tokens_compared": len(b),
        "tokens_equal": int((ids == reference_ids).sum()),
        "first_divergence": first(ids != reference_ids),
        "max_relative_logit_error": error,
        "passed": error <= tolerance and swapped == 0,
        "reason": fault_of(error, tolerance, swapped),
    }


def failed(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], reason: str) -> Row:
    """The row of logits that can't be measured against each other: the ids are counted, the error is NaN."""
    unlike = a.argmax(axis=1) != b.argmax(axis=1)
    error = {"max_relative_logit_error": math.nan, "passed": False, "reason": reason}
    return {"tokens_compared": len(b), "tokens_equal": int((~unlike).sum()), "first_divergence": first(unlike), **error}


def first(unlike: npt.NDArray[np.bool_]) -> int | None:
    """The place of the first True, None when there is none."""
    return int(unlike.argmax()) if unlike.any() else None


def relative_error(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The largest ||a - b||_2 / ||b||_2 over steps; zero against zero is 0."""
    difference, size = np.linalg.norm(a - b, axis=1), np.linalg.norm(b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(difference == 0.0, 0.0, difference / size).max())


def fault_of(error: float, tolerance: float, swapped: int) -> str:
    """One sentence on why a comparison fails; empty when it passes."""
    if error > tolerance:
        return f"relative logit error {error:.2g} is above {tolerance:g}"
    if swapped:
        return f"{swapped} likeliest ids differ from {REFERENCE}'s by more than a near-tie"
    return ""


def timed_fault(row: Row) -> Row:
    """What becomes of a row whose timed requests gave too few of the reference's ids; empty when enough agree."""
    compared, equal = row.get("timed_tokens_compared", 0), row.get("timed_tokens_equal", 0)
    if equal >= TIMED_SHARE * compared or row.get("passed") is False:
        return {}
    return {"passed": False, "reason": f"only {equal} of {compared} timed requests gave {REFERENCE}'s greedy id"}


def timed_tokens(timed: pd.DataFrame, case: str) -> dict[int, Row]:
    """How many timed requests gave the reference's token, by prompt length; the same key is the same prompt.

    A block that the reference does not have has prompts of its own: its requests are counted as not compared.
    """
    keys = ["block", "prompt_length", "iteration"]
    ours, reference = (timed.loc[timed["case"] == name, [*keys, "token_id"]] for name in (case, REFERENCE))
    both = ours.sort_values(keys).merge(reference, on=keys, suffixes=("", "_reference"))
    unlike = (both["token_id"] != both["token_id_reference"]).groupby(both["prompt_length"])
    there = ours.groupby("prompt_length").size()
    return {
        int(length): {
            "timed_tokens_compared": len(group),
            "timed_tokens_equal": int((~group).sum()),
            "timed_tokens_uncompared": int(there[length]) - len(group),
            "timed_first_divergence": first(group.to_numpy()),
        }
        for length, group in unlike
    }


def decode_tokens(samples: pd.DataFrame, case: str) -> Row:
    """How many timed decode steps are there in the reference too, and the least context at which an id is another.

    Sequences have the same prompts in every block, so all blocks are held against the reference's first. An id that
    differs changes all that follow it, so only the first says something.
    """
    keys = ["iteration", "context_length"]
    steps = samples[samples["metric"] == "decode"]
    ours, reference = (steps[steps["case"] == name] for name in (case, REFERENCE))
    reference = reference[reference["block"] == reference["block"].min()]
    both = ours.merge(reference[[*keys, "token_id"]], on=keys, suffixes=("", "_reference"))
    unlike = both.loc[both["token_id"] != both["token_id_reference"], "context_length"]
    diverged = int(unlike.min()) if len(unlike) else None
    return {"decode_tokens_compared": len(both), "decode_first_divergence": diverged} if len(both) else {}


def unequal(path: Path) -> list[str]:
    """`case (at N tokens: why)` for each case that equivalence.csv says not to compute what the reference does."""
    with path.open(encoding="utf-8", newline="") as file:
        failed_rows = [row for row in csv.DictReader(file) if row["passed"] == "False"]
    first_of = {row["case"]: row for row in reversed(failed_rows)}
    return [f"{case} (at {row['prompt_length']} tokens: {row['reason']})" for case, row in sorted(first_of.items())]
