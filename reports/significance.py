"""Case against case: which differences hold from process to process, and who wins a row.

Blocks are paired: those of one round follow each other in time and have the same prompts.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.blockwise import AVERAGE, MIN_BLOCKS, Contrast, by_block, contrast, holm, range_label, with_average
from reports.run import Run

LEVEL = 0.05
POOLED = {"TTFT": ("ttft", "p50_ms"), "P99": ("p99", "p99_ms"), "Decode": ("decode", "p50_ms")}
"""Where a metric's pooled values stand: the file of the run and its column."""
COLUMNS = ("metric", "row", "case", "over", "ratio", "low", "high", "p", "holm_p", "blocks", "verdict")
FASTER, TIE, UNTESTED = "faster", "tie", "not tested"


class Standing(NamedTuple):
    """Who leads a row: the lowest value, those that it is not significantly below, and those never tested."""

    best: str
    ties: tuple[str, ...]
    untested: tuple[str, ...]

    @property
    def won(self) -> bool:
        """Whether the lowest beats every other."""
        return not self.ties and not self.untested

    @property
    def winner(self) -> tuple[str, ...]:
        """The winner alone; nobody where cases tie or a test is missing."""
        return (self.best,) if self.won else ()

    @property
    def leaders(self) -> tuple[str, ...]:
        """The winner, or those who tie; nobody where a test is missing."""
        return () if self.untested else (self.best, *self.ties)


def pooled_logs(run: Run, metric: str) -> pd.DataFrame:
    """Log of the pooled value in ms, by row of the metric's table and case; AVERAGE is the mean over all lengths."""
    name, column = POOLED[metric]
    frame = getattr(run, name)
    if metric == "Decode":
        from_to = zip(frame["context_from"], frame["context_to"], strict=True)
        rows = [range_label(run, *pair) for pair in from_to]
    else:
        rows = [f"{length:.0f}" for length in frame["prompt_length"]]
    wide = frame.assign(row=rows, log=np.log(frame[column])).pivot(index="row", columns="case", values="log")
    if metric != "Decode":
        planned = [str(length) for length in run.sweep["prompt_lengths"]]
        wide = with_average(wide, planned)
    return wide.reindex(columns=list(run.cases))


def compare(blocks: pd.DataFrame, pooled: pd.Series, case: str, over: str) -> Contrast:
    """How many times faster `case` is than `over` in one row: `blocks` by block and case, `pooled` logs by case."""
    if case not in blocks or over not in blocks:
        return contrast(np.empty(0), float(pooled[over] - pooled[case]))
    pairs = np.log(blocks[[case, over]].dropna())
    return contrast((pairs[over] - pairs[case]).to_numpy(dtype=float), float(pooled[over] - pooled[case]))


def tests(run: Run, metric: str) -> pd.DataFrame:
    """Every pair in every row of a metric's table, the faster case first, Holm-corrected over the pairs of a row.

    Each row is a family: three blocks would not support one of all rows. So a difference somewhere in a table of nine
    rows is less sure than one in a given row (results/coverage/false_positives.md has both shares), or than `overall`.
    """
    return run.once(("tests", metric), lambda: _tests(run, metric))


def _tests(run: Run, metric: str) -> pd.DataFrame:
    pooled, blocks = pooled_logs(run, metric), by_block(run, metric)
    records = []
    for row in pooled.index:
        wide = blocks[blocks["row"] == row].pivot(index="block", columns="case", values="value")
        there = pooled.loc[row].dropna()
        for one, other in itertools.combinations(there.index, 2):
            case, over = (one, other) if there[one] <= there[other] else (other, one)
            found = compare(wide, there, case, over)
            records.append({"metric": metric, "row": row, "case": case, "over": over, **found._asdict()})
    frame = pd.DataFrame(records, columns=[c for c in COLUMNS if c not in ("holm_p", "verdict")])
    rows = [judged(part) for _, part in frame.groupby("row", sort=False)]
    return pd.concat(rows) if rows else judged(frame)


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """With `holm_p` over all of these tests, and the verdict."""
    corrected = holm(frame["p"].to_numpy(dtype=float))
    verdict = np.select([np.isnan(corrected), corrected <= LEVEL], [UNTESTED, FASTER], TIE)
    return frame.assign(holm_p=corrected, verdict=verdict)[list(COLUMNS)]


def overall(run: Run) -> pd.DataFrame:
    """Every pair by metric: over all prompt lengths, decode over the whole range; Holm-corrected over all of it."""
    return run.once("overall", lambda: _overall(run))


def _overall(run: Run) -> pd.DataFrame:
    found = [tests(run, metric) for metric in POOLED]
    whole = [frame[frame["row"].isin((AVERAGE, range_label(run, *run.whole)))] for frame in found]
    frame = pd.concat([part for part in whole if len(part)] or whole[:1], ignore_index=True)
    return judged(frame.drop(columns=["holm_p", "verdict"]))


def standing(run: Run, values: pd.Series, found: pd.DataFrame) -> Standing | None:
    """Who leads a row of values by case, after its tests; None unless two cases that may win have a value."""
    eligible = values[[case for case in run.cases if run.competes(case)]].dropna()
    if len(eligible) < 2:
        return None
    best = str(eligible.idxmin())
    verdicts = {(str(r["case"]), str(r["over"])): str(r["verdict"]) for r in found.to_dict("records")}
    others = [str(case) for case in eligible.index if case != best]
    against = {other: verdicts.get((best, other)) or flipped(verdicts.get((other, best))) for other in others}
    ties = tuple(other for other in others if against[other] == TIE)
    return Standing(best, ties, tuple(other for other in others if against[other] == UNTESTED))


def flipped(verdict: str | None) -> str:
    """A verdict on the pair the other way round: who is slower by the test can't beat the other."""
    return UNTESTED if verdict in (None, UNTESTED) else TIE


def why_untested(run: Run, standing: Standing) -> str:
    """Why a row names no winner."""
    fewest = min(run.ended_well(case) for case in (standing.best, *standing.untested))
    return (
        f"No winner is named: a test over blocks needs {MIN_BLOCKS} or more of each case that ended well, "
        f"and here there {'is' if fewest == 1 else 'are'} {fewest}."
    )
