"""Every average, speed-up and count that the published texts state, computed again from their own rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from reports.paper.published import METRICS, SOURCES, TITLES, Published
from reports.table import Cell, Notes, Table, heads, number

HYBRID, TENSORRT = "jit_cuda_graph", "tensorrt_llm"
ROWS_ROUNDING = {"ms": 0.005, "x": 0.002}
"""What the rounding of the rows can move a figure by, in its own unit; a speed-up's as a part of it."""
NAMES = {"ttft": "TTFT", "p99": "P99"}
RULE = "Computed as"


@dataclass(frozen=True)
class Claim:
    """One stated figure; `stated` as it was written.

    `explained`: what gives it where the rows do not. `slack`: what the rounding of other stated figures may move it by.
    """

    source: str
    what: str
    stated: str
    unit: str
    found: float
    rule: str
    explained: str = ""
    slack: float = 0.0

    @property
    def difference(self) -> float:
        """Stated minus found."""
        return float(self.stated) - self.found

    @property
    def holds(self) -> bool:
        """Whether they agree to the last stated decimal, the rounding of the rows allowed for."""
        return close(self.stated, self.unit, self.found, self.slack)


def close(stated: str, unit: str, found: float, slack: float = 0.0) -> bool:
    """Whether `found` could have been written as `stated`. Percentages were stated without decimals."""
    decimals = 0 if unit == "%" else len(stated.partition(".")[2])
    slack += ROWS_ROUNDING.get(unit, 0.0) * (found if unit == "x" else 1.0)
    return abs(float(stated) - found) <= 0.5 * 10**-decimals + slack + 1e-9


def audit(paper: Published) -> list[Claim]:
    """All claims that can be computed again, in the order of the texts."""
    return [*comparisons(paper), *experiments(paper)]


def comparisons(paper: Published) -> list[Claim]:
    """Those about the five cases."""
    return [*averages(paper), *speedups(paper), *wins(paper), *reduction(paper), *summaries(paper)]


def experiments(paper: Published) -> list[Claim]:
    """Those about the hybrid's own experiments."""
    return [*decode(paper), *captures(paper), *ablation(paper)]


def stated(paper: Published, **named: str) -> Iterator[pd.Series]:
    """The stated figures with these values in their columns."""
    found = paper.stated
    for column, value in named.items():
        found = found[found[column] == value]
    for _, row in found.iterrows():
        yield row


def averages(paper: Published) -> Iterator[Claim]:
    """Averages over the nine lengths."""
    for row in stated(paper, quantity="average"):
        mean = float(paper.rows(row["source"], row["table"])[row["case"]].mean())
        what = f"average {NAMES[row['table']]}, {TITLES[row['case']]}"
        yield Claim(row["source"], what, row["value"], row["unit"], mean, "mean of its nine rows")


def speedups(paper: Published) -> Iterator[Claim]:
    """Speed-ups of one case over another: the ratio of their averages over the rows."""
    for row in paper.stated[paper.stated["table"].str.startswith("speedup_of_")].itertuples():
        over = str(row.table).removeprefix("speedup_of_").removesuffix("_over")
        table = paper.rows(str(row.source), str(row.quantity)).mean()
        found = float(table[str(row.case)] / table[over])
        what = f"{NAMES[str(row.quantity)]}, {TITLES[over]} over {TITLES[str(row.case)]}"
        said = (
            ""
            if close(str(row.value), "x", found)
            else explain(paper, str(row.quantity), over, str(row.case), str(row.source), str(row.value))
        )
        yield Claim(str(row.source), what, str(row.value), "x", found, "ratio of the rows' averages", said)


def explain(paper: Published, metric: str, over: str, case: str, said_in: str, value: str) -> str:
    """Which other rule gives the stated speed-up: other averages of the same rows, or averages that were stated."""
    for source in dict.fromkeys([said_in, "readme", "draft"]):
        ratios = paper.rows(source, metric)[case] / paper.rows(source, metric)[over]
        of = f"of the {SOURCES[source].lower()}"
        rules = {
            f"ratio of the averages that are stated {of}": paper.value(source, metric, "average", case)
            / paper.value(source, metric, "average", over),
            f"mean of the nine ratios {of}": float(ratios.mean()),
            f"ratio at 10 tokens {of}": float(ratios.loc[10]),
            f"largest ratio {of}": float(ratios.max()),
            f"ratio of the rows' averages {of}": float(
                paper.rows(source, metric)[case].mean() / paper.rows(source, metric)[over].mean()
            ),
        }
        for rule, found in rules.items():
            if close(value, "x", found):
                return rule
    return "no rule tried gives it"


def wins(paper: Published) -> Iterator[Claim]:
    """Comparisons that the hybrid wins: nine lengths by two metrics."""
    for row in stated(paper, quantity="comparisons_won"):
        tables = [paper.rows(row["source"], metric) for metric in METRICS]
        if row["table"] == "wins":
            count = sum(int((table.idxmin(axis=1) == HYBRID).sum()) for table in tables)
            what, rule = "comparisons won by JIT+CUDA", "lengths and metrics where it is the fastest of the five"
        else:
            count = sum(int((table[HYBRID] < table[TENSORRT]).sum()) for table in tables)
            what, rule = "comparisons won over TensorRT-LLM", "lengths and metrics where it is the faster of the two"
        yield Claim(row["source"], what, row["value"], row["unit"], float(count), rule)


def reduction(paper: Published) -> Iterator[Claim]:
    """The largest reduction of TTFT against TensorRT-LLM."""
    for row in stated(paper, quantity="largest_reduction"):
        best = {}
        for source in ("readme", "draft"):
            table = paper.rows(source, "ttft")
            best[source] = (1 - table[HYBRID] / table[TENSORRT]) * 100
        source = max(best, key=lambda name: float(best[name].max()))
        at = int(str(best[source].idxmax()))
        rule = f"largest of all lengths, against TensorRT-LLM: at {at} tokens, {SOURCES[source].lower()}"
        rest = float(best[source].drop(at).max())
        note = f"at no other length more than {rest:.0f} %; the mean of {at} tokens holds cold starts"
        yield Claim(
            row["source"], "largest reduction of TTFT", row["value"], "%", float(best[source].max()), rule, note
        )


def decode(paper: Published) -> Iterator[Claim]:
    """Decode: totals, throughput and scaling, and the ranges against the means."""
    table = paper.ranges
    if table.empty:
        return
    tokens = table["tokens"].sum()
    short = table[table["context_to"] <= 100]
    long = table[table["context_from"] > 100]
    said = {str(row["quantity"]): row for row in stated(paper, table="decode")}
    mean = float(said["mean"]["value"])
    rules = {
        "tokens": (float(tokens), "sum of the ranges' tokens"),
        "mean": (weighted(table), "mean of the ranges, weighted by tokens"),
        "mean_context_le_100": (weighted(short), "the same, of contexts up to 100"),
        "mean_context_gt_100": (weighted(long), "the same, of contexts above 100"),
        "total": (mean * float(tokens), "stated mean times tokens"),
        "throughput": (1000 / mean, "1000 over the stated mean"),
        "scaling_factor": (
            float(said["mean_context_gt_100"]["value"]) / float(said["mean_context_le_100"]["value"]),
            "ratio of the two stated means, above and up to 100",
        ),
    }
    for quantity, (found, rule) in rules.items():
        row = said[quantity]
        slack = 0.005 * float(tokens) if quantity == "total" else 0.0
        what = f"decode, {quantity.replace('_', ' ')}"
        yield Claim(row["source"], what, row["value"], row["unit"], found, rule, slack=slack)


def weighted(table: pd.DataFrame) -> float:
    """Mean of the ranges' means, weighted by their tokens, in ms."""
    return float((table["tokens"] * table["mean_ms"]).sum() / table["tokens"].sum())


def captures(paper: Published) -> Iterator[Claim]:
    """Captures and what they hold: counts that have to agree with each other."""
    every, rolled = ("draft", "capture_all_lengths"), ("draft", "rolling_capture")
    captured = paper.value(*every, "captured")
    memory = paper.value(*every, "weights") + paper.value(*every, "graph_pool")
    kept = paper.value(*rolled, "graphs_created") - paper.value(*rolled, "graphs_deleted")
    again = "the count of the coverage experiment"
    for table, quantity, case, found, rule in (
        (every, "first_failing_length", HYBRID, captured + 1, "captured, plus 1"),
        (every, "allocated", HYBRID, memory, "weights and graph pool together"),
        (rolled, "graphs_kept", HYBRID, kept, "created minus deleted"),
        (("draft", "ablation"), "lengths_captured_of_500", HYBRID, captured, again),
        (("draft", "coverage"), "graphs", "full_1_500", captured, again),
    ):
        (row,) = stated(paper, source=table[0], table=table[1], quantity=quantity, case=case)
        what = f"{table[1].replace('_', ' ')}, {quantity.replace('_', ' ')}"
        yield Claim(table[0], what, row["value"], row["unit"], found, rule)


def ablation(paper: Published) -> Iterator[Claim]:
    """Speed-ups of the ablation from its means."""
    native = paper.value("draft", "ablation", "mean_latency", "native_python")
    for row in stated(paper, table="ablation", quantity="speedup"):
        found = native / paper.value("draft", "ablation", "mean_latency", row["case"])
        name = TITLES.get(row["case"], "native Python")
        yield Claim(
            row["source"], f"ablation, speed-up of {name}", row["value"], "x", found, "ratio of its stated means"
        )


def summaries(paper: Published) -> Iterator[Claim]:
    """The summary of warm TTFT against the rows without the first length, which pays the cold start."""
    warm = paper.rows("draft", "ttft")[HYBRID].drop(10)
    rules = {"mean": float(warm.mean()), "min": float(warm.min()), "max": float(warm.max())}
    for row in stated(paper, table="ttft_warm_summary"):
        what = f"warm TTFT, {row['quantity']}"
        yield Claim(
            row["source"], what, row["value"], row["unit"], rules[row["quantity"]], "of the TTFT rows from 50 tokens on"
        )


def audit_tables(paper: Published) -> list[Table]:
    """The audit in two tables, each short enough for a page."""
    return [
        audit_table("audit", "Stated figures of the five cases, computed again", comparisons(paper)),
        audit_table("audit_experiments", "Stated figures of the experiments, computed again", experiments(paper)),
    ]


def audit_table(name: str, title: str, claims: list[Claim]) -> Table:
    """A line a claim."""
    notes, wrong = Notes(), sum(not claim.holds for claim in claims)
    facts = (
        f"{wrong} of {len(claims)} stated figures do not follow from the rows of the text that states them. They agree "
        "where the recomputed figure rounds to the stated one, the rounding of the rows allowed for. Nothing here was "
        "measured by this harness."
    )
    left = ("Text", "Figure", "Agrees")
    columns = heads(*left[:2], "Stated", "Recomputed", "Difference", "Agrees", RULE, left=left, wide=(RULE,))
    rows = [row_of(claim, notes) for claim in claims]
    return Table(name, title, columns, rows, notes, facts, False, audit_frame(claims))


def row_of(claim: Claim, notes: Notes) -> list[Cell]:
    """One line of the table."""
    marks = (notes.mark(f"{claim.explained[0].upper()}{claim.explained[1:]}."),) if claim.explained else ()
    digits = max(len(claim.stated.partition(".")[2]), 2 if claim.unit in ("ms", "x") else 0)
    return [
        Cell(SOURCES[claim.source]),
        Cell(claim.what),
        Cell(f"{claim.stated} {claim.unit}", marks),
        Cell(number(claim.found, digits)),
        Cell(number(claim.difference, digits)),
        Cell("yes" if claim.holds else "no", bold=not claim.holds),
        Cell(claim.rule),
    ]


def audit_frame(claims: list[Claim]) -> pd.DataFrame:
    """The numbers behind the table."""
    return pd.DataFrame(
        {
            "source": [claim.source for claim in claims],
            "figure": [claim.what for claim in claims],
            "stated": [float(claim.stated) for claim in claims],
            "unit": [claim.unit for claim in claims],
            "recomputed": [claim.found for claim in claims],
            "difference": [claim.difference for claim in claims],
            "agrees": [int(claim.holds) for claim in claims],
            "rule": [claim.rule for claim in claims],
            "explained_by": [claim.explained for claim in claims],
        }
    )
