"""Two invented runs to compare, and how one of them is changed."""

import json

import pandas as pd

from reports.__main__ import main
from tests.synthetic import Spec, invent

WRITTEN = {f"{name}.{end}" for name in ("compare", "compare_runs", "compare_moves") for end in ("csv", "md", "tex")}
CASES = ("baseline", "jit", "cuda_graph")


def invented(folder):
    """A run of three cases in four blocks, with enough samples for a P99."""
    return invent(folder, Spec(cases=CASES, missing=(), wrong=(), lengths=(10, 400), iterations=100, blocks=4))


def times(folder, factor, case="jit", metric="ttft", length=None):
    """Multiply the latencies of a case's samples."""
    path = folder / "samples.csv"
    frame = pd.read_csv(path, keep_default_na=False)
    chosen = (frame["case"] == case) & (frame["metric"] == metric)
    chosen &= (frame["prompt_length"] == length) if length else True
    frame.loc[chosen, ["host_ms", "latency_ms"]] *= factor
    frame.to_csv(path, index=False)


def manifest(folder, **changes):
    """Change keys of the manifest by dotted place, with __ for the dot."""
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    for place, value in changes.items():
        *way, last = place.split("__")
        at = stored
        for part in way:
            at = at[part]
        at[last] = value
    path.write_text(json.dumps(stored))


def compare(*arguments):
    return main(["compare", *map(str, arguments)])


def verdicts(folder):
    """Verdict by metric, case and first token, from the .csv."""
    frame = pd.read_csv(folder / "compare.csv", keep_default_na=False)
    return {(row.metric, row.case, row.tokens_from): row.verdict for row in frame.itertuples()}
