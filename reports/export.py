"""`python -m reports export results/... --to FILE.parquet`: the samples of any number of runs as one tidy table."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from harness import schema
from reports import attempts, enriched, terminal
from reports.compare.manifests import ABSENT, at
from reports.files import TEXT
from reports.merge.gather import expanded, loaded, name_of
from reports.run import Run
from reports.write import aside

INSTALL = "pip install -c constraints.txt -e '.[export]'"
OF_RUN = {
    "started": "started", "protocol": "protocol", "model": "model.name", "dtype": "model.dtype",
    "weights": "model.weights", "weights_digest": "model.digest", "driver": "gpu.driver", "torch": "versions.torch",
    "cuda": "versions.cuda", "code_digest": "code_digest", "study": "config.study",
}  # fmt: skip
"""Columns that say of which run a row is, and where manifest.json has them."""
WHOLE = {
    "block", "prompt_length", "context_length", "iteration", "started_ns", "token_id", "captures", "ungraphed", "hits",
    "misses", "evictions", "failures", "capturing", "coalesced", "replays", "co_tenants", "context_from", "context_to",
    "n", "throttled", "given_token_id",
}  # fmt: skip
"""Columns of whole numbers, which may be unknown."""
TRUE_OR_FALSE = {"smoke", "supported"}
CATEGORIES = {*TEXT, *OF_RUN, "run", "gpu", "card", "neighbours", "title", "table"}
SUMMARIES = {"ttft": enriched.ttft, "p99": enriched.p99, "decode": enriched.decode}
NO_SUMMARY = ("row",)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports export", description=__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="FOLDER", help="runs, or folders with runs directly in them"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.parquet", help="the file that is written")
    parser.add_argument(
        "--summary", action="store_true", help="a row a cell of ttft, p99 and decode with their quantiles, not a sample"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; 2 and one sentence on stderr when the input is not what it should be."""
    options = arguments(argv)
    try:
        check_target(options.to)
        found, left_out = expanded(options.runs)
        check_names(found)
        make = summary_of if options.summary else samples_of
        frame = tidy([make(loaded(path)) for path in found])
        write(frame, options.to)
    except (ValueError, OSError) as error:
        return terminal.mistake(error)
    for one in left_out:
        print(f"reports: left out {one}", file=sys.stderr)
    rows = "cells" if options.summary else "samples"
    said = f"{len(frame)} {rows} of {len(found)} run{'s' if len(found) > 1 else ''}: {options.to}"
    terminal.console().print(said, markup=False, highlight=False, soft_wrap=True)
    return 0


def check_target(to: Path) -> None:
    """Raises ValueError with one sentence on a file that can't be written, before anything is read."""
    if to.suffix != ".parquet" or to.is_dir():
        raise ValueError(f"--to {to} is no name of a Parquet file: give one that ends in .parquet")
    if find_spec("pyarrow") is None:
        raise ValueError(f"pyarrow, by which pandas writes Parquet, is not installed: {INSTALL}")


def check_names(paths: Sequence[Path]) -> None:
    """Raises ValueError with one sentence on two folders of one name, whose rows could not be told apart."""
    counts = Counter(path.resolve().name for path in paths)
    if twice := next((name for name, count in counts.items() if count > 1), ""):
        raise ValueError(f"two runs are in folders called {twice}, and that name tells rows apart: rename one")


def placed(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns of its run, and the case's title, before its own."""
    place: dict[str, Any] = {"run": name_of(run), "gpu": run.gpu, "card": attempts.card(run.manifest)}
    place |= {"smoke": run.smoke}
    place |= {column: known(at(run.manifest, where)) for column, where in OF_RUN.items()}
    place |= {"neighbours": run.neighbours}
    place["title"] = frame["case"].map(run.cases)
    return pd.concat([pd.DataFrame(place, index=frame.index), frame], axis=1)


def known(value: Any) -> str:
    """A fact as text, empty where the manifest does not state it, as in the files of a run."""
    return "" if value == ABSENT else str(value)


def samples_of(run: Run) -> pd.DataFrame:
    """A run's samples: every column of today's, how the block ended as `state`, and `started_ns` to the nanosecond,
    which a float may not hold."""
    path = run.path / "samples.csv"
    try:
        exact = pd.read_csv(path, usecols=["started_ns"], dtype={"started_ns": "Int64"})["started_ns"]
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: started_ns is not a whole number in every row") from error
    states = run.status.set_index(["case", "block"])["state"]
    blocks = pd.MultiIndex.from_frame(run.samples[["case", "block"]])
    state = states.reindex(blocks).fillna("").to_numpy()
    return placed(run, run.samples[list(schema.SAMPLES)].assign(started_ns=exact, state=state))


def summary_of(run: Run) -> pd.DataFrame:
    """A run's rows of ttft.csv, p99.csv and decode.csv as the report enriches them, told apart by `table`."""
    frames = [make(run).assign(table=name) for name, make in SUMMARIES.items()]
    return placed(run, pd.concat(frames, ignore_index=True).drop(columns=list(NO_SUMMARY), errors="ignore"))


def tidy(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows in one frame: text as categories, whole numbers as Int64, truths as boolean, the rest as floats.

    Raises:
        ValueError: one sentence on a fraction in a column of whole numbers.
    """
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(**{str(column): typed(frame[column]) for column in frame})


def typed(column: pd.Series) -> pd.Series:
    """A column in its type."""
    name = str(column.name)
    if name in TRUE_OR_FALSE:
        return column.astype("boolean")
    if name in WHOLE:
        try:
            return column.astype("Int64")
        except TypeError as error:  # pandas says so of a fraction
            raise ValueError(f"the column {name} has a fraction where whole numbers belong") from error
    return column.astype("category") if name in CATEGORIES else column.astype(float)


def write(frame: pd.DataFrame, to: Path) -> None:
    """Write a Parquet file aside and put it in its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with aside(to) as file:
        frame.to_parquet(Path(file.name), engine="pyarrow", index=False, compression="zstd")
