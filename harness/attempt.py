"""One attempt at a block, before and after its worker: what an earlier one left, and whether the plan was fulfilled."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from harness.disk import whole_lines
from harness.job import Job
from harness.measure.adaptive import stopped
from harness.output.record import DONE, NOT_HERE, read_verdict
from harness.processes.launch import Outcome
from harness.schema import CONTRADICTED
from harness.settings.identity import wrong_engine

ASIDE = "attempt-"


def set_aside(folder: Path) -> None:
    """Move what an earlier attempt left in a block's folder into `attempt-N` there, so that nothing of it is taken for
    the next one's, and nothing measured is lost."""
    left = [path for path in folder.iterdir() if not path.name.startswith(ASIDE)] if folder.is_dir() else []
    if not left:
        return
    taken = {path.name for path in folder.iterdir()}
    aside = next(path for number in count(1) if (path := folder / f"{ASIDE}{number}").name not in taken)
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)


def planned_samples(job: Job, case: str, block: int) -> Mapping[str, int]:
    """How many samples of each metric a whole block has; with p99_iterations=auto as many as its p99_stops.csv says."""
    planned = job.planned_samples(case, block)
    if not job.sweep.auto or "ttft" not in planned:
        return planned
    stops = stopped(job.block_dir(case, block) / "p99_stops.csv")
    counts = [stops.get((case, block, length), 0) for length in job.sweep.prompt_lengths]
    whole = all(count >= job.sweep.ttft_iterations for count in counts)
    return {**planned, "ttft": sum(counts)} if whole else planned


def stored_samples(path: Path) -> Counter[str]:
    """How many samples of each metric a samples.csv holds; an unfinished last line is none, nor is no file any."""
    if not path.is_file():
        return Counter()
    text = whole_lines(path.read_text(encoding="utf-8", errors="replace"))
    return Counter(str(row.get("metric")) for row in csv.DictReader(io.StringIO(text, newline="")))


def checked(job: Job, case: str, block: int, outcome: Outcome) -> Outcome:
    """The outcome, held against the plan and the files: a verdict that they contradict is a failure with its reason."""
    stored = stored_samples(job.block_dir(case, block) / "samples.csv")
    reason, payload = "", outcome.payload
    if outcome.state == "ok":
        reason = wrong_engine(case, job.cases[case], str(outcome.payload.get("engine", "")))
        payload = {**payload, "identity": f"{CONTRADICTED}: {reason}"} if reason else payload
        reason = reason or missing(stored, planned_samples(job, case, block))
    elif outcome.state in NOT_HERE and stored.total():
        reason = f"said {outcome.state} when {stored.total()} samples had been measured: {outcome.reason}"
    return replace(outcome, state="failed", reason=reason, payload=payload) if reason else outcome


def is_done(job: Job, case: str, block: int) -> bool:
    """Whether a block is over, did not fail, and still has what it measured."""
    row = read_verdict(job, case, block)
    if row is None or row["state"] not in DONE:
        return False
    stored = stored_samples(job.block_dir(case, block) / "samples.csv")
    return row["state"] in NOT_HERE or not missing(stored, planned_samples(job, case, block))


def missing(stored: Mapping[str, int], planned: Mapping[str, int]) -> str:
    """One sentence on what a block that calls itself ok did not measure; empty when it is whole."""
    if not any(stored.values()) and any(planned.values()):
        return "said ok, but wrote no samples"
    unlike = [
        f"{stored.get(metric, 0)} of {count} {metric} samples"
        for metric, count in planned.items()
        if stored.get(metric, 0) != count
    ]
    return f"said ok, but wrote {', '.join(unlike)}" if unlike else ""
