"""What the referee said (referee.csv), as rows of equivalence.csv have it; or why it said nothing."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.job import Job
from harness.measure.referee import judged_cases
from harness.output.manifest import NOT_JUDGED
from harness.schema import EQUIVALENCE_JUDGED, REFERENCE

Row = dict[str, Any]
TABLE = "referee.csv"
COUNTS = ("judged", "near_ties", "wrong")
TIMED, DECODE = EQUIVALENCE_JUDGED[:3], EQUIVALENCE_JUDGED[3:]


@dataclass(frozen=True)
class Referee:
    """Rows of referee.csv by case, metric and prompt length; `why_not`: the reason where they should be there."""

    rows: dict[tuple[str, str, int], dict[str, str]]
    decode_length: int
    why_not: str = ""

    def judged(self, case: str) -> bool:
        """Whether a case's timed ids were judged."""
        return any(key[0] == case for key in self.rows)

    def counts(self, case: str, length: int) -> Row:
        """The columns of equivalence.csv for a case and prompt length."""
        timed, decode = self.rows.get((case, "ttft", length)), self.rows.get((case, "decode", self.decode_length))
        found = [(names, row) for names, row in ((TIMED, timed), (DECODE, decode)) if row is not None]
        return {name: int(row[count]) for names, row in found for name, count in zip(names, COUNTS, strict=True)}

    def verdict(self, row: Row) -> Row:
        """What becomes of a judged row: with ids that the reference calls wrong, in the requests of its length or in
        decode, it has not passed, and what failed before is said first. Without logits, right ids alone are no pass."""
        case, length = row["case"], row["prompt_length"]
        said = [] if row.get("passed") is not False else [row["reason"]]
        words = {("ttft", length): ("timed ids", "in request"), ("decode", self.decode_length): ("decode ids", "at")}
        faults = [
            f"{found['wrong']} of {found['judged']} {ids} are neither {REFERENCE}'s likeliest nor near-ties of it, the "
            f"first {where} {found['first_wrong']}{' tokens of context' if key[0] == 'decode' else ''}"
            for key, (ids, where) in words.items()
            if (found := self.rows.get((case, *key))) and int(found["wrong"])
        ]
        if faults:
            return {"passed": False, "reason": "; ".join([*said, *faults])}
        return {} if row.get("passed") is not None else {"reason": f"{row['reason']}; none of its timed ids is wrong"}

    def lacking(self, row: Row) -> Row:
        """The reason of a row whose ids should have been judged and were not; `passed` stays what it is."""
        reason = "; ".join(filter(None, [str(row.get("reason", "")), f"not judged: {self.why_not}"]))
        return {"reason": reason} if self.why_not else {}


def load(folder: Path, job: Job) -> Referee:
    """What a run's folder has of the referee."""
    path, manifest = folder / TABLE, folder / "manifest.json"
    length = job.sweep.decode_prompt_length
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = {(row["case"], row["metric"], int(row["prompt_length"])): row for row in csv.DictReader(file)}
        return Referee(rows, length)
    stored = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    return Referee({}, length, str(stored.get(NOT_JUDGED) or "") if judged_cases(job) else "")
