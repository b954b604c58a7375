"""The published tables in their own layout, from the stated numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from reports.paper.audit import HYBRID, NAMES, TENSORRT
from reports.paper.published import METRICS, SOURCES, TITLES, Published
from reports.table import Cell, Notes, Table, heads, number

FACTS = "Published figures, copied as they are stated; nothing here was measured by this harness."
ESTIMATE = "Marked as an estimate in the text."
TEXTS = ("readme", "draft")
Marks = Mapping[str, tuple[str, ...]]


def tables(paper: Published) -> list[Table]:
    """All published tables, in the order of the texts."""
    return [
        *[by_length(paper, metric, source) for metric in METRICS for source in TEXTS],
        *[against_tensorrt(paper, source) for source in TEXTS],
        summary(paper), speedups(paper), decode_statistics(paper), decode_ranges(paper), capture_success(paper),
        rolling(paper), ablation(paper), coverage(paper), socket(paper), combined(paper),
    ]  # fmt: skip


def made(
    name: str, title: str, frame: pd.DataFrame, columns: Sequence[str], rows: list[list[Cell]], facts: str = "",
    notes: Notes | None = None, rules: frozenset[int] = frozenset(),
) -> Table:  # fmt: skip
    """A table of published figures; the first column is set left, and one of winners."""
    headings = heads(*columns, left=(columns[0], "Winner"))
    said = " ".join(filter(None, [facts, FACTS]))
    return Table(f"paper_{name}", title, headings, rows, notes or Notes(), said, False, frame, rules)


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


def line(values: pd.Series, marks: Marks) -> list[Cell]:
    """Latencies of one row, the lowest in bold."""
    best = values.min()
    return [Cell(number(value), marks.get(str(case), ()), value == best) for case, value in values.items()]


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


def summary(paper: Published) -> Table:
    """Averages as stated, beside those of the rows."""
    values, rows = [], []
    for source in TEXTS:
        for case, title in TITLES.items():
            found = [value for metric in METRICS for value in averages(paper, source, metric, case)]
            values.append((source, case, *found))
            rows.append([Cell(SOURCES[source]), Cell(title), *(Cell(number(value)) for value in found)])
    names = [f"{metric}_{kind}" for metric in METRICS for kind in ("stated", "rows")]
    frame = pd.DataFrame(values, columns=["source", "case", *names])
    columns = [
        "Text",
        "Case",
        *(f"{NAMES[metric]}, {kind}" for metric in METRICS for kind in ("stated", "of the rows")),
    ]
    rules = frozenset([len(TITLES)])
    title = "Performance summary: averages over the nine lengths in ms"
    return made("summary", title, frame, columns, rows, rules=rules)


def averages(paper: Published, source: str, metric: str, case: str) -> tuple[float, float]:
    """The stated average, and that of the rows."""
    return paper.value(source, metric, "average", case), float(paper.rows(source, metric)[case].mean())


def speedups(paper: Published) -> Table:
    """Speed-ups as stated, beside the ratio of the rows' averages."""
    rows, values = [], []
    for row in paper.stated[paper.stated["table"].str.startswith("speedup_of_")].itertuples():
        source, metric, over = str(row.source), str(row.quantity), str(row.case)
        case = str(row.table).removeprefix("speedup_of_").removesuffix("_over")
        averages = paper.rows(source, metric).mean()
        said, found = float(str(row.value)), float(averages[over] / averages[case])
        values.append((source, metric, case, over, said, found))
        words = [SOURCES[source], NAMES[metric], TITLES[case], TITLES[over]]
        rows.append([*map(Cell, words), Cell(f"{number(said)}×"), Cell(f"{number(found)}×")])
    frame = pd.DataFrame(values, columns=["source", "metric", "case", "over", "stated", "rows"])
    columns = ["Text", "Metric", "Case", "over", "Stated", "From the rows"]
    return made("speedups", "Speed-up analysis", frame, columns, rows, "From the rows: ratio of the averages.")


def pairs(paper: Published, table: str, name: str, title: str, labels: dict[str, str], facts: str = "") -> Table:
    """A table of two columns from the stated figures of one experiment of the hybrid."""
    found = paper.stated[(paper.stated["table"] == table) & (paper.stated["case"] == HYBRID)]
    said = {row.quantity: (str(row.value), str(row.unit)) for row in found.itertuples()}
    rows = [[Cell(label), Cell(" ".join(said[quantity]))] for quantity, label in labels.items()]
    return made(name, title, found, ["Quantity", "Published"], rows, facts)


def decode_statistics(paper: Published) -> Table:
    """Statistics of the decode phase."""
    labels = {
        "mean": "Mean", "median": "Median", "p25": "25th percentile", "p75": "75th percentile",
        "std": "Standard deviation", "min": "Least", "max": "Most",
        "total": "All tokens together", "tokens": "Tokens", "throughput": "Throughput",
        "mean_context_le_100": "Mean, context up to 100", "mean_context_gt_100": "Mean, context above 100",
        "scaling_factor": "Ratio of the two",
    }  # fmt: skip
    facts = "No KV cache: each step runs over the whole context."
    return pairs(paper, "decode", "decode_statistics", "Decode statistics of JIT+CUDA, as published", labels, facts)


def decode_ranges(paper: Published) -> Table:
    """Decode latency by range of context lengths."""
    rows = [
        [
            Cell(f"{row.context_from}–{row.context_to}"), Cell(str(row.tokens)), Cell(number(float(str(row.mean_ms)))),
            Cell(number(float(str(row.std_ms)))),
        ]
        for row in paper.ranges.itertuples()
    ]  # fmt: skip
    columns = ["Context", "Tokens", "Mean (ms)", "Standard deviation (ms)"]
    return made("decode_ranges", "Decode latency by context, as published", paper.ranges, columns, rows)


def capture_success(paper: Published) -> Table:
    """How many lengths could be captured."""
    labels = {
        "capture_attempts": "Lengths tried", "captured": "Captured", "first_failing_length": "First that failed",
        "graph_pool": "Graph pool", "allocated": "Allocated in all", "weights": "Weights",
        "gpu_memory": "Memory of the GPU",
    }  # fmt: skip
    return pairs(paper, "capture_all_lengths", "capture_success", "Capture success, as published", labels)


def rolling(paper: Published) -> Table:
    """Statistics of rolling capture."""
    labels = {
        "lengths_tested": "Lengths tried", "succeeded": "Succeeded", "graphs_created": "Graphs created",
        "graphs_deleted": "Graphs deleted", "graphs_kept": "Graphs kept", "mean_latency": "Mean latency",
    }  # fmt: skip
    return pairs(paper, "rolling_capture", "rolling", "Rolling capture, as published", labels)


Quantities = Mapping[str, tuple[str, int]]
"""A stated quantity: its heading, and with how many decimals."""


def grid(paper: Published, name: str, title: str, cases: Mapping[str, str], quantities: Quantities) -> Table:
    """A line a case, a column a quantity; a dash where none is stated."""
    found = paper.stated[paper.stated["table"] == name]
    rows = []
    for case, label in cases.items():
        said = found[found["case"] == case].set_index("quantity")["value"].astype(float).to_dict()
        values = [number(said.get(quantity, math.nan), digits) for quantity, (_, digits) in quantities.items()]
        rows.append([Cell(label), *map(Cell, values)])
    return made(name, title, found, ["Case", *(head for head, _ in quantities.values())], rows)


def ablation(paper: Published) -> Table:
    """The published ablation."""
    cases = {"native_python": "Native Python", **{case: TITLES[case] for case in ("jit", "cuda_graph", HYBRID)}}
    quantities = {
        "mean_latency": ("Mean latency (ms)", 2),
        "speedup": ("Speed-up", 1),
        "lengths_captured_of_500": ("Lengths captured of 500", 0),
    }
    return grid(paper, "ablation", "Ablation, as published", cases, quantities)


def coverage(paper: Published) -> Table:
    """The published coverage strategies."""
    cases = {"full_1_500": "Every length from 1 to 500", "every_10th": "Every 10th", "powers_of_2": "Powers of two"}
    quantities = {
        "graphs": ("Graphs", 0),
        "graph_memory": ("Graph memory (GiB)", 2),
        "mean_latency": ("Mean latency (ms)", 2),
    }
    return grid(paper, "coverage", "Coverage strategies, as published", cases, quantities)


def socket(paper: Published) -> Table:
    """What the socket is said to cost."""
    labels = {"overhead_low": "Least", "overhead_high": "Most"}
    return pairs(paper, "ipc", "ipc", "Overhead of the Unix socket, as published", labels)


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
