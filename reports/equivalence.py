"""Do the cases compute what the baseline computes? One table, a row a case."""

from __future__ import annotations

import math

import pandas as pd

from reports import proofs
from reports.marks import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads


def equivalence_table(run: Run) -> Table:
    """One row a case: tokens that agree with the baseline, the worst logit error, the verdict. The csv has lengths."""
    notes, rows = Notes(), []
    judged = proofs.JUDGED if proofs.judged(run) else ()
    for case, title in run.cases.items():
        found = run.equivalence[run.equivalence["case"] == case]
        if case == "baseline":
            blank = [Cell("")] * (3 + len(judged))
            rows.append([Cell(title, case_marks(run, case, notes)), Cell("reference"), *blank])
        elif found.empty:
            marks = case_marks(run, case, notes)
            dash = Cell(DASH, (notes.mark(lacking(run, case)),))
            rows.append([Cell(title, marks), Cell("not compared"), *[dash] * (3 + len(judged))])
        else:
            counted = proofs.judged_cells(found) if judged else []
            rows.append(
                [Cell(title, case_marks(run, case, notes)), *equivalence_cells(found, run.judged(case)), *counted]
            )
    head = heads(
        "Case", "Verdict", "Largest relative logit error", "Teacher-forced tokens equal", "Timed tokens equal",
        *judged, left=("Case", "Verdict"),
    )  # fmt: skip
    tolerance = run.sweep.get("equivalence", {}).get("tolerance")
    limit = f", at most {tolerance:g} passes" if tolerance is not None else ""
    title = f"Equivalence with the baseline{limit}"
    facts = f"{proofs.not_judged(run)}{run.facts()}"
    return Table("equivalence", title, head, rows, notes, facts, run.smoke, run.equivalence)


def lacking(run: Run, case: str) -> str:
    """Why a case was not compared at all."""
    return run.missing(case) if case not in set(run.samples["case"]) else run.uncompared(case)


def equivalence_cells(found: pd.DataFrame, judged: bool) -> list[Cell]:
    """Verdict, error and the two counts of one case, over all prompt lengths. `judged`: whether its ids were."""
    error = found["max_relative_logit_error"].max(skipna=False)
    if found["passed"].eq(False).any():
        verdict = Cell("FAILED")
    elif found["passed"].notna().all():
        verdict = Cell("passed")
    else:
        verdict = Cell("by ids alone" if judged else "not compared")
    forced = counts(found["tokens_equal"], found["tokens_compared"])
    timed = counts(found["timed_tokens_equal"], found["timed_tokens_compared"])
    return [verdict, Cell(DASH if math.isnan(error) else f"{error:.1e}"), Cell(forced), Cell(timed)]


def counts(equal: pd.Series, compared: pd.Series) -> str:
    """`equal / compared`, a dash where nothing was compared."""
    return f"{equal.sum():.0f} / {compared.sum():.0f}" if compared.sum() else DASH
