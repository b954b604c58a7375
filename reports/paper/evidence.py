"""What a claim is judged on: a run's figures by role, at a protocol or at one step of the attribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from reports.experiments import ladder
from reports.paper.audit import NAMES
from reports.paper.measures import latencies
from reports.paper.published import TITLES
from reports.paper.runs import Missing, engine, stand_in
from reports.run import Run

STEPS = {step.name: step.confound for step in ladder.STEPS}
"""The steps of the attribution run in their order, and the confound that each removes."""
CLOSE = 0.05
"""How near to its threshold a figure may be without a footnote."""
CARRIED = ("baseline", "stand_in")
"""Roles that few steps change: at the others the latest case before holds."""


@dataclass(frozen=True)
class Evidence:
    """One run; `names` maps a role (the five cases, `stand_in`) to the run's case that has it."""

    run: Run
    names: Mapping[str, str]

    def case(self, role: str) -> str:
        """The case of a role, if it may be counted. Raises Missing with the reason."""
        if role not in self.names:
            raise Missing(f"{TITLES.get(role, 'The published stand-in')} is not in this run.")
        case = self.names[role]
        if not self.run.ended_well(case) or case not in set(self.run.samples["case"]):
            raise Missing(self.run.missing(case))
        if reason := self.run.failed_equivalence(case):
            raise Missing(f"{self.run.cases[case]} fails the comparison with the baseline: {reason}.")
        return case

    def title(self, role: str) -> str:
        """What a role's case is called."""
        return self.run.cases[self.names[role]]

    def has(self, role: str) -> bool:
        """Whether a role's figures may be counted."""
        try:
            self.case(role)
        except Missing:
            return False
        return True

    def values(self, role: str, metric: str) -> pd.Series:
        """TTFT or P99 in ms by length. Raises Missing where the case or a length of it lacks."""
        if metric == "p99" and self.run.study == "attribution":
            raise Missing("The attribution run takes no P99.")
        found = latencies(self.run, metric)[self.case(role)]
        if found.isna().any():
            raise Missing(f"{self.title(role)} has no {NAMES[metric]} at {found[found.isna()].index[0]} tokens.")
        return found

    def average(self, role: str) -> float:
        """Average TTFT in ms. Raises Missing."""
        return float(self.values(role, "ttft").mean())


def of_run(run: Run) -> Evidence:
    """The roles of a comparison: cases have the names of their roles; the stand-in is never the engine."""
    names = {case: case for case in TITLES if case in run.cases and case != "tensorrt_llm"}
    return Evidence(run, names | {role: case for role, case in roles_of_fifth(run).items() if case})


def roles_of_fifth(run: Run) -> dict[str, str]:
    """The engine and the stand-in, empty where the run has none."""
    return {"tensorrt_llm": engine(run), "stand_in": stand_in(run)}


def of_step(run: Run, step: str) -> Evidence:
    """The roles at one step of the attribution run: `<role>_<step>`, for some roles the latest step before."""
    names, order = {}, list(STEPS)
    for role in ("cuda_graph", "jit_cuda_graph", *CARRIED):
        upto = order[: order.index(step) + 1] if role in CARRIED else [step]
        if found := [f"{role}_{at}" for at in upto if f"{role}_{at}" in run.cases]:
            names[role] = found[-1]
    return Evidence(run, names)


def untold(run: Run, last: str, step: str, over: str, case: str) -> str:
    """That noise may be all that a step of the attribution run did to a ratio of averages, empty where it is told from
    noise or has no range."""
    before, now = of_step(run, last), of_step(run, step)
    found = ladder.measured(run, [])
    above, below = ([one.names[over], other.names[case]] for one, other in ((now, before), (before, now)))
    ends = ladder.span(found, above, below)
    if ends.told is not False:
        return ""
    words = f"{now.title(over)} over {now.title(case)}: from {ends.low:.2f} to {ends.high:.2f} times the step before"
    return f"not told from noise, by the processes of {words}"


@dataclass(frozen=True)
class Outcome:
    """What became of a claim's predicate: None where it can't be told; `text` the figures used, `known` what else is.

    `reason`: why it can't be told. `ratios`: the two roles of each ratio of averages that decided.
    """

    holds: bool | None
    text: str = ""
    reason: str = ""
    known: str = ""
    ratios: tuple[tuple[str, str], ...] = ()


def both(*parts: Outcome) -> Outcome:
    """All of several predicates: one that fails decides, else one that can't be told does."""
    values = [part.holds for part in parts]
    holds = False if False in values else None if None in values else True
    texts, reasons, known = ([text for part in parts if (text := getattr(part, name))] for name in
                             ("text", "reason", "known"))  # fmt: skip
    ratios = tuple(pair for part in parts if part.holds is holds for pair in part.ratios)
    return Outcome(holds, "; ".join(texts), " ".join(reasons) if holds is None else "", " ".join(known), ratios)


def at_least(value: float, least: float, text: str) -> Outcome:
    """Whether a figure reaches what is asked for; NaN can't be told. One that is close says so."""
    away = abs(value / least - 1) if least else math.nan
    close = f"{value:.4g} where {least:.4g} decides: {100 * away:.1f} % from it." if away < CLOSE else ""
    return Outcome(None if math.isnan(value) else value >= least, text, known=close)
