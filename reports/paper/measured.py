"""The wide tables once more in the published layout, with what was measured under the paper's protocol."""

from __future__ import annotations

import math

import pandas as pd

from reports.blockwise import AVERAGE, with_average
from reports.paper.audit import HYBRID, NAMES, TENSORRT
from reports.paper.layout import figure, head_of, line, why_not
from reports.paper.measures import RULES, flagged, latencies, requests
from reports.paper.published import METRICS, TITLES
from reports.paper.runs import PAPER, Runs, absent, fifth, five, impersonates
from reports.run import Run
from reports.table import DASH, Cell, Column, Notes, Table, number

UNDER = "measured under the paper's protocol"


def empty(name: str, title: str, columns: list[str], labels: list[list[str]], why: str = "") -> Table:
    """The layout without figures: for a run that was not made yet, or `why` else."""
    notes = Notes()
    marks = (notes.mark(why or absent(PAPER)),)
    heads = [Column(Cell(head), "left" if head in ("Winner", "Metric") else "right") for head in columns]
    rows = [[*map(Cell, label), *[Cell(DASH, marks)] * (len(columns) - len(label))] for label in labels]
    return Table(f"measured_{name}", title, heads, rows, notes, "Nothing measured yet.", False, pd.DataFrame())


def title_of(words: str) -> str:
    """A table's title."""
    return f"{words}, {UNDER}"


def facts_of(run: Run, cases: list[str], metrics: tuple[str, ...], words: str = "") -> str:
    """The rules of the figures, with n and what is flagged, and the run's own facts."""
    said = []
    for metric in metrics:
        own = requests(run, metric)
        own = own[own["case"].isin(cases)]
        said.append(RULES[metric].format(n=span([int(n) for n in own.groupby(["prompt_length", "case"]).size()])))
        if flags := flagged(run, own):
            said.append(f"Flagged requests of {NAMES[metric]}, all kept: {'; '.join(flags)}.")
    return " ".join(filter(None, [*said, words, run.facts()]))


def span(sizes: list[int]) -> str:
    """How many requests are behind each figure."""
    if not sizes:
        return "n = 0"
    low, high = min(sizes), max(sizes)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def headings(run: Run, cases: list[str], notes: Notes) -> list[Column]:
    """Titles of cases with their marks."""
    return [Column(Cell(run.cases[case], head_of(run, case, notes))) for case in cases]


def cells(run: Run, values: pd.Series, notes: Notes) -> list[Cell]:
    """Latencies of a row, the lowest that may win in bold; a dash says why."""
    able = [case for case in values.index if run.competes(str(case))]
    plain = line(values, {}, able)
    return [
        figure(math.nan, notes, why_lacking(run, case, values)) if math.isnan(values[case]) else cell
        for case, cell in zip(values.index, plain, strict=True)
    ]


def why_lacking(run: Run, case: str, values: pd.Series) -> str:
    """Why one figure is not there: the case's status, or for an average the rows."""
    if values.name == AVERAGE and case in set(run.samples["case"]):
        return "No average, because not every row has a value."
    return run.missing(case)


def winner(run: Run, values: pd.Series) -> str:
    """The title of the fastest case of a row that may win."""
    able = values[[case for case in values.index if run.competes(str(case))]].dropna()
    return run.cases[str(able.idxmin())] if len(able) else DASH


def by_length(runs: Runs, metric: str) -> Table:
    """TTFT or P99 of the five cases by length."""
    title, run = title_of(f"{NAMES[metric]} in ms by prompt length"), runs.paper
    if run is None:
        columns = ["Prompt tokens", *TITLES.values(), "Winner"]
        return empty(metric, title, columns, [[AVERAGE]])
    notes, table = Notes(), latencies(run, metric)[five(run)]
    heads = [Column(Cell("Prompt tokens"), "left"), *headings(run, five(run), notes), Column(Cell("Winner"), "left")]
    table = with_average(table)
    rows = [[Cell(str(at)), *cells(run, row, notes), Cell(winner(run, row))] for at, row in table.iterrows()]
    facts = facts_of(run, five(run), (metric,))
    frame = table.drop(index=AVERAGE).rename_axis("prompt_length").reset_index()
    return Table(f"measured_{metric}", title, heads, rows, notes, facts, run.smoke, frame, frozenset([len(rows) - 1]))


def combined(runs: Runs) -> Table:
    """The appendix: TTFT and P99 of all cases at all lengths in one table."""
    title, run = title_of("All cases and lengths, in ms"), runs.paper
    if run is None:
        columns = ["Metric", "Prompt tokens", *TITLES.values()]
        return empty("combined", title, columns, [[NAMES[metric], "all"] for metric in METRICS])
    notes, parts = Notes(), {metric: latencies(run, metric)[five(run)] for metric in METRICS}
    heads = [Column(Cell("Metric"), "left"), Column(Cell("Prompt tokens")), *headings(run, five(run), notes)]
    rows = [
        [Cell(NAMES[metric]), Cell(str(length)), *cells(run, values, notes)]
        for metric, table in parts.items()
        for length, values in table.iterrows()
    ]
    frame = pd.concat(parts, names=["metric", "prompt_length"]).reset_index()
    facts, rules = facts_of(run, five(run), tuple(METRICS)), frozenset([len(parts["ttft"])])
    return Table("measured_combined", title, heads, rows, notes, facts, run.smoke, frame, rules)


def against_tensorrt(runs: Runs) -> Table:
    """The hybrid beside TensorRT-LLM, or what was published under that name, TTFT and P99, with speed-ups."""
    name, run = "against_tensorrt", runs.paper
    title = title_of("JIT+CUDA against TensorRT-LLM, in ms")
    if run is None or HYBRID not in run.cases:
        parts = ("JIT+CUDA", "TensorRT-LLM", "speed-up")
        columns = ["Prompt tokens", *(f"{NAMES[metric]}, {part}" for metric in METRICS for part in parts)]
        return empty(name, title, columns, [["all"]], why_not(run, PAPER, HYBRID))
    notes, others = Notes(), fifth(run)
    heads, frame = [Column(Cell("Prompt tokens"), "left")], pd.DataFrame(index=sorted(run.sweep["prompt_lengths"]))
    for metric in METRICS:
        found = latencies(run, metric)
        heads += pair_heads(run, metric, others, notes)
        frame[f"{metric}_{HYBRID}"] = found[HYBRID]
        for other in others:
            frame[f"{metric}_{other}"] = found[other]
            frame[f"{metric}_speedup_over_{other}"] = found[other] / found[HYBRID]
    rows = [
        [Cell(str(length)), *(pair_cell(run, str(column), value, notes) for column, value in values.items())]
        for length, values in frame.iterrows()
    ]
    if any(impersonates(run, other) for other in others) and TENSORRT not in others:
        title = title_of(f"JIT+CUDA against {run.cases[others[0]]}, in ms")
    facts = facts_of(run, [HYBRID, *others], tuple(METRICS), "Speed-up: latency of the other over that of JIT+CUDA.")
    frame = frame.rename_axis("prompt_length").reset_index()
    return Table(f"measured_{name}", title, heads, rows, notes, facts, run.smoke, frame)


def pair_heads(run: Run, metric: str, others: list[str], notes: Notes) -> list[Column]:
    """The headings of one metric."""
    found = [Column(Cell(f"{NAMES[metric]}, {run.cases[HYBRID]}", head_of(run, HYBRID, notes)))]
    for other in others:
        found.append(Column(Cell(f"{NAMES[metric]}, {run.cases[other]}", head_of(run, other, notes))))
        found.append(Column(Cell(f"{NAMES[metric]}, speed-up")))
    return found


def pair_cell(run: Run, column: str, value: float, notes: Notes) -> Cell:
    """A latency or a speed-up; a dash names the case that has no figure."""
    case = column.partition("_speedup_over_")[2] or column.partition("_")[2]
    if math.isnan(value):
        lacking = case if case not in set(run.samples["case"]) else HYBRID
        return figure(value, notes, why_not(run, PAPER, lacking))
    return Cell(number(value) + ("×" if "_speedup_over_" in column else ""))
