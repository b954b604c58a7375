"""The published figures as data: results/paper/*.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.experiments.section import PAPER, TEXTS
from reports.files import load_table

TITLES = {
    "baseline": "Baseline",
    "cuda_graph": "CUDA Graph",
    "jit": "JIT-Only",
    "jit_cuda_graph": "JIT+CUDA",
    "tensorrt_llm": "TensorRT-LLM",
}
"""The five cases, in the order of the tables."""
SOURCES = {"readme": "Front page", "draft": "Draft", "abstract": "Abstract"}
METRICS = {"ttft": "ttft_mean", "p99": "p99"}
COLUMNS = {
    "latency": ["source", "metric", "case", "prompt_length", "latency_ms", "marked_as_estimate"],
    "stated": ["source", "table", "quantity", "case", "value", "unit"],
    "decode_ranges": ["source", "context_from", "context_to", "tokens", "mean_ms", "std_ms"],
}


@dataclass(frozen=True)
class Published:
    """The three files. Values of `stated` stay texts: how many decimals were stated is part of the claim."""

    latency: pd.DataFrame
    stated: pd.DataFrame
    ranges: pd.DataFrame

    def rows(self, source: str, metric: str) -> pd.DataFrame:
        """Latency in ms: a row a length, a column a case, of `ttft` or `p99` in one text."""
        found = self.latency[(self.latency["source"] == source) & (self.latency["metric"] == METRICS[metric])]
        table = found.pivot_table(index="prompt_length", columns="case", values="latency_ms")
        return table[[case for case in TITLES if case in table.columns]]

    def estimates(self, source: str, metric: str) -> set[tuple[str, int]]:
        """Case and length of the figures that the text marks as estimates."""
        found = self.latency[(self.latency["source"] == source) & (self.latency["metric"] == METRICS[metric])]
        starred = found[found["marked_as_estimate"] == 1]
        return set(zip(starred["case"], starred["prompt_length"], strict=True))

    def value(self, source: str, table: str, quantity: str, case: str = "jit_cuda_graph") -> float:
        """One stated figure. Raises KeyError where the text does not state it, or states it twice."""
        named = self.stated[["source", "table", "quantity", "case"]] == [source, table, quantity, case]
        found = self.stated[named.all(axis=1)]
        if len(found) != 1:
            raise KeyError(f"{source} states {table}, {quantity}, {case} {len(found)} times")
        return float(found["value"].iloc[0])


def read(folder: Path = PAPER) -> Published:
    """Read the three files. Raises ValueError, in one sentence, for one that is missing or has other columns."""
    frames = {}
    for name, columns in COLUMNS.items():
        path = folder / f"{name}.csv"
        if not path.is_file():
            raise ValueError(f"{path} is missing: it holds published figures, take it from the repository")
        load_table(path, columns, text=TEXTS)  # for its sentences
        frames[name] = pd.read_csv(path, dtype={"value": str})
        if list(frames[name].columns) != columns:
            raise ValueError(f"{path} must have the columns {', '.join(columns)}")
    return Published(frames["latency"], frames["stated"], frames["decode_ranges"])
