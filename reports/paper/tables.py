"""All tables in the order of the texts: the published ones in their own layout, behind or in them what was measured."""

from __future__ import annotations

import pandas as pd

from reports.paper import decode, experiments, measured, ratios
from reports.paper.audit import HYBRID, NAMES, TENSORRT
from reports.paper.layout import Marks, line, made
from reports.paper.published import METRICS, SOURCES, TITLES, Published
from reports.paper.runs import Runs
from reports.table import Cell, Notes, Table, number

ESTIMATE = "Marked as an estimate in the text."
TEXTS = ("readme", "draft")


def tables(paper: Published, runs: Runs) -> list[Table]:
    """All published tables, in the order of the texts, and their measured twins."""
    wide: list[Table] = []
    for metric in METRICS:
        wide += [*(by_length(paper, metric, source) for source in TEXTS), measured.by_length(runs, metric)]
    wide += [*(against_tensorrt(paper, source) for source in TEXTS), measured.against_tensorrt(runs)]
    return [
        *wide, ratios.summary(paper, runs), ratios.speedups(paper, runs), decode.statistics(paper, runs),
        decode.ranges(paper, runs), experiments.capture_success(paper, runs), experiments.rolling(paper, runs),
        experiments.ablation(paper, runs), experiments.coverage(paper, runs), experiments.socket(paper, runs),
        combined(paper), measured.combined(runs),
    ]  # fmt: skip


def by_length(paper: Published, metric: str, source: str) -> Table:
    """TTFT or P99 of the five cases by length, with averages computed from the rows."""
    table, notes = paper.rows(source, metric), Notes()
    guessed = paper.estimates(source, metric)
    rows = []
    for length, values in table.iterrows():
        marks: Marks = {str(case): (notes.mark(ESTIMATE),) for case in table.columns if (case, length) in guessed}
        rows.append([Cell(str(length)), *line(values, marks), Cell(TITLES[str(values.idxmin())])])
    mean = table.mean()
    rows.append([Cell("Average"), *line(mean, {}), Cell(TITLES[str(mean.idxmin())])])
    title = f"{NAMES[metric]} in ms by prompt length, as published ({SOURCES[source].lower()})"
    columns = ["Prompt tokens", *(TITLES[case] for case in table.columns), "Winner"]
    facts = "Averages and winners are computed from the rows."
    last = frozenset([len(rows) - 1])
    return made(f"{metric}_{source}", title, table.reset_index(), columns, rows, facts, notes, last)


def against_tensorrt(paper: Published, source: str) -> Table:
    """The hybrid beside TensorRT-LLM, TTFT and P99, with speed-ups."""
    frame = pd.DataFrame(index=paper.rows(source, "ttft").index)
    for metric in METRICS:
        table = paper.rows(source, metric)
        frame[f"{metric}_hybrid"], frame[f"{metric}_tensorrt_llm"] = table[HYBRID], table[TENSORRT]
        frame[f"{metric}_speedup"] = table[TENSORRT] / table[HYBRID]
    units = ["", "", "×"] * len(METRICS)
    rows = [
        [Cell(str(length)), *(Cell(number(value) + unit) for value, unit in zip(values, units, strict=True))]
        for length, values in zip(frame.index, frame.to_numpy().tolist(), strict=True)
    ]
    title = f"JIT+CUDA against TensorRT-LLM, as published ({SOURCES[source].lower()}), in ms"
    parts = ("JIT+CUDA", "TensorRT-LLM", "speed-up")
    columns = ["Prompt tokens", *(f"{NAMES[metric]}, {part}" for metric in METRICS for part in parts)]
    facts = "What is called TensorRT-LLM there loads and times the model of Transformers."
    return made(f"against_tensorrt_{source}", title, frame.reset_index(), columns, rows, facts)


def combined(paper: Published) -> Table:
    """The appendix: TTFT and P99 of all cases at all lengths in one table, of the draft."""
    parts = {metric: paper.rows("draft", metric) for metric in METRICS}
    rows = [
        [Cell(NAMES[metric]), Cell(str(length)), *line(values, {})]
        for metric, table in parts.items()
        for length, values in table.iterrows()
    ]
    frame = pd.concat(parts, names=["metric"]).reset_index()
    columns = ["Metric", "Prompt tokens", *TITLES.values()]
    rules = frozenset([len(parts["ttft"])])
    return made("combined", "All cases and lengths, as published (draft), in ms", frame, columns, rows, rules=rules)
