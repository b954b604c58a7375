"""Who answered, and what was compared: what cases showed of themselves, and where their ids leave the baseline's."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from harness import schema
from harness.schema import REFERENCE
from reports.marks import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number

PROOF = (
    "Behind everything timed, a profiler records one prefill and two decode steps of each process, and what it shows "
    "is held against what the case's code says of itself: a contradiction fails the block. "
)
UNCOUNTED = "This engine launches CUDA graphs of its own, which the case does not count."
JUDGED = ("Timed ids judged", "Near-ties", "Wrong")


def known(run: Run) -> bool:
    """Whether any block of the run says who answered; runs from before that do not."""
    return bool(run.status["identity"].ne("").any())


def blocks_of(run: Run, case: str) -> pd.DataFrame:
    """The blocks of a case that say who answered."""
    return run.status[(run.status["case"] == case) & run.status["identity"].ne("")]


def sentences(run: Run, case: str) -> list[str]:
    """What a case's processes showed, each different one once."""
    return list(dict.fromkeys(blocks_of(run, case)["identity"]))


def identity_table(run: Run) -> Table:
    """One row a case: what was seen, by process where they differ."""
    notes, rows = Notes(), []
    for case, title in run.cases.items():
        own, marks = blocks_of(run, case), case_marks(run, case, notes)
        if own.empty:
            rows.append([Cell(title, marks), *[Cell(DASH, (notes.mark(run.missing(case)),))] * 6])
            continue
        said = sentences(run, case)
        proven = f"{int(own['identity'].str.startswith('proven').sum())} of {len(own)} processes"
        cells = [
            Cell(proven, tuple(notes.mark(f"{title}: {text}.") for text in said)),
            Cell(unlike(own, "sampler")), Cell(unlike(own, "modules")), Cell(spread(own["kernels"])),
            Cell(spread(own["graph_launches"])), answered(own, notes),
        ]  # fmt: skip
        rows.append([Cell(title, marks), *cells])
    head = heads(
        "Case", "Proven", "Sampler", "Modules", "Different kernels", "Graphs launched in the pass",
        "Samples by a graph", left=("Case", "Proven", "Sampler"), wide=("Modules",),
    )  # fmt: skip
    frame = run.status.reindex(columns=["case", "block", "state", "engine", "identity", "modules", "sampler", "kernels",
                                        "graph_launches", "replayed"])  # fmt: skip
    facts = f"{PROOF}identity.csv has the names of all kernels. {run.facts()}"
    return Table("identity", "Who answered", head, rows, notes, facts, run.smoke, frame)


def answered(own: pd.DataFrame, notes: Notes) -> Cell:
    """Of the timed samples those that a graph answered; a dash where graphs were launched and the case counts none."""
    counted = own[["replays", "ungraphed"]].fillna(0).sum(axis=1).gt(0)
    hidden = own["graph_launches"].gt(0) & ~counted & own["replayed"].str.match("0 of |$")
    words = unlike(own[~hidden], "replayed")
    return Cell(words, (notes.mark(UNCOUNTED),) if hidden.any() else ())


def unlike(own: pd.DataFrame, column: str) -> str:
    """The different texts of a case's processes."""
    return "; or ".join(dict.fromkeys(text for text in own[column] if text)) or DASH


def spread(values: pd.Series) -> str:
    """A count, or the least and the most of it."""
    found = values.dropna()
    if found.empty:
        return DASH
    low, high = int(found.min()), int(found.max())
    return str(low) if low == high else f"{low} to {high}"


def footnoted(run: Run, table: Table) -> Table:
    """The table with a footnote at each case's row on what answered there."""
    titles = {title: case for case, title in run.cases.items()}
    rows = []
    for row in table.rows:
        said = sentences(run, titles[row[0].text]) if row[0].text in titles else []
        marks = tuple(table.notes.mark(f"{row[0].text}: {text}.") for text in said)
        rows.append([replace(row[0], marks=(*row[0].marks, *marks)), *row[1:]])
    return replace(table, rows=rows)


def compared(run: Run) -> bool:
    """Whether equivalence.csv says where ids first differ; that of an older run does not."""
    return bool(run.equivalence["timed_tokens_uncompared"].notna().any())


def divergence_table(run: Run) -> Table:
    """One row a case: where its ids first differ from the baseline's, and what could not be compared."""
    notes, rows = Notes(), []
    for case, title in run.cases.items():
        own = run.equivalence[run.equivalence["case"] == case]
        if case == REFERENCE or own.empty:
            continue
        decoded = own[["decode_tokens_compared", "decode_first_divergence"]].iloc[0]
        rows.append(
            [
                Cell(title, case_marks(run, case, notes)),
                Cell(earliest(own, "first_divergence", "tokens_compared")),
                Cell(earliest(own, "timed_first_divergence", "timed_tokens_compared")),
                Cell(number(own["timed_tokens_uncompared"].sum(min_count=1), 0)),
                Cell(position(*map(float, decoded))),
            ]
        )
    head = heads(
        "Case", "Teacher-forced: first step with another id", "Timed: first request with another id",
        "Timed requests not compared", "Decode: context at the first other id", left=("Case",),
    )  # fmt: skip
    facts = (
        "Step 0 is behind the prompt, and request 0 the first of its length; the earliest over prompt lengths. "
        "Requests that were not compared are of blocks that the baseline does not have. In a decode sequence one other "
        "id changes all behind it, so only the first says something; near-ties of random weights are enough for it. "
        f"{run.facts()}"
    )
    title = "Where greedy ids leave the baseline's"
    return Table("divergence", title, head, rows, notes, facts, run.smoke, run.equivalence)


def judged(run: Run) -> bool:
    """Whether the baseline judged timed ids; in older runs, and where nothing was to be judged, it did not."""
    columns = list(schema.EQUIVALENCE_JUDGED)
    return set(columns) <= set(run.equivalence) and bool(run.equivalence[columns].notna().any(axis=None))


def judged_cells(found: pd.DataFrame) -> list[Cell]:
    """How many timed ids of a case were judged, how many are near-ties, and how many wrong: requests and decode."""
    timed, decode = schema.EQUIVALENCE_JUDGED[:3], schema.EQUIVALENCE_JUDGED[3:]
    sums = [
        pd.concat([found[one], found[other].iloc[:1]]).sum(min_count=1)
        for one, other in zip(timed, decode, strict=True)
    ]
    return [Cell(number(float(total), 0)) for total in sums]


def not_judged(run: Run) -> str:
    """A sentence on a referee that failed, empty where none did."""
    why = run.manifest.get("not_judged")
    return f"The timed ids were not judged: {why}. " if why else ""


def earliest(own: pd.DataFrame, column: str, counted: str) -> str:
    """The least place over prompt lengths, `none` where ids never differ, a dash where none was compared."""
    return position(float(own[counted].sum()), float(own[column].min()))


def position(counted: float, place: float) -> str:
    """A place, `none`, or a dash where nothing was compared."""
    if math.isnan(counted) or counted == 0:
        return DASH
    return "none" if math.isnan(place) else f"{place:.0f}"
