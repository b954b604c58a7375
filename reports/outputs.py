"""Tables of a benchmark of kernels on what a whole model answers: its errors, and whether replays repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.files import load_table
from reports.table import Cell, Notes, Table, heads, number

ACCURACY = ("prompt_length", "step", "kernels_error", "plain_error", "not_above_plain", "kernels")
REPLAYS = ("phase", "prompt_length", "rows", "replays", "differing", "cache_equal", "kernels")
TABLES = {"accuracy": "errors against float32", "replays": "replays of one graph compared"}
"""By the name of the file, what it holds."""
ERRORS = (
    "The error of the kernels is at most {ours} and {ours_mean} on average, that of plain {dtype} operations at most "
    "{theirs} and {theirs_mean}, and in {better} of {rows} rows the kernels' is not above the plain one. "
    "An error is ||a - b|| / ||b|| of the logits, b by plain float32 operations on the same weights and tokens; step 0 "
    "is the prefill, the others read given tokens. "
)
REPLAYED = (
    "{differing} of {replays} replays gave logits of which any bit is unlike the first replay's, and after the last "
    "replay keys and values were those of the first, bit for bit, in {equal} of {rows} rows. Each graph is replayed "
    "from one state; rows run over are those of the graph, padding included. "
)
MADE = "Model: {model}, {dtype}, random weights; kernels: {kernels}; {gpu}; {date}; torch {torch}{origin}."


def accuracy_table(folder: Path, facts: dict[str, Any]) -> Table:
    """A row a prompt length and step. Raises ValueError with one sentence for a malformed file."""
    frame = load(folder / "accuracy.csv", ACCURACY)
    rows = [
        [
            Cell(f"{row['prompt_length']:.0f}"), Cell(f"{row['step']:.0f}"), Cell(number(row["kernels_error"], 5)),
            Cell(number(row["plain_error"], 5)), Cell("yes" if row["not_above_plain"] else "no"),
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    ours, theirs = frame["kernels_error"], frame["plain_error"]
    said = ERRORS.format(
        ours=number(ours.max(), 5), ours_mean=number(ours.mean(), 5),
        theirs=number(theirs.max(), 5), theirs_mean=number(theirs.mean(), 5),
        better=frame["not_above_plain"].eq(True).sum(), rows=len(frame), dtype=facts["dtype"],
    )  # fmt: skip
    columns = heads("Prompt tokens", "Step", "Kernels", "Plain operations", "Not above plain")
    title = f"Errors of the logits of {facts['model']} against float32"
    facts_line = said + made(frame, facts)
    return Table("accuracy", title, columns, rows, Notes(), facts_line, False, frame, rules(frame["prompt_length"]))


def replays_table(folder: Path, facts: dict[str, Any]) -> Table:
    """A row a graph. Raises ValueError with one sentence for a malformed file."""
    frame = load(folder / "replays.csv", REPLAYS)
    rows = [
        [
            Cell(f"{row['prompt_length']:.0f}"), Cell(str(row["phase"])), Cell(f"{row['rows']:.0f}"),
            Cell(f"{row['replays']:.0f}"), Cell(f"{row['differing']:.0f}"),
            Cell("equal" if row["cache_equal"] else "not equal"),
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    said = REPLAYED.format(
        differing=f"{frame['differing'].sum():.0f}", replays=f"{frame['replays'].sum():.0f}",
        equal=frame["cache_equal"].eq(True).sum(), rows=len(frame),
    )  # fmt: skip
    columns = heads("Prompt tokens", "Phase", "Rows run over", "Replays", "Differing", "Keys, values", left=("Phase",))
    title = f"Replays of the graphs of {facts['model']}"
    facts_line = said + made(frame, facts)
    return Table("replays", title, columns, rows, Notes(), facts_line, False, frame, rules(frame["prompt_length"]))


def load(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table of at least one row, every number there. Raises ValueError with one sentence."""
    frame = load_table(path, columns, text=("kernels", "phase"))
    if frame.empty:
        raise ValueError(f"{path} has a heading and no rows: run the benchmark again")
    if lost := [column for column in columns if frame[column].isna().any()]:
        raise ValueError(f"{path} has an empty field in the column {lost[0]}: run the benchmark again")
    return frame


def made(frame: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Whose figures these are."""
    kernels = " and ".join(dict.fromkeys(frame["kernels"]))
    return MADE.format(**facts, kernels=kernels, date=str(facts["started"])[:10])


def rules(groups: pd.Series) -> frozenset[int]:
    """The places at which another group begins."""
    return frozenset(int(place) for place in range(1, len(groups)) if groups.iloc[place] != groups.iloc[place - 1])


def output_tables(folder: Path, facts: dict[str, Any]) -> tuple[list[Table], list[str]]:
    """The tables whose files are there, and a sentence for each that is not.

    Raises ValueError with one sentence for a malformed file.
    """
    makers = {"accuracy": accuracy_table, "replays": replays_table}
    tables, missing = [], []
    for name, what in TABLES.items():
        if (folder / f"{name}.csv").is_file():
            tables.append(makers[name](folder, facts))
        else:
            missing.append(
                f"{name}.csv ({what}) is missing: the benchmark ran with --no-accuracy, or ended before it was written."
            )
    return tables, missing
