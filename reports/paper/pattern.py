"""Whether the published pattern shows in a run under the paper's protocol, and where it does not, why."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.paper.measures import HYBRID, decoder, latencies, requests
from reports.paper.runs import PAPER, Missing, Runs, absent
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number

GRAPHS = "cuda_graph"
SLOWER, SHORTEST = 2.0, 100
"""How many times JIT+CUDA's the mean TTFT of CUDA Graph is to be, and the length from which on."""
APART = 0.05
"""How far apart the P99 of the two may lie, as a part of the smaller."""
GROWTH, NEAR = 1.5, 10
"""How much a decode step is to grow from the first contexts to the last, and how many contexts at each end count."""


@dataclass(frozen=True)
class Part:
    """One part of the pattern: its bar, what was measured, whether it shows, and why not."""

    what: str
    bar: str
    measured: str
    shows: bool | None
    why: str = ""


def parts(run: Run) -> list[Part]:
    """The three parts; what a run lacks shows neither way."""
    found = []
    for judge in (slower, alike, growing, growing_with_all):
        try:
            found.append(judge(run))
        except Missing as error:
            found.append(Part(WHAT[judge.__name__], "", "", None, str(error)))
    return found


WHAT = {
    "slower": f"CUDA Graph pays its captures: TTFT from {SHORTEST} tokens on over JIT+CUDA's",
    "alike": "Warm, graphs with and without JIT are alike: P99 of the two",
    "growing": "Without a KV cache a decode step grows with the context: JIT+CUDA as the protocol has it",
    "growing_with_all": "The same with a graph for each context",
}


def both(run: Run, metric: str) -> pd.DataFrame:
    """TTFT or P99 of the two cases with graphs. Raises Missing."""
    for case in (GRAPHS, HYBRID):
        if case not in run.cases or not run.ended_well(case):
            raise Missing(run.missing(case) if case in run.cases else f"{case} is not in this run.")
    return latencies(run, metric)[[GRAPHS, HYBRID]]


def slower(run: Run) -> Part:
    """The ratio of mean TTFT at each length from 100 on."""
    table = both(run, "ttft")
    ratios = (table[GRAPHS] / table[HYBRID])[table.index >= SHORTEST]
    if ratios.empty or ratios.isna().any():
        raise Missing(f"The run lacks lengths from {SHORTEST} tokens on.")
    low = ratios[ratios < SLOWER]
    why = "" if low.empty else f"Below the bar at {listed(low)} tokens: {captures_at(run, low)}"
    measured = f"{number(ratios.min())} to {number(ratios.max())} times"
    return Part(WHAT["slower"], f"at least {SLOWER:g} times at each length", measured, low.empty, why)


def captures_at(run: Run, low: pd.Series) -> str:
    """How many of CUDA Graph's requests at some lengths paid a capture."""
    asked = requests(run, "ttft")
    own = asked[(asked["case"] == GRAPHS) & asked["prompt_length"].isin(low.index)]
    return f"{int((own['captures'] > 0).sum())} of the {len(own)} requests of CUDA Graph hold a capture there."


def alike(run: Run) -> Part:
    """P99 at each length; where they lie apart, whether the medians of the same requests do too."""
    table = both(run, "p99")
    apart = table.max(axis=1) / table.min(axis=1) - 1
    if apart.isna().any():
        raise Missing("The run lacks a P99.")
    far = apart[apart > APART]
    why = "" if far.empty else f"Apart at {listed(far)} tokens: {reason(run, far)}"
    measured = f"at most {number(100 * apart.max(), 1)} % apart"
    return Part(WHAT["alike"], f"within {100 * APART:g} % at each length", measured, far.empty, why)


def reason(run: Run, far: pd.Series) -> str:
    """How far apart the medians of the same requests are, where P99 lies apart."""
    medians = requests(run, "p99").groupby(["prompt_length", "case"])["latency_ms"].median().unstack("case")
    own = medians.loc[far.index, [GRAPHS, HYBRID]]
    parts = 100 * (own.max(axis=1) / own.min(axis=1) - 1)
    last = run.cases[str(own.mean().idxmax())]
    by = f"{number(parts.max(), 1)} % in the median and by {number(100 * far.max(), 1)} % in P99"
    return f"{last} is the slower by {by}."


def growing(run: Run) -> Part:
    """JIT+CUDA with the published capture set and cap."""
    return growth(run, "growing", HYBRID)


def growing_with_all(run: Run) -> Part:
    """The case that has a graph for each context. Raises Missing without one."""
    if decoder(run) == HYBRID:
        raise Missing("The run has no case with a graph for each context.")
    return growth(run, "growing_with_all", decoder(run))


def growth(run: Run, part: str, case: str) -> Part:
    """The mean of a case's last contexts over that of its first. Raises Missing."""
    if case not in run.cases:
        raise Missing(f"{case} is not in this run.")
    samples = run.samples[(run.samples["case"] == case) & (run.samples["metric"] == "decode")]
    own = samples.groupby("context_length")["latency_ms"].mean()
    if len(own) < 2 * NEAR:
        raise Missing(run.missing(case) if samples.empty else "The run has too few decode steps.")
    first, last = float(own.iloc[:NEAR].mean()), float(own.iloc[-NEAR:].mean())
    grown, contexts = last / first, f"contexts {own.index[0]:.0f} to {own.index[-1]:.0f}"
    measured = f"{number(grown)} times over {contexts}, {number(first)} to {number(last)} ms"
    why = "" if grown >= GROWTH else f"{run.cases[case]}: {without_graph(run, case, samples)}"
    return Part(WHAT[part], f"at least {GROWTH:g} times", measured, grown >= GROWTH, why)


def without_graph(run: Run, case: str, samples: pd.DataFrame) -> str:
    """What the steps of a case ran on."""
    lost = int((samples["ungraphed"] > 0).sum())
    if not lost:
        return f"all {len(samples)} steps had a graph."
    most = run.manifest["config"]["cases"][case].get("graph", {}).get("max_graphs", "a few")
    busy = int((samples.get("capturing", pd.Series(0, samples.index)) > 0).sum())
    return (
        f"{lost} of {len(samples)} steps ran without a graph, and {busy} beside a capture: at most {most} graphs are "
        "kept, a sequence asks for each context once, and its graph comes when the step is over."
    )


def listed(found: pd.Series) -> str:
    """Lengths as words."""
    return ", ".join(f"{length:.0f}" for length in found.index)


def pattern_table(runs: Runs) -> Table:
    """A row a part."""
    notes, run = Notes(), runs.paper
    found = [Part(what, "", "", None, absent(PAPER)) for what in WHAT.values()] if run is None else parts(run)
    rows = []
    for part in found:
        marks = (notes.mark(part.why),) if part.why else ()
        verdict = DASH if part.shows is None else "yes" if part.shows else "no"
        rows.append([Cell(part.what), Cell(part.bar), Cell(part.measured), Cell(verdict, marks, part.shows is False)])
    head = heads("The published pattern", "Bar", "Measured, paper's protocol", "Shows", left=("Shows",),
                 wide=("The published pattern", "Bar", "Measured, paper's protocol"))  # fmt: skip
    frame = pd.DataFrame([vars(part) for part in found])
    planned = [] if run is None else [run.sweep["ttft_iterations"], run.sweep.get("p99_iterations", 0)]
    counts = [int(count) for count in planned if count != "auto"]
    facts = "" if run is None else run.facts(counts)
    title = "The published pattern under the paper's protocol"
    return Table("pattern", title, head, rows, notes, facts, bool(run and run.smoke), frame)
