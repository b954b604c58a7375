"""The comparison as tables: which runs, and cell by cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from reports.attempts import card
from reports.compare.cells import Cell, unsupported
from reports.compare.manifests import ABSENT, Difference
from reports.compare.verdict import RULE
from reports.markup import latex
from reports.resample import Measured
from reports.run import Run
from reports.table import DASH, Notes, Table, heads, number
from reports.table import Cell as Field

ORDER = ("TTFT", "P99", "Decode", "Cold TTFT", "Stream", "Quiet", "Busy", "all")
"""Metrics as the page has them; `all` are cases without any cell."""


def forced(found: Sequence[Difference]) -> str:
    """What a heading says of runs that were compared although they differ in what matters; empty otherwise."""
    count = sum(one.matters for one in found)
    things = "1 thing that matters" if count == 1 else f"{count} things that matter"
    return f" – FORCED: the runs differ in {things}" if count else ""


def runs_table(a: Run, b: Run, found: Sequence[Difference]) -> Table:
    """Which runs these are, and everything in which they differ."""
    rows = [[what, *(said(run) for run in (a, b)), ""] for what, said in FACTS.items()]
    rows += [host_row(a, b), *card_rows(a, b)]
    rows += [[one.what, one.a, one.b, "matters" if one.matters else "said"] for one in found]
    columns = ["what", "a", "b", "difference"]
    facts = (
        "A difference that matters forbids to compare two runs; they were compared because of --force."
        if any(one.matters for one in found)
        else "The runs are alike in all that matters; what else differs is said."
    )
    head = heads("", "A", "B", "Difference", wide=("A", "B"), left=("", "Difference"))
    cells = [[Field(text, bold=row[3] == "matters") for text in row] for row in rows]
    title = f"Compared runs{forced(found)}"
    rules = frozenset({len(rows) - len(found)} if found else ())
    smoke = a.smoke or b.smoke
    return Table("compare_runs", title, head, cells, Notes(), facts, smoke, pd.DataFrame(rows, columns=columns), rules)


def name_of(run: Run) -> str:
    """The run's folder."""
    return run.path.resolve().name


def end_of(run: Run) -> str:
    """Whether the run is whole."""
    if run.unfinished:
        return run.unfinished
    return "yes" if run.manifest.get("finished", "") is not None else "no end is stamped"


def blocks_of(run: Run) -> str:
    """How many blocks ended how."""
    states = Counter(run.status["state"])
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "none"


def host_row(a: Run, b: Run) -> list[str]:
    """How fast the hosts were: beside the samples of cases in which both timed it, or, with none, by the glance."""
    cases = looped(a) & looped(b)
    what, found = "the host's loop beside the samples, us", [loop_us(run, cases) for run in (a, b)]
    if not cases:
        what, found = "a step of the host's Python, us", [python_us(run) for run in (a, b)]
    return [what, *found, over(*found)]


def card_rows(a: Run, b: Run) -> list[list[str]]:
    """Which card each run was on, where both say it: the same one again, or another of the kind."""
    cards = [card(run.manifest) for run in (a, b)]
    same = "same cards" if ", then " in cards[0] else "same card"
    return [["card", *cards, same if cards[0] == cards[1] else "another card"]] if all(cards) else []


def python_us(run: Run) -> str:
    """How long the host took over a step of the measuring loop, at a glance before the first block."""
    return str(run.manifest.get("loop_overhead_us") or ABSENT)


def loop_us(run: Run, cases: Collection[str]) -> str:
    """How long a fixed loop took beside a sample of these cases, median: cases differ in it, so they are the same."""
    return f"{run.samples.loc[run.samples['case'].isin(cases), 'host_loop_us'].median():.2f}"


def looped(run: Run) -> set[str]:
    """The cases that have the host's loop beside each sample."""
    return run.measured - set(run.samples.loc[~run.samples["host_loop_us"].gt(0), "case"])


def over(a: str, b: str) -> str:
    """B's over A's, empty where either is not known."""
    try:
        return f"B/A {float(b) / float(a):.2f}"
    except (ValueError, ZeroDivisionError):
        return ""


FACTS = {
    "run": name_of,
    "started": lambda run: str(run.manifest["started"]),
    "whole": end_of,
    "blocks": blocks_of,
}


def cells_table(
    a: Run, b: Run, cells: Sequence[Cell], found: Sequence[Difference], margin: float, metric: str = ""
) -> Table:
    """A row a cell, metric by metric and case by case; of one metric alone where that is named."""
    notes = Notes()
    ordered = sorted(cells, key=lambda cell: ORDER.index(cell.key.metric))
    shown = [cell for cell in ordered if metric in ("", cell.key.metric)]
    rows = [row_of(cell, marks(cell, a, b, notes)) for cell in shown]
    groups = [(cell.key.metric, cell.key.case) for cell in shown]
    rules = frozenset(place for place in range(1, len(groups)) if groups[place] != groups[place - 1])
    head = heads(
        "Metric", "Case", "Tokens", "A (ms)", "B (ms)", "Floors (ms)", "B/A", "95 % interval", "p (Holm)", "Verdict",
        left=("Metric", "Case", "Verdict"),
    )  # fmt: skip
    title = f"B against A, cell by cell{forced(found)}"
    frame = pd.DataFrame([record(cell) for cell in shown])
    facts = f"{counted(cells)} {facts_of(a, b, cells, margin)}"
    name = f"compare_{metric.lower().replace(' ', '_')}" if metric else "compare"
    return Table(name, title, head, rows, notes, facts, a.smoke or b.smoke, frame, rules)


def cells_latex(a: Run, b: Run, cells: Sequence[Cell], found: Sequence[Difference], margin: float) -> str:
    """The cells as LaTeX, a float for each metric: all in one are longer than a page."""
    metrics = [metric for metric in ORDER if any(cell.key.metric == metric for cell in cells)]
    return "\n".join(latex(cells_table(a, b, cells, found, margin, metric)) for metric in metrics)


def facts_of(a: Run, b: Run, cells: Sequence[Cell], margin: float) -> str:
    """What must stand under the table: the rule, and what is not in it."""
    tested = sum(not math.isnan(cell.ratio.p) for cell in cells)
    rule = RULE.format(margin=100 * margin, cells=tested)
    lost = unsupported(list(cells))
    p99 = f" P99: {lost} of the TTFT cells have too few samples for one in A or B." if lost else ""
    medians = "Medians, but for P99; samples of all blocks pooled. Floors: A's, then B's."
    return f"{rule} {medians}{p99} {both_facts(a, b)}"


def both_facts(a: Run, b: Run) -> str:
    """Which runs these are, in a line."""
    return f"A, {name_of(a)}: {a.facts()} B, {name_of(b)}: {b.facts()}"


def marks(cell: Cell, a: Run, b: Run, notes: Notes) -> tuple[str, ...]:
    """Footnotes of a row: why it is not whole, lost blocks, and a failed comparison with the baseline."""
    case, found = cell.key.case, [notes.mark(cell.why)] if cell.why else []
    for run, name in ((a, "A"), (b, "B")):
        if case not in run.cases:
            continue
        if why := run.failed_equivalence(case):
            found.append(notes.dagger(f"{name}: {cell.title} fails the comparison with the baseline: {why}."))
        if run.lost_blocks(case) and run.missing(case) not in cell.why:
            found.append(notes.mark(f"{name}: {run.missing(case)}"))
    return tuple(dict.fromkeys(found))


def row_of(cell: Cell, marked: tuple[str, ...]) -> list[Field]:
    """One row."""
    ratio = cell.ratio
    reach = DASH if math.isnan(ratio.low) else f"{bound(ratio.low)}–{bound(ratio.high)}"
    p = DASH if math.isnan(cell.p) else "< 0.001" if cell.p < 1e-3 else number(cell.p, 3)
    return [
        Field(cell.key.metric),
        Field(cell.title, marked),
        Field(cell.key.place),
        Field(milliseconds(cell.a)),
        Field(milliseconds(cell.b)),
        Field(DASH if any(map(math.isnan, cell.floors)) else ", ".join(number(one, 2) for one in cell.floors)),
        Field(number(ratio.value, 3)),
        Field(reach),
        Field(p),
        Field(verdict_text(cell), bold=cell.verdict in ("faster", "slower")),
    ]


def verdict_text(cell: Cell) -> str:
    """The verdict, with what it would be alone where that is another."""
    if cell.verdict is None:
        return "not compared"
    return cell.verdict if cell.alone == cell.verdict else f"{cell.verdict}, alone {cell.alone}"


def bound(value: float) -> str:
    """An end of an interval; one from two unlike blocks may lie anywhere."""
    return "> 100" if value > 100 else "< 0.01" if value < 0.01 else number(value, 3)


def milliseconds(one: Measured | None) -> str:
    """A quantile, a dash where there is none."""
    return DASH if one is None else number(one.value, 3)


def counted(cells: Sequence[Cell]) -> str:
    """How many cells have which verdict."""
    found = Counter(cell.verdict for cell in cells)
    parts = [f"{found[verdict]} {verdict}" for verdict in ("faster", "slower", "same", "unclear")]
    lost = f", {found[None]} not compared" if found[None] else ""
    return f"{', '.join(parts)}{lost}."


def record(cell: Cell) -> dict[str, object]:
    """The row of the .csv."""
    sides: dict[str, object] = {}
    for name, one in (("a", cell.a), ("b", cell.b)):
        sides |= {
            f"{name}_n": one.n if one else 0,
            f"{name}_blocks": one.blocks if one else 0,
            f"{name}_ms": one.value if one else math.nan,
        }
    ratio = cell.ratio
    return {
        "metric": cell.key.metric, "case": cell.key.case, "title": cell.title, "tokens_from": cell.key.first,
        "tokens_to": cell.key.last, **sides, "ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high,
        "p": ratio.p, "p_holm": cell.p, "verdict": cell.verdict, "verdict_alone": cell.alone, "why": cell.why,
        "host_ratio": cell.host, "scaled_ratio": cell.scaled.value,
        "scaled_low": cell.scaled.low, "scaled_high": cell.scaled.high, "floor_ratio": cell.floor,
        "a_floor_ms": cell.floors[0], "b_floor_ms": cell.floors[1],
    }  # fmt: skip
