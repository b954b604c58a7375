"""The medians of each block: whether a case says the same in every process that measured it."""

from __future__ import annotations

import pandas as pd

from reports.latency import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number


def blocks_frame(run: Run) -> pd.DataFrame:
    """Medians in ms by metric, case and block; TTFT is the mean over prompt lengths of a block's medians.

    A block that lacks a length has no TTFT: a mean over fewer lengths would be another quantity.
    """
    timed = run.samples[(run.samples["metric"] == "ttft") & (run.samples["iteration"] < run.sweep["ttft_iterations"])]
    # The lower median, as in the other tables.
    lengths = timed.groupby(["case", "block", "prompt_length"])["latency_ms"].quantile(0.5, interpolation="lower")
    by_block = lengths.groupby(["case", "block"])
    ttft = by_block.mean()[by_block.size() == len(run.sweep["prompt_lengths"])]
    steps = run.samples[run.samples["metric"] == "decode"].groupby(["case", "block"])["latency_ms"]
    decode = steps.quantile(0.5, interpolation="lower")
    parts = [part.rename("median_ms").reset_index().assign(metric=name) for name, part in
             (("TTFT", ttft), ("Decode", decode))]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[["metric", "case", "block", "median_ms"]]


def why_none(run: Run, case: str, block: float) -> str:
    """Why a case has no median in a block: it was planned with fewer, or something went wrong."""
    planned = run.blocks(case)
    if block < planned or block in set(run.status.loc[run.status["case"] == case, "block"]):
        return run.missing(case)
    return f"{planned} block{'s' if planned > 1 else ''} planned for this case."


def blocks_table(run: Run) -> Table:
    """One row a metric and case, one column a block, and how far apart the blocks are."""
    notes, frame = Notes(), blocks_frame(run)
    rows: list[list[Cell]] = []
    rules: list[int] = []
    blocks = sorted(set(run.status["block"]))
    values = frame.set_index(["metric", "case", "block"])["median_ms"]
    for metric in ("TTFT", "Decode"):
        if metric not in set(frame["metric"]):
            continue
        rules.append(len(rows))
        for case, title in run.cases.items():
            found = [float(values.get((metric, case, block), float("nan"))) for block in blocks]
            cells = [
                Cell(number(value)) if value == value else Cell(DASH, (notes.mark(why_none(run, case, block)),))
                for value, block in zip(found, blocks, strict=True)
            ]
            known = [value for value in found if value == value]
            apart = Cell(f"{max(known) / min(known) - 1:.1%}" if len(known) > 1 else DASH)
            rows.append([Cell(metric), Cell(title, case_marks(run, case, notes)), *cells, apart])
    names = [f"Block {block:.0f} (ms)" for block in blocks]
    head = heads("Metric", "Case", *names, "Largest over smallest", left=("Metric", "Case"))
    facts = f"TTFT: mean over prompt lengths of the block's medians. Each block is a process of its own. {run.facts()}"
    title = "Medians block by block"
    return Table("blocks", title, head, rows, notes, facts, run.smoke, frame, frozenset(rules[1:]))
