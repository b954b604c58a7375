"""`python -m reports.coverage --to results/coverage`: do the intervals and tests of a report keep what they promise?

Simulated, seeded: how often an interval holds the quantile of a known distribution, also after measuring until it was
narrow; and between processes that differ as those of the published runs do, how often a test finds a difference where
there is none, and how often the intervals of decode and of `compare` hold.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from harness.output.spoken import spoken
from reports.aa import COUNTED, EVEN, INTERVAL_DRAWS, Source, null_rates, sources
from reports.adaptive_coverage import adaptive_frame, adaptive_table
from reports.decode_coverage import Sequences, decode_frame, decode_sources, decode_table
from reports.quantiles import Array, interval_ranks
from reports.ratio_coverage import ratio_frame, ratio_table
from reports.table import DASH, Cell, Notes, Table, heads, share
from reports.write import write_table

SEED = 20260423
DRAWS = 10_000
BATCH = 1000
NULL_SHARE = 5  # a draw of processes holds 54 comparisons, that of a quantile one; whole runs take longer each
SIZES = (190, 368, 380, 385, 1191, 1985)
RATES = (*COUNTED, "naive", "interval", "p50_interval", "p99_interval")
QUANTILES = {"P50": 0.50, "P90": 0.90, "P99": 0.99}
DISTRIBUTIONS = {
    "lognormal, sigma 0.1": stats.lognorm(0.1),
    "Pareto, shape 2.5": stats.pareto(2.5),
    "Student's t, 3 degrees of freedom": stats.t(3),
}
PUBLISHED = Path(__file__).resolve().parents[1] / "results" / "published"
RUNS = (
    "h200-2026-11-21-default",
    "h200-2026-11-22-default-2",
    "h200-2026-11-22-default-3",
    "h200-2026-11-22-default-4",
    "h200-2026-11-23-default-4",
)
"""One run of two processes a case and one of three, which the older design is imitated from too, and three of five, the
last of them A of README's results."""


def exact(n: int, p: float) -> float:
    """The coverage of the interval by ranks of n independent samples of any continuous distribution; NaN without."""
    ranks = interval_ranks(n, p)
    if ranks is None:
        return math.nan
    low, high = ranks
    return float(stats.binom.cdf(high - 1, n, p) - stats.binom.cdf(low - 1, n, p))


def simulated(draw: Callable[[tuple[int, int]], Array], truth: float, n: int, p: float, draws: int) -> float:
    """The share of `draws` samples of n whose interval by ranks holds the true quantile; NaN without an interval."""
    ranks = interval_ranks(n, p)
    if ranks is None:
        return math.nan
    ends, hits = [rank - 1 for rank in ranks], 0
    for start in range(0, draws, BATCH):
        ordered = np.partition(draw((min(BATCH, draws - start), n)), ends, axis=1)
        hits += int(((ordered[:, ends[0]] <= truth) & (truth < ordered[:, ends[1]])).sum())
    return hits / draws


def coverage_frame(draws: int = DRAWS, sizes: Sequence[int] = SIZES) -> pd.DataFrame:
    """One row a distribution, quantile and n: simulated and exact coverage of the 95 % interval."""
    records = []
    for name, law in DISTRIBUTIONS.items():
        for number, (title, p) in enumerate(QUANTILES.items()):
            for n in sizes:
                rng = np.random.default_rng([SEED, n, number])
                found = simulated(lambda shape, law=law, rng=rng: law.rvs(shape, random_state=rng),  # type: ignore[misc]
                                  float(law.ppf(p)), n, p, draws)  # fmt: skip
                records.append(
                    {"distribution": name, "quantile": title, "n": n, "draws": draws, "coverage": found,
                     "exact": exact(n, p)}
                )  # fmt: skip
    return pd.DataFrame(records)


def coverage_table(frame: pd.DataFrame) -> Table:
    """Coverage by distribution and quantile, a column for each n, and the exact one below."""
    sizes = sorted(frame["n"].unique())
    kinds = [*dict.fromkeys(zip(frame["distribution"], frame["quantile"], strict=True))]
    rows = []
    for name, title in kinds:
        own = frame[(frame["distribution"] == name) & (frame["quantile"] == title)].set_index("n")["coverage"]
        rows.append([Cell(name), Cell(title), *(share(own[n]) for n in sizes)])
    for title in QUANTILES:
        own = frame[frame["quantile"] == title].drop_duplicates("n").set_index("n")["exact"]
        rows.append([Cell("any continuous one, exactly"), Cell(title), *(share(own[n]) for n in sizes)])
    head = heads("Distribution", "Quantile", *(f"n = {n}" for n in sizes), left=("Distribution", "Quantile"))
    draws = int(frame["draws"].iloc[0])
    facts = (
        f"{draws} simulated samples each, independent; two-sided 95 % intervals by rank, each tail at most 2.5 %, so a "
        f"little above 95 %. {DASH}: n has no such interval (P99 below 368)."
    )
    title = "How often an interval holds the true quantile"
    return Table("coverage", title, head, rows, Notes(), facts, False, frame, frozenset({len(kinds)}))


def null_table(frame: pd.DataFrame) -> Table:
    """False positives by source and kind of process: of a cell, of a whole table after Holm, and of a naive test."""
    rows = [
        [
            Cell(f"{r['blocks']} × {r['requests']}"), Cell(str(r["source"])), Cell(f"{r['block_sd']:.2%}"),
            Cell(str(r["effects"])), *(share(r[column]) for column in RATES),
        ]
        for r in frame.to_dict("records")
    ]  # fmt: skip
    head = heads(
        "Blocks", "Requests of", "Between processes", "Spread of processes", "TTFT cell", "P99 cell", "Over lengths",
        "Row after Holm", "Whole table", "Some winner", "Requests as units",
        "Mean's interval holds", "Average TTFT's", "Average P99's",
        left=("Blocks", "Requests of", "Spread of processes"),
    )  # fmt: skip
    facts = (
        f"One case under four names, {int(frame['draws'].iloc[0])} times, at 9 lengths; blocks × requests a length. "
        "Requests come in runs of neighbours out of the published ones; blocks are shifted at random, as far as those "
        "of the published runs lie apart (standard deviation of log medians). Shares of comparisons with p at most 5 % "
        "(cell, over lengths); of rows with any difference after Holm's correction over their 6 pairs; of "
        "tables with any in their 9 rows. Some winner: tables in which one of two alike, with all others far above, is "
        "called the winner of any of the 9 rows; of a given row it is as often as a cell differs, because Holm's "
        "correction leaves the last of a row's pairs as it is. "
        "For contrast: a rank-sum test that takes requests for independent. Last: how often the block-cluster "
        "bootstrap's interval of a mean at one length holds the true one, and Student's those of averages over "
        "lengths, each of 95 %; a burst that few processes have is in no interval made from others. A heavy "
        f"tail's mean has no limit: this one leaves out processes rarer than one in {EVEN}. Two speeds show the limit "
        "of few blocks: with all of one case fast and all of another slow nothing but more blocks tells processes from "
        "cases."
    )
    title, rules = "Differences found where there are none", np.flatnonzero(frame["blocks"].diff().fillna(0)).tolist()
    return Table("false_positives", title, head, rows, Notes(), facts, False, frame, frozenset(rules))


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports.coverage", description=__doc__)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the tables are written")
    parser.add_argument("--draws", type=int, default=DRAWS, help="simulated samples of each kind")
    return parser.parse_args(argv)


def published_sources() -> list[Source]:
    """The cases of the published runs whose requests and processes are imitated."""
    return [source for name in RUNS for source in sources(PUBLISHED / name)]


def published_steps() -> list[Sequences]:
    """Their cases whose decode steps are imitated."""
    return [source for name in RUNS for source in decode_sources(PUBLISHED / name)]


def tables(timed: list[Source], stepped: list[Sequences], draws: int) -> Iterator[Table]:
    """Each table once it is simulated."""
    few = max(1, draws // NULL_SHARE)
    yield coverage_table(coverage_frame(draws))
    yield adaptive_table(adaptive_frame(few, SEED))
    yield decode_table(decode_frame(stepped, few, SEED))
    yield ratio_table(ratio_frame(timed, stepped, min(few, INTERVAL_DRAWS), SEED))
    yield null_table(null_rates(timed, few, SEED))


def main(argv: Sequence[str]) -> int:
    """Write the tables; 2 and one sentence on stderr when a published run is not there."""
    options = arguments(argv)
    try:
        timed, stepped = published_sources(), published_steps()
    except ValueError as error:
        print(f"reports.coverage: {error}", file=sys.stderr)
        return 2
    options.to.mkdir(parents=True, exist_ok=True)
    for table in tables(timed, stepped, options.draws):
        write_table(table, options.to)
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
