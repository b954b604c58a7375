"""Decode: the published statistics and ranges, beside those of the runs under both protocols."""

from __future__ import annotations

import math

import pandas as pd

from reports.paper.audit import HYBRID
from reports.paper.layout import beside, figure, made, said_of
from reports.paper.measures import decode_range, decode_statistics, decoder, flagged, steps
from reports.paper.published import Published
from reports.paper.runs import NAMES, Missing, Runs
from reports.table import DASH, Cell, Notes, Table, number

LABELS = {
    "mean": "Mean", "median": "Median", "p25": "25th percentile", "p75": "75th percentile",
    "std": "Standard deviation", "min": "Least", "max": "Most",
    "total": "All tokens together", "tokens": "Tokens", "throughput": "Throughput",
    "mean_context_le_100": "Mean, context up to 100", "mean_context_gt_100": "Mean, context above 100",
    "scaling_factor": "Ratio of the two",
}  # fmt: skip
DIGITS = {"tokens": 0, "total": 0, "throughput": 1}
Found = dict[str, pd.DataFrame]
Why = dict[str, str]
HEADS = [f"Measured, {words[0].lower()}{words[1:]}" for words in NAMES.values()]


def decoded(runs: Runs) -> tuple[Found, Why]:
    """The decode steps under each protocol, or why there are none."""
    found, why = {}, {}
    for name in NAMES:
        try:
            found[name] = steps(runs.need(name))
        except Missing as missing:
            why[name] = str(missing)
    return found, why


def facts_of(runs: Runs, found: Found) -> str:
    """Whose steps these are, what is flagged, rule, n and facts of both runs."""
    parts = []
    for name, samples in found.items():
        run = runs.need(name)
        flags = flagged(run, samples)
        parts.append(f"{NAMES[name]}: steps of {run.cases[decoder(run)]}{'; flagged, all kept: ' if flags else ''}"
                     f"{'; '.join(flags)}.")  # fmt: skip
    rule = "Percentiles interpolated linearly, standard deviation over n − 1; total and tokens: of one sequence."
    said = said_of(runs, {name: [len(samples)] for name, samples in found.items()}) if found else ""
    return " ".join(filter(None, [rule, *parts, said]))


def statistics(paper: Published, runs: Runs) -> Table:
    """Statistics of the decode phase."""
    said = paper.stated[(paper.stated["table"] == "decode") & (paper.stated["case"] == HYBRID)]
    texts = {row.quantity: (str(row.value), str(row.unit)) for row in said.itertuples()}
    found, why = decoded(runs)
    ours = {name: decode_statistics(samples) for name, samples in found.items()}
    notes, rows = Notes(), []
    for quantity, label in LABELS.items():
        unit = texts[quantity][1]
        cells = [
            figure(ours[name][quantity], notes, "No step of such a context.", DIGITS.get(quantity, 2), f" {unit}")
            if name in ours
            else Cell(DASH, (notes.mark(why[name]),))
            for name in NAMES
        ]
        rows.append([Cell(label), Cell(" ".join(texts[quantity])), *cells])
    frame = said.assign(**{name: said["quantity"].map(ours.get(name, {})).astype(float) for name in NAMES})
    title = "Decode statistics of JIT+CUDA, as published and measured"
    table = made("decode_statistics", title, frame, ["Quantity", "Published", *HEADS], rows, notes=notes)
    facts = "Published, and under the paper's protocol: no KV cache, each step runs over the whole context."
    return beside(table, f"{facts} {facts_of(runs, found)}", runs.both.values())


def ranges(paper: Published, runs: Runs) -> Table:
    """Decode latency by range of context lengths."""
    found, why = decoded(runs)
    notes, rows, values = Notes(), [], []
    for row in paper.ranges.to_dict("records"):
        first, last = int(row["context_from"]), int(row["context_to"])
        cells: list[Cell] = []
        line: list[float] = []
        for name in NAMES:
            pair = decode_range(found[name], first, last) if name in found else (math.nan, math.nan)
            line += pair
            cells.append(spread(pair, notes, why.get(name, "No step of such a context.")))
        values.append(line)
        texts = [f"{first}–{last}", str(row["tokens"]), number(row["mean_ms"]), number(row["std_ms"])]
        rows.append([*map(Cell, texts), *cells])
    kinds = [f"{name}_{kind}" for name in NAMES for kind in ("mean_ms", "std_ms")]
    frame = pd.concat([paper.ranges, pd.DataFrame(values, columns=kinds, index=paper.ranges.index)], axis=1)
    columns = ["Context", "Tokens", "Mean (ms)", "Standard deviation (ms)"]
    columns += [f"{head} (ms)" for head in HEADS]
    table = made("decode_ranges", "Decode latency by context, as published and measured", frame, columns, rows,
                 notes=notes)  # fmt: skip
    words = "Measured: the mean, and the standard deviation in brackets."
    return beside(table, f"{words} {facts_of(runs, found)}", runs.both.values())


def spread(pair: tuple[float, float], notes: Notes, why: str) -> Cell:
    """A mean with its standard deviation in brackets, or a dash with the reason."""
    mean, std = pair
    return figure(mean, notes, why, unit="" if math.isnan(std) else f" ({number(std)})")
