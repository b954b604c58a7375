"""What the title of a case is marked with: a failed comparison, lost blocks, flagged samples."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.run import Run
from reports.table import DOUBLE_DAGGER, Notes

FLAGS = {
    "throttled": "throttled",
    "captures": "with a graph captured inside",
    "ungraphed": "without a graph",
    "coalesced": "whose token came with others or before it was asked for",
}


def listed(titles: Sequence[str]) -> str:
    """Titles in a sentence: between commas, or between semicolons where one holds a comma."""
    return ("; " if any("," in title for title in titles) else ", ").join(titles)


def case_marks(run: Run, case: str, notes: Notes) -> tuple[str, ...]:
    """A dagger for a failed comparison with the baseline, a double one for none, a number where blocks are missing."""
    marks = []
    title = run.cases[case]
    if reason := run.failed_equivalence(case):
        marks.append(notes.dagger(f"{title} fails the comparison with the baseline and can't win: {reason}."))
    if reason := run.uncompared(case):
        alike = [run.cases[other] for other in run.cases if run.uncompared(other) == reason]
        how = "compared with the baseline by ids alone" if run.judged(case) else "not compared with the baseline"
        marks.append(notes.dagger(f"{'; '.join(alike)}: {how}: {reason}.", DOUBLE_DAGGER))
    if run.lost_blocks(case):
        marks.append(notes.mark(run.missing(case)))
    return tuple(marks)


def flag_notes(run: Run, frame: pd.DataFrame) -> dict[str, str]:
    """How many samples behind a case's values are flagged, for each case that has any. The whole range counts once."""
    rows = frame[frame["whole"]] if "whole" in frame and frame["whole"].any() else frame
    found = {}
    for case, title in run.cases.items():
        own = rows[rows["case"] == case]
        counts = {text: int(own[column].sum()) for column, text in FLAGS.items()}
        if parts := [f"{count} {text}" for text, count in counts.items() if count]:
            found[case] = f"{title} {', '.join(parts)} (n = {int(own['n'].sum())})"
    return found
