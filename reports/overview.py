"""The tables that compare whole cases: the summary, speed-ups of each over each, equivalence and status."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports import enriched, significance
from reports.blockwise import MIN_BLOCKS, average_interval, by_block, range_label
from reports.marks import case_marks, listed
from reports.quantiles import Estimate
from reports.run import Run
from reports.significance import Standing
from reports.table import DASH, Cell, Column, Notes, Table, heads, number

METRICS = significance.POOLED
SUMMED = {"TTFT": "ttft", "P99": "p99", "Decode": "decode"}
HEADS = {"ttft_ms": "Avg TTFT", "p99_ms": "Avg P99", "decode_ms": "Decode"}
OVER_BLOCKS = "In brackets: 95 % intervals over blocks (Student's t on logarithms)."
NO_BLOCKS = f"No intervals: they rest on blocks, {MIN_BLOCKS} or more of a case."


def whole_decode(run: Run) -> pd.DataFrame:
    """The rows of decode.csv over the whole range."""
    first, last = run.whole
    return run.decode[(run.decode["context_from"] == first) & (run.decode["context_to"] == last)]


def values_of(run: Run, metric: str, case: str) -> pd.Series:
    """A case's values in ms, by prompt length; decode has one value, that of the whole range. NaN are left out."""
    name, column = METRICS[metric]
    frame = whole_decode(run) if name == "decode" else getattr(run, name)
    key = "context_from" if name == "decode" else "prompt_length"
    return frame[frame["case"] == case].set_index(key)[column].dropna()


def speed_up(run: Run, metric: str, case: str, over: str) -> float:
    """How many times faster `case` is than `over`: the geometric mean of the ratios over all planned rows.

    NaN unless both have every row and a block that ended well: a mean over fewer rows would be another quantity.
    """
    ours, theirs = values_of(run, metric, case), values_of(run, metric, over)
    planned = 1 if metric == "Decode" else len(run.sweep["prompt_lengths"])
    if len(ours) != planned or len(theirs) != planned or not (run.ended_well(case) and run.ended_well(over)):
        return math.nan
    return float(np.exp(np.log(theirs / ours).mean()))


def summary_frame(run: Run) -> pd.DataFrame:
    """One row a case: averages over lengths, decode over the whole range, cold start, set-up and memory."""
    rows, averages = [], {metric: averaged(run, metric) for metric in METRICS}
    for case, title in run.cases.items():
        blocks = run.status[(run.status["case"] == case) & (run.status["state"] == "ok")]
        cold = run.samples[(run.samples["case"] == case) & (run.samples["metric"] == "cold")]["latency_ms"]
        latencies = {name: averages[metric][case] for metric, name in SUMMED.items()}
        rows.append(
            {
                "case": case,
                "title": title,
                **{f"{name}_ms": found.value for name, found in latencies.items()},
                "cold_ms": cold.median(),
                "set_up_s": blocks[["load_s", "compile_s", "capture_s"]].sum(axis=1, min_count=1).median(),
                "peak_memory_gib": blocks["peak_memory_gib"].max() if run.manifest["gpu"] else math.nan,
                **{key: end for name, found in latencies.items() for key, end in enriched.ends(name, found).items()},
            }
        )
    return pd.DataFrame(rows)


def averaged(run: Run, metric: str) -> dict[str, Estimate]:
    """A metric's average over lengths, or decode over the whole range, by case, with its interval over blocks."""
    found = by_block(run, metric)
    if metric == "Decode":
        found = found[found["row"] == range_label(run, *run.whole)]
    return {case: average_interval(found, case, average(run, metric, case)) for case in run.cases}


def average(run: Run, metric: str, case: str) -> float:
    """The mean over all planned rows in ms, NaN when one is missing."""
    values = values_of(run, metric, case)
    planned = 1 if metric == "Decode" else len(run.sweep["prompt_lengths"])
    return float(values.mean()) if len(values) == planned else math.nan


def counted(run: Run) -> str:
    """The samples behind a case's medians, as a sentence: those of a prompt length, and those of the whole decode."""
    parts = []
    for frame, name in ((run.ttft, "TTFT"), (run.p99, "P99"), (whole_decode(run), "decode")):
        if len(frame):
            low, high = int(frame["n"].min()), int(frame["n"].max())
            unit = "" if name == "decode" else " a length"
            parts.append(f"{low if low == high else f'{low} to {high}'}{unit} ({name})")
    return f"n = {', '.join(parts)}." if parts else ""


def standings(run: Run, frame: pd.DataFrame) -> dict[str, Standing]:
    """Who wins or ties, by column of the summary."""
    tests, found = significance.overall(run), {}
    for metric, name in SUMMED.items():
        column = f"{name}_ms"
        values = frame.set_index("case")[column].astype(float)
        lead = significance.standing(run, values, tests[tests["metric"] == metric])
        if lead is not None:
            found[column] = lead
    return found


def ties(run: Run, found: Mapping[str, Standing]) -> str:
    """Who ties where no case wins, as a sentence: the summary has no column for it."""
    parts = [
        f"{HEADS[column]}: {listed([run.cases[case] for case in standing.leaders])}"
        for column, standing in found.items()
        if standing.leaders and not standing.won
    ]
    between = ". " if any("; " in part for part in parts) else "; "
    return f" In bold: winners. Ties: {between.join(parts)}." if parts else ""


def floors(run: Run) -> str:
    """The floors below the averages, as a sentence; empty where the machine was not calibrated."""
    lengths, decode = run.ttft.drop_duplicates("prompt_length")["floor_ms"], whole_decode(run)["floor_ms"].dropna()
    parts = [f"{number(float(lengths.mean()))} ms TTFT on average"] if lengths.notna().any() else []
    parts += [f"{number(float(decode.iloc[0]))} ms a token of decode"] if len(decode) else []
    return f" Floors: {', '.join(parts)}." if parts else ""


def bracketed(value: float, low: float, high: float, digits: int = 2, unit: str = "") -> str:
    """A figure with its interval in brackets, where it has one."""
    interval = "" if math.isnan(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return number(value, digits) + unit + interval


def summary_table(run: Run) -> Table:
    """One row a case; in bold who wins a latency by the tests over blocks, and below it who ties."""
    notes, frame = Notes(), summary_frame(run)
    digits = {"ttft_ms": 2, "p99_ms": 2, "decode_ms": 2, "cold_ms": 1, "set_up_s": 1, "peak_memory_gib": 1}
    first = standings(run, frame)
    rows = []
    for record in frame.to_dict("records"):
        case = str(record["case"])
        marks = case_marks(run, case, notes)
        cells = []
        for column, places in digits.items():
            value = float(record[column])
            name = column.removesuffix("_ms")
            low, high = (float(record.get(f"{name}_{end}_ms", math.nan)) for end in ("low", "high"))
            why = () if not math.isnan(value) else (notes.mark(why_dash(run, column, case)),)
            cells.append(
                Cell(bracketed(value, low, high, places), why, column in first and case in first[column].winner)
            )
        rows.append([Cell(run.cases[case], marks), *cells])
    head = heads(
        "Case", "Avg TTFT (ms)", "Avg P99 (ms)", "Decode (ms/token)", "Cold TTFT (ms)", "Set-up (s)",
        "Peak memory (GiB)", left=("Case",),
    )  # fmt: skip
    title = "Summary: averages over prompt lengths, decode over the whole range"
    means = "Avg TTFT: mean over lengths of the medians. Avg P99: mean over lengths of each length's P99."
    brackets = OVER_BLOCKS if frame["ttft_low_ms"].notna().any() else NO_BLOCKS
    facts = f"{means} {brackets}{ties(run, first)}{floors(run)} {counted(run)} {run.facts()}"
    return Table("summary", title, head, rows, notes, facts, run.smoke, frame)


def why_dash(run: Run, column: str, case: str) -> str:
    """Why a case has no value in a column of the summary."""
    title = run.cases[case]
    if case not in run.measured or not run.ended_well(case):
        return run.missing(case)
    if column == "p99_ms" and not run.p99.loc[run.p99["case"] == case, "supported"].all():
        return "P99 needs n of at least 368 at every length for a two-sided 95 % interval."
    if column == "decode_ms" and not run.decodes:
        return "This run measured no decode."
    if column == "cold_ms" and run.procedure(case).get("warmup") == "none":
        return "This procedure keeps no cold request apart: the first ones are samples."
    if column == "peak_memory_gib":
        return "No device memory was reported."
    return f"{title}: not every row has a value; {run.why_missing(case)}."


def speedup_frame(run: Run) -> pd.DataFrame:
    """How many times faster each case is than each other, by metric, with the interval over blocks."""
    tests, records = significance.overall(run), []
    ends = {}
    for found in tests.to_dict("records"):
        metric, case, over = str(found["metric"]), str(found["case"]), str(found["over"])
        low, high = float(found["low"]), float(found["high"])
        ends[metric, case, over], ends[metric, over, case] = (low, high), (1 / high, 1 / low)
    for metric in METRICS:
        for case in run.cases:
            for over in (other for other in run.cases if other != case):
                ratio = speed_up(run, metric, case, over)
                low, high = ends.get((metric, case, over), (math.nan, math.nan))
                known = not math.isnan(ratio)
                records.append(
                    {"metric": metric, "case": case, "over": over, "speed_up": ratio,
                     "low": low if known else math.nan, "high": high if known else math.nan}
                )  # fmt: skip
    return pd.DataFrame(records, columns=["metric", "case", "over", "speed_up", "low", "high"])


def speedup_table(run: Run) -> Table:
    """How many times faster the row's case is than the column's, by metric, with the interval over blocks."""
    notes, frame = Notes(), speedup_frame(run)
    head = [
        *heads("Metric", "Case", left=("Metric", "Case")),
        *(Column(Cell(f"over {title}", case_marks(run, case, notes))) for case, title in run.cases.items()),
    ]
    found = {(r["metric"], r["case"], r["over"]): r for r in frame.to_dict("records")}
    rows = []
    for metric in METRICS:
        for case, title in run.cases.items():
            cells = [
                Cell("") if over == case else speedup_cell(run, found[metric, case, over], notes) for over in run.cases
            ]
            rows.append([Cell(metric), Cell(title, case_marks(run, case, notes)), *cells])
    title = "Speed-up: how many times faster the row's case is than the column's"
    brackets = OVER_BLOCKS if frame["low"].notna().any() else NO_BLOCKS
    words = f"Geometric mean over prompt lengths; ratio of medians for decode. {brackets}"
    facts = f"{words} {counted(run)} {run.facts()}"
    rules = frozenset(range(len(run.cases), len(rows), len(run.cases)))
    return Table("speedup", title, head, rows, notes, facts, run.smoke, frame, rules)


def speedup_cell(run: Run, found: dict[Hashable, Any], notes: Notes) -> Cell:
    """A ratio and its interval; a dash with the reason for a case without values."""
    metric, case, over = str(found["metric"]), str(found["case"]), str(found["over"])
    if not math.isnan(found["speed_up"]):
        return Cell(bracketed(found["speed_up"], found["low"], found["high"], unit="×"))
    lacks = math.isnan(average(run, metric, case)) or not run.ended_well(case)
    lacking = case if lacks else over
    return Cell(DASH, (notes.mark(why_dash(run, f"{SUMMED[metric]}_ms", lacking)),))


def status_table(run: Run) -> Table:
    """One row a case and block: state, engine, set-up in parts, reason."""
    order = {case: index for index, case in enumerate(run.cases)}
    frame = run.status.sort_values(["case", "block"], key=lambda c: c.map(order) if c.name == "case" else c)
    if not frame["pinning"].any():
        frame = frame.drop(columns="pinning")  # of a run from before there was such a thing
    rows = [
        [
            Cell(run.cases[str(r["case"])]), Cell(f"{r['block']:.0f}"), Cell(str(r["state"])),
            *(Cell(number(float(r[part]), 1)) for part in ("load_s", "compile_s", "capture_s")),
            Cell(number(float(r["graphs"]), 0)), Cell(str(r["engine"])), Cell(str(r["reason"])),
        ]
        for r in frame.to_dict("records")
    ]  # fmt: skip
    head = heads(
        "Case", "Block", "State", "Load (s)", "Compile (s)", "Capture (s)", "Graphs", "Engine", "Reason",
        left=("Case", "State"), wide=("Engine", "Reason"),
    )  # fmt: skip
    return Table("status", "Status of every case and block", head, rows, Notes(), run.facts(), run.smoke, frame)
