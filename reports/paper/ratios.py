"""Averages and speed-ups: as stated, of the published rows, and as measured under both protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from reports.paper.audit import NAMES, TENSORRT
from reports.paper.layout import UNDER_ANOTHER, beside, figure, head_of, made, said_of, why_not
from reports.paper.measures import average, counts
from reports.paper.published import METRICS, SOURCES, TITLES, Published
from reports.paper.runs import NAMES as PROTOCOLS
from reports.paper.runs import Runs, absent, engine, stand_in
from reports.run import Run
from reports.table import Cell, Notes, Table

TEXTS = ("readme", "draft")
Values = dict[str, float]
PLACES = [(metric, name) for metric in METRICS for name in PROTOCOLS]


def facts_of(runs: Runs) -> str:
    """Rule, n and facts of both runs."""
    sizes = {
        name: [n for metric in METRICS for n in counts(run, metric)]
        for name, run in runs.both.items()
        if run is not None
    }
    rule = (
        "Paper's protocol, controlled: measured. Averages over the lengths of mean TTFT and of P99, by the published "
        "rules; n a length."
    )
    return f"{rule} {said_of(runs, sizes)}".strip()


def means(run: Run | None, metric: str) -> Values:
    """Average of every case of a run by name; the engine as `tensorrt_llm`, the stand-in as `stand_in`, where known.

    A case without a block that ended well, or that computes something else than the baseline, has none.
    """
    if run is None:
        return {}
    cases = {case: case for case in run.cases if case not in (TENSORRT, stand_in(run))}
    cases |= {name: case for name, case in ((TENSORRT, engine(run)), ("stand_in", stand_in(run))) if case}
    found = {name: average(run, metric, case) for name, case in cases.items() if run.competes(case)}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def why(run: Run | None, name: str, case: str) -> str:
    """Why a case has no average in a run."""
    if run is None:
        return absent(name)
    if case == "stand_in":
        case = stand_in(run)
        return run.missing(case) if case else "The published stand-in is not in this run."
    failed = run.failed_equivalence(case) if case in run.cases else ""
    return (
        f"{run.cases[case]} fails the comparison with the baseline: {failed}." if failed else why_not(run, name, case)
    )


def summary(paper: Published, runs: Runs) -> Table:
    """Averages as stated, beside those of the rows and the measured ones."""
    values, rows, notes = [], [], Notes()
    found = {(metric, name): means(runs.get(name), metric) for metric, name in PLACES}
    for source, case, title in [*((text, *pair) for text in TEXTS for pair in TITLES.items()), *own_row(runs)]:
        line: list[float] = []
        cells: list[Cell] = []
        for metric in METRICS:
            published = averages(paper, source, metric, case) if source else (math.nan, math.nan)
            line += published
            cells += [figure(value, notes, UNDER_ANOTHER) for value in published]
            for name in PROTOCOLS:
                value = found[metric, name].get(case, math.nan)
                line.append(value)
                cells.append(figure(value, notes, why(runs.get(name), name, case)))
        values.append((source, case, *line))
        rows.append([Cell(SOURCES.get(source, "Measured")), Cell(title, marks_of(runs, case, notes)), *cells])
    kinds = ("stated", "rows", *PROTOCOLS)
    frame = pd.DataFrame(values, columns=["source", "case", *(f"{m}_{kind}" for m in METRICS for kind in kinds)])
    heads = ("stated", "of the rows", *(f"{words[0].lower()}{words[1:]}" for words in PROTOCOLS.values()))
    columns = ["Text", "Case", *(f"{NAMES[metric]}, {kind}" for metric in METRICS for kind in heads)]
    rules = frozenset([len(TITLES), 2 * len(TITLES)][: 1 + bool(own_row(runs))])
    title = "Performance summary: averages over the nine lengths in ms"
    table = made("summary", title, frame, columns, rows, notes=notes, rules=rules)
    return beside(table, facts_of(runs), runs.both.values())


def own_row(runs: Runs) -> list[tuple[str, str, str]]:
    """A row of its own for what was published as TensorRT-LLM, where it was measured."""
    titles = [run.cases[stand_in(run)] for run in runs.both.values() if run is not None and stand_in(run)]
    return [("", "stand_in", titles[0])] if titles else []


def marks_of(runs: Runs, case: str, notes: Notes) -> tuple[str, ...]:
    """The footnote of the stand-in: what it is."""
    if case != "stand_in":
        return ()
    run = next(run for run in runs.both.values() if run is not None and stand_in(run))
    return head_of(run, stand_in(run), notes)


def averages(paper: Published, source: str, metric: str, case: str) -> tuple[float, float]:
    """The stated average, and that of the rows."""
    return paper.value(source, metric, "average", case), float(paper.rows(source, metric)[case].mean())


def stated_ratios(paper: Published, runs: Runs) -> Iterator[tuple[str, str, str, str, float, float]]:
    """Text, metric, case, the case it is over, the stated speed-up and that of the rows; at last the stand-in's."""
    for row in paper.stated[paper.stated["table"].str.startswith("speedup_of_")].itertuples():
        source, metric, over = str(row.source), str(row.quantity), str(row.case)
        case = str(row.table).removeprefix("speedup_of_").removesuffix("_over")
        rows = paper.rows(source, metric).mean()
        yield source, metric, case, over, float(str(row.value)), float(rows[over] / rows[case])
    for _ in own_row(runs):
        for metric in METRICS:
            yield "", metric, "jit_cuda_graph", "stand_in", math.nan, math.nan


def speedups(paper: Published, runs: Runs) -> Table:
    """Speed-ups as stated, beside the ratio of the rows' averages and of the measured ones."""
    rows, values, notes = [], [], Notes()
    titles = TITLES | {case: title for _, case, title in own_row(runs)}
    found = {(metric, name): means(runs.get(name), metric) for metric, name in PLACES}
    for source, metric, case, over, said, of_rows in stated_ratios(paper, runs):
        ours = []
        for name in PROTOCOLS:
            known = found[metric, name]
            ours.append(known[over] / known[case] if over in known and case in known else math.nan)
        values.append((source, metric, case, over, said, of_rows, *ours))
        cells = [figure(value, notes, UNDER_ANOTHER, unit="×") for value in (said, of_rows)]
        for name, value in zip(PROTOCOLS, ours, strict=True):
            lost = over if over not in found[metric, name] else case
            cells.append(figure(value, notes, why(runs.get(name), name, lost), unit="×"))
        texts = [SOURCES.get(source, "Measured"), NAMES[metric], titles[case]]
        rows.append([*map(Cell, texts), Cell(titles[over], marks_of(runs, over, notes)), *cells])
    frame = pd.DataFrame(values, columns=["source", "metric", "case", "over", "stated", "rows", *PROTOCOLS])
    columns = ["Text", "Metric", "Case", "over", "Stated", "From the rows"]
    columns += [f"Measured, {words[0].lower()}{words[1:]}" for words in PROTOCOLS.values()]
    facts = f"From the rows, and measured: ratio of the averages. {facts_of(runs)}"
    return beside(made("speedups", "Speed-up analysis", frame, columns, rows, notes=notes), facts, runs.both.values())
