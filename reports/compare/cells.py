"""The cells of two runs: what is compared with what, and what can't be, with the reason."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from reports.blockwise import holm
from reports.compare.verdict import Ratio, Verdict, ratio_of, verdict
from reports.resample import Measured, measured
from reports.run import Run

NAN = math.nan
UNTOLD = Ratio(NAN, NAN, NAN, NAN)
OTHERS = {"cold": "Cold TTFT", "stream": "Stream", "quiet": "Quiet", "busy": "Busy"}
"""Metrics with one cell a case, over all lengths."""


class Key(NamedTuple):
    """A cell: case, metric, and the lengths that it covers in tokens (from, to; 0, 0 where it covers all)."""

    case: str
    metric: str
    first: int = 0
    last: int = 0

    @property
    def place(self) -> str:
        """The lengths in words."""
        if not self.last:
            return "all"
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True)
class Cell:
    """One comparison; `a` and `b` are None where a run has no such samples, and `why` then says so.

    `p` is Holm's over the page; `alone` is the verdict without that correction. `host` is B/A of the host's loop beside
    these samples (medians), `scaled` that of the same quantile of each sample's latency over the loop beside it, with
    its interval; both are NaN where the loop was not timed beside each of the cell's samples. `floors` are A's
    and B's below it in ms, by the rates that each run's calibration measured; NaN where a run has none for it.
    """

    key: Key
    title: str
    a: Measured | None = None
    b: Measured | None = None
    why: str = ""
    ratio: Ratio = UNTOLD
    p: float = NAN
    verdict: Verdict | None = None
    alone: Verdict | None = None
    host: float = NAN
    scaled: Ratio = UNTOLD
    floors: tuple[float, float] = (NAN, NAN)

    @property
    def floor(self) -> float:
        """B/A of the floors."""
        return self.floors[1] / self.floors[0]


def cells_of(a: Run, b: Run, margin: float) -> list[Cell]:
    """Every cell that either run has, case by case, with its verdict.

    Raises:
        ValueError: one sentence on a latency that is none, or on runs that have no cell in common.
    """
    for run in (a, b):
        check(run)
    cells = [cell for case in dict.fromkeys([*a.cases, *b.cases]) for cell in case_cells(a, b, case)]
    if all(math.isnan(cell.ratio.value) for cell in cells):
        raise ValueError(f"{a.path} and {b.path} have no samples of the same case: there is nothing to compare")
    adjusted = map(float, holm([cell.ratio.p for cell in cells]))
    return [judged(cell, p, margin) for cell, p in zip(cells, adjusted, strict=True)]


def judged(cell: Cell, p: float, margin: float) -> Cell:
    """The cell with its verdicts, none where there is no ratio."""
    if math.isnan(cell.ratio.value):
        return cell
    alone = verdict(cell.ratio, cell.ratio.p, margin)
    return replace(cell, p=p, verdict=verdict(cell.ratio, p, margin), alone=alone)


def check(run: Run) -> None:
    """Raises ValueError on a latency that is not positive and finite."""
    bad = run.samples[~run.samples["latency_ms"].between(0, 1e12, inclusive="neither")]
    if len(bad):
        line, text = int(bad.index[0]) + 2, bad["latency_ms"].iloc[0]
        raise ValueError(f"{run.path / 'samples.csv'} line {line}: the latency is {text}, not a positive number")


def case_cells(a: Run, b: Run, case: str) -> Iterator[Cell]:
    """The cells of one case."""
    title = a.cases.get(case) or b.cases[case]
    for run, name in ((a, "A"), (b, "B")):
        if case not in run.cases:
            yield Cell(Key(case, "all"), title, why=f"{title} is not in {name}.")
            return
    mine, theirs = (run.samples[run.samples["case"] == case] for run in (a, b))
    lost = [f"{name}: {run.missing(case)}" for run, s, name in ((a, mine, "A"), (b, theirs, "B")) if s.empty]
    if lost:
        yield Cell(Key(case, "all"), title, why=" ".join(lost))
        return
    for key in keys_of(a, b, case, mine, theirs):
        cell = cell_of(key, title, values(a, key, mine), values(b, key, theirs))
        yield replace(cell, floors=(floor_of(a, key), floor_of(b, key)))


def cell_of(key: Key, title: str, a: pd.DataFrame, b: pd.DataFrame) -> Cell:
    """One cell: both quantiles and their ratio, or which run has no such samples."""
    p = 0.99 if key.metric == "P99" else 0.5
    ours, theirs = (
        measured(frame["latency_ms"].to_numpy(), frame["block"].to_numpy(), p) if len(frame) else None
        for frame in (a, b)
    )
    if ours is None or theirs is None:
        return Cell(key, title, ours, theirs, why=f"{'A' if ours is None else 'B'} has no such samples.")
    ratio = ratio_of(ours, theirs)
    looped = all(frame["host_loop_us"].gt(0).all() for frame in (a, b))
    few = [name for name, one in (("A", ours), ("B", theirs)) if one.blocks < 2]
    why = f"One block in {' and '.join(few)}: how far blocks lie apart is not known, so there is no interval."
    return Cell(
        key,
        title,
        ours,
        theirs,
        why=why if few else "",
        ratio=ratio,
        host=host_ratio(a, b) if looped else NAN,
        scaled=scaled_ratio(a, b, p) if looped else UNTOLD,
    )


def floor_of(run: Run, key: Key) -> float:
    """The floor in ms below a prompt length or a decode range, NaN where the run has none."""
    ttft, decode = run.ttft, run.decode
    if key.metric in ("TTFT", "P99"):
        rows = ttft[(ttft["case"] == key.case) & (ttft["prompt_length"] == key.first)]
    elif key.metric == "Decode":
        ends = (decode["context_from"] == key.first) & (decode["context_to"] == key.last)
        rows = decode[(decode["case"] == key.case) & ends]
    else:
        return NAN
    return float(rows["floor_ms"].iloc[0]) if len(rows) else NAN


def host_ratio(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """B/A of the host's loop beside these samples, of the medians."""
    mine, theirs = (float(frame["host_loop_us"].median()) for frame in (a, b))
    return theirs / mine


def scaled_ratio(a: pd.DataFrame, b: pd.DataFrame, p: float) -> Ratio:
    """B/A of a quantile of latencies in units of the loop beside each: what the host's speed does not explain."""
    found = []
    for frame in (a, b):
        scaled = frame["latency_ms"] / frame["host_loop_us"]
        found.append(measured(scaled.to_numpy(), frame["block"].to_numpy(), p))
    return ratio_of(*found)


def keys_of(a: Run, b: Run, case: str, mine: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[Key]:
    """Prompt lengths of TTFT and, where both runs support it, of P99; decode ranges; and what has one cell."""
    both = pd.concat([mine, theirs])
    lengths = sorted({int(length) for length in both.loc[both["metric"] == "ttft", "prompt_length"]})
    yield from (Key(case, "TTFT", length, length) for length in lengths)
    supported = supported_lengths(a, case) & supported_lengths(b, case)
    yield from (Key(case, "P99", length, length) for length in sorted(supported))
    if "decode" in set(both["metric"]):
        yield from (Key(case, "Decode", *ends) for ends in decode_ranges(a, b))
    yield from (Key(case, name) for metric, name in OTHERS.items() if metric in set(both["metric"]))


def supported_lengths(run: Run, case: str) -> set[int]:
    """Prompt lengths at which the run has enough samples for a P99."""
    rows = run.p99[(run.p99["case"] == case) & run.p99["supported"].eq(True)]
    return {int(length) for length in rows["prompt_length"]}


def unsupported(cells: list[Cell]) -> int:
    """How many cells have a TTFT in both runs and no P99 in one or both."""
    keys = {cell.key for cell in cells}
    asked = [cell.key for cell in cells if cell.key.metric == "TTFT" and cell.a and cell.b]
    return sum(key._replace(metric="P99") not in keys for key in asked)


def decode_ranges(a: Run, b: Run) -> list[tuple[int, int]]:
    """Ranges of context length that either run reports; the whole one, which is the longest, last."""
    rows = pd.concat([run.decode[["context_from", "context_to"]] for run in (a, b)]).dropna().drop_duplicates()
    ends = [(int(first), int(last)) for first, last in rows.to_numpy()]
    return sorted(ends, key=lambda pair: (pair in (a.whole, b.whole), pair))


def values(run: Run, key: Key, samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of a case that a cell is made of, as in the run's own summaries."""
    if key.metric == "Decode":
        steps = samples[samples["metric"] == "decode"]
        return steps[steps["context_length"].between(key.first, key.last)]
    if key.metric in OTHERS.values():
        metric = next(metric for metric, name in OTHERS.items() if name == key.metric)
        return samples[samples["metric"] == metric]
    first, end = window(run, key)
    timed = samples[(samples["metric"] == "ttft") & (samples["prompt_length"] == key.first)]
    return timed[timed["iteration"].between(first, end - 1)]


def window(run: Run, key: Key) -> tuple[int, int]:
    """The iterations that TTFT or P99 is taken over, the end left out: without warm-up those of P99 follow those of
    TTFT, and with `auto` P99 has all that there are."""
    timed = int(run.sweep["ttft_iterations"])
    if key.metric == "TTFT":
        return 0, timed
    first = timed if run.procedure(key.case).get("warmup") == "none" else 0
    planned = run.sweep.get("p99_iterations", timed)
    return first, sys.maxsize if planned == "auto" else first + int(planned)
