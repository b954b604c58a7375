"""What is left above the floor: how much of the memory's bandwidth a case uses, and what the host adds to the GPU."""

from __future__ import annotations

import math

import pandas as pd

from reports import enriched
from reports.marks import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number

COLUMNS = ("p50_ms", "floor_ms", "ratio_to_floor", "bandwidth_utilisation", "launch_gap_ms")
WHY = {
    "launch_gap_ms": "This engine gives no GPU time for a request.",
    "floor_ms": "The machine was not calibrated in this run.",
}


def headroom_frame(run: Run) -> pd.DataFrame:
    """One row a case and metric: TTFT at the shortest prompt, decode over the whole range; times in ms."""
    shortest = min(run.sweep["prompt_lengths"])
    ttft = enriched.ttft(run)
    parts = [ttft[ttft["prompt_length"] == shortest].assign(metric=f"TTFT, {shortest} tokens")]
    if run.decodes:
        decode = enriched.decode(run)
        whole = (decode["context_from"] == run.whole[0]) & (decode["context_to"] == run.whole[1])
        parts.append(decode[whole].assign(metric="Decode"))
    frame = pd.concat(parts, ignore_index=True)
    return frame.reindex(columns=["metric", "case", "n", *COLUMNS])


def headroom_table(run: Run) -> Table:
    """Median, floor, their ratio, use of the bandwidth and launch gap, by metric and case."""
    notes, frame = Notes(), headroom_frame(run)
    rows: list[list[Cell]] = []
    rules: list[int] = []
    for metric in dict.fromkeys(frame["metric"]):
        rules.append(len(rows))
        own = frame[frame["metric"] == metric].set_index("case")
        for case, title in run.cases.items():
            values = [float(own[column].get(case, math.nan)) for column in COLUMNS]
            cells = [headroom_cell(run, case, column, value, case in own.index, notes)
                     for column, value in zip(COLUMNS, values, strict=True)]  # fmt: skip
            rows.append([Cell(str(metric)), Cell(title, case_marks(run, case, notes)), *cells])
    head = heads(
        "Metric", "Case", "Median (ms)", "Floor (ms)", "Median over floor", "Bandwidth used", "Launch gap (ms)",
        left=("Metric", "Case"),
    )  # fmt: skip
    words = (
        "Bandwidth used: the weights' bytes, read once, over the median, as a share of the measured read bandwidth. "
        "Launch gap: the client's time less that between CUDA events around the engine's work, median over requests."
    )
    facts = f"{words} {run.facts(frame['n'].dropna())}"
    title = "Above the floor: memory bandwidth and launch gap"
    return Table("headroom", title, head, rows, notes, facts, run.smoke, frame, frozenset(rules[1:]))


def headroom_cell(run: Run, case: str, column: str, value: float, ran: bool, notes: Notes) -> Cell:
    """A figure, or a dash with the reason."""
    if not math.isnan(value):
        share = column == "bandwidth_utilisation"
        return Cell(f"{value:.0%}" if share else number(value, 3 if column == "launch_gap_ms" else 2))
    return Cell(DASH, (notes.mark(WHY.get(column, WHY["floor_ms"]) if ran else run.missing(case)),))
