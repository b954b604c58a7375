"""The machines, how far they lie apart, and every pair by itself, as tables."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import pandas as pd

from reports.attempts import card
from reports.compare.manifests import ABSENT
from reports.compare.moves import percent
from reports.compare.tables import end_of, loop_us, looped, name_of
from reports.run import Run
from reports.spread.pairs import Between, Spread
from reports.table import DASH, Cell, Notes, Table, heads, number

LETTERS = string.ascii_uppercase
MACHINES = (
    "Card: as NVML names it, where the run says so. Bandwidth, matmul: what the run's own calibration reached on it. "
    "Host's loop: a fixed one of Python timed right behind each sample, median over the cases that every run "
    "with one timed."
)
HEADS = {
    "closest": "Closest pair", "middle": "Middle", "farthest": "Farthest", "in_loops": "In loops",
    "in_floors": "In floors",
}  # fmt: skip
"""What is told of how far runs lie apart, by its name in the .csv."""
MEANS = "Columns of letters: a run's geometric mean over the cells, in ms, of medians, or of 99th percentiles."
APART = (
    "Of a pair of runs counts the cell that lies farthest apart (the larger of B/A and A/B): in the closest pair, in "
    "the one in the middle, in the farthest. In loops, in floors: the farthest pair with each latency over the host's "
    "loop beside it, or over its own run's floor;"
)
ALONE = (
    "Farthest: the cell that lies farthest apart (the larger of B/A and A/B); in loops, in floors: that with each "
    "latency over the host's loop beside it, or over its own run's floor;"
)
TELLING = (
    "the first tells something of cases that launch their kernels one by one, the second of those that keep the card "
    "busy."
)
MOST = 150
"""Rows that are shown; more are in the .csv alone."""
EACH = (
    "Code: whether both runs state the same digest of their code. Ratio of the pair A–B: B over A, the geometric mean "
    "over the cells. Host: the same of the host's loop, a fixed one of Python "
    "timed right behind each of these samples (medians). Farthest: the cell of the pair that lies farthest from 1, "
    "either way; in loops, in floors: that with each latency over the loop beside it, or over its own run's floor. "
    "The pairs of a case stand in the order of their farthest cells."
)


def machines_table(runs: Sequence[Run], forced: str) -> Table:
    """A row a run: when, on which card, and how fast card and host were."""
    timed = [looped(run) for run in runs]
    cases = set.intersection(*(found for found in timed if found)) if any(timed) else set()
    rows = [
        [
            letter, name_of(run), str(run.manifest["started"])[:16].replace("T", " "), card_of(run),
            measured(run, "read_bandwidth_tb_s", 2), measured(run, "matmul_tflop_s", 0),
            loop_us(run, cases) if cases and own else DASH, end_of(run),
        ]
        for letter, run, own in zip(LETTERS, runs, timed, strict=False)
    ]  # fmt: skip
    names = ("", "Run", "Started", "Card", "Bandwidth (TB/s)", "Matmul (TFLOP/s)", "Host's loop (us)", "Whole")
    head = heads(*names, left=("", "Run", "Started", "Card", "Whole"))
    frame = pd.DataFrame(rows, columns=["letter", *(name.split(" (")[0].lower() for name in names[1:])])
    cells = [[Cell(text) for text in row] for row in rows]
    smoke = any(run.smoke for run in runs)
    return Table("spread_machines", f"The machines{forced}", head, cells, Notes(), MACHINES, smoke, frame)


def card_of(run: Run) -> str:
    """The card's identity in short."""
    return card(run.manifest, 12) or ABSENT


def measured(run: Run, key: str, digits: int) -> str:
    """A rate of the calibration, a dash where there is none."""
    value = run.manifest.get(key)
    return DASH if value is None else number(float(value), digits)


def spread_table(runs: Sequence[Run], found: Sequence[Spread], forced: str, lost: Sequence[str] = ()) -> Table:
    """A row a metric and case; `lost` is what not all runs have."""
    letters = LETTERS[: len(runs)]
    apart = ("farthest",) if len(runs) == 2 else ("closest", "middle", "farthest")
    parts = [name for name in ("in_loops", "in_floors") if any(math.isfinite(getattr(one, name)) for one in found)]
    rows = [
        [Cell(text) for text in (one.metric, one.title, str(one.cells), *(number(mean, 2) for mean in one.means))]
        + [Cell(percent(getattr(one, name))) for name in (*apart, *parts)]
        for one in found
    ]
    names = [HEADS[name] for name in (*apart, *parts)]
    head = heads("Metric", "Case", "Cells", *letters, *names, left=("Metric", "Case"))
    rules = frozenset(place for place in range(1, len(found)) if found[place].metric != found[place - 1].metric)
    frame = pd.DataFrame(
        {"metric": one.metric, "case": one.case, "title": one.title, "cells": one.cells}
        | dict(zip((f"{letter.lower()}_ms" for letter in letters), one.means, strict=True))
        | {name: getattr(one, name) for name in HEADS}
        for one in found
    )
    left_out = f" Left out, as not all runs have it: {', '.join(lost)}." if lost else ""
    facts = f"{MEANS} {ALONE if len(runs) == 2 else APART} {TELLING}{left_out} {facts_of(runs)}"
    smoke = any(run.smoke for run in runs)
    return Table("spread", f"How far the machines lie apart{forced}", head, rows, Notes(), facts, smoke, frame, rules)


def pairs_table(runs: Sequence[Run], found: Sequence[Between], forced: str) -> Table:
    """A row a metric, case and pair."""
    looped = any(math.isfinite(one.move.host) for one in found)
    codes = {(one.first, one.second): code_of(runs[one.first], runs[one.second]) for one in found}
    names = ("Metric", "Case", "Pair", "Code", "Ratio", *(["Host"] if looped else []), "Farthest")
    head = heads(*names, *(["In loops"] if looped else []), "In floors", left=("Metric", "Case", "Pair", "Code"))
    rows = [[Cell(text) for text in row_of(one, codes[one.first, one.second], looped=looped)] for one in found]
    rules = frozenset(place for place in range(1, len(found)) if found[place].group != found[place - 1].group)
    frame = pd.DataFrame(
        {"first": LETTERS[one.first], "second": LETTERS[one.second], "code": codes[one.first, one.second]}
        | one.move._asdict()
        for one in found
    )
    smoke = any(run.smoke for run in runs)
    facts = f"{EACH} {facts_of(runs)}"
    hidden = f"has {len(rows)} rows, too many to read here: --to writes them as .csv" if len(rows) > MOST else ""
    return Table(
        "spread_pairs", f"Every machine beside every other{forced}", head, rows, Notes(), facts, smoke, frame, rules,
        shown=not hidden, why_hidden=hidden,
    )  # fmt: skip


def code_of(a: Run, b: Run) -> str:
    """Whether two runs have the code of one digest, as far as they state it."""
    stated = [run.manifest.get("code_digest") for run in (a, b)]
    return ABSENT if None in stated else "same" if stated[0] == stated[1] else "other"


def row_of(one: Between, code: str, *, looped: bool) -> list[str]:
    """A pair in words."""
    move = one.move
    host = [number(move.host, 3)] if looped else []
    in_loops = [percent(move.scaled_farthest)] if looped else []
    words = [
        move.metric,
        move.title,
        f"{LETTERS[one.first]}–{LETTERS[one.second]}",
        code,
        number(move.mean, 3),
        *host,
        percent(move.farthest),
    ]
    return [*words, *in_loops, percent(move.floored_farthest)]


def facts_of(runs: Sequence[Run]) -> str:
    """How many runs, of which days, what they have in common, and what is to be known of one of them."""
    dates = sorted({str(run.manifest["started"])[:10] for run in runs})
    common = runs[0].facts(dates=f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else dates[0])
    own = [f"{letter}: {'; '.join(run.remarks)}." for letter, run in zip(LETTERS, runs, strict=False) if run.remarks]
    return " ".join([f"{len(runs)} runs, {common}", *own])
