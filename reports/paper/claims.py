"""The published claims, each judged by one rule on what was measured under the paper's protocol and controlled."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.paper import predicates
from reports.paper.audit import HYBRID, TENSORRT
from reports.paper.evidence import STEPS, Outcome, of_run, of_step, untold
from reports.paper.predicates import SLACK, Judge, told
from reports.paper.published import Published
from reports.paper.runs import CONTROLLED, NAMES, PAPER, Runs, absent
from reports.run import Run
from reports.table import DASH, Cell, Column, Notes, Table

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable here"
ONLY_UNDER = "reproduced only under "
UNDECIDED = "undecided"
PROTOCOL = STEPS["published"]
SOCKET_SHARE = 5.0
"""Per cent of the latency that the socket is said to stay under; the texts' figures in ms are in stated.csv."""
RULE = (
    f"Rule: a claim is a predicate on figures made by the published rules, and {100 * SLACK:.0f} % of the published "
    "effect are allowed for: what is to be large holds from nine tenths of it upwards, what is to be small up to "
    f"eleven tenths. It holds controlled: {REPRODUCED}. It holds under the paper's protocol alone: {ONLY_UNDER}the "
    "confound that the first step of the attribution run removes at which it stops to hold. Another committed "
    "controlled run, or the controlled end of the attribution run, says otherwise: "
    f"{UNDECIDED}, for two controlled runs differ. Neither: "
    f"{NOT_REPRODUCED}. A run or an engine is missing: {NOT_TESTABLE}."
)


@dataclass(frozen=True)
class Claim:
    """A published claim; `published` and `rule` in words, `judge` its predicate.

    `controlled`: the run that the predicate is evaluated on beside the paper's protocol, for claims on an experiment.
    """

    name: str
    claim: str
    published: str
    rule: str
    judge: Judge
    controlled: str = CONTROLLED


@dataclass(frozen=True)
class Verdict:
    """What a claim came to; `because` are its footnotes."""

    claim: Claim
    paper: Outcome
    controlled: Outcome
    text: str
    because: tuple[str, ...] = ()


def share(effect: float) -> str:
    """Nine tenths of an effect."""
    return f"{(1 - SLACK) * effect:.4g}"


def most(effect: float) -> str:
    """Eleven tenths of an effect."""
    return f"{(1 + SLACK) * effect:.4g}"


def claims(paper: Published) -> list[Claim]:
    """All claims, with thresholds from the stated figures."""
    return [*against_tensorrt(paper), *on_graphs(paper), *in_all(paper), *on_costs(paper)]


def against_tensorrt(paper: Published) -> list[Claim]:
    """Those over TensorRT-LLM."""
    lower = paper.value("abstract", "ttft", "largest_reduction")
    tables = {source: paper.rows(source, "p99") for source in ("draft", "readme")}
    won = {source: int((table[HYBRID] < table[TENSORRT]).sum()) for source, table in tables.items()}
    said = f"{won['draft']} of {len(tables['draft'])} lengths in the draft, {won['readme']} on the front page"
    return [
        Claim("ttft_lower", f"TTFT up to {lower:g} % lower than TensorRT-LLM", f"{lower:g} %",
              f"largest reduction of mean TTFT at a length at least {share(lower)} %", predicates.reduction(lower)),
        Claim("p99_lower", "P99 lower than TensorRT-LLM at every length", said,
              f"P99 lower at {100 * (1 - SLACK):.0f} % of the lengths or more", predicates.lower_p99()),
    ]  # fmt: skip


def on_graphs(paper: Published) -> list[Claim]:
    """Those on what graphs alone and JIT do."""
    over_graphs = paper.value("readme", "speedup_of_jit_cuda_graph_over", "ttft", "cuda_graph")
    speed = paper.value("draft", "speedup_of_cuda_graph_over", "ttft", "baseline")
    counts = [paper.value("draft", "ablation", "lengths_captured_of_500", case) for case in (HYBRID, "cuda_graph")]
    means = [paper.value("draft", "ablation", "mean_latency", case) for case in ("cuda_graph", HYBRID)]
    captured, latency = counts[0] / counts[1], means[0] / means[1]
    return [
        Claim("graphs_fail", "CUDA graphs alone fail",
              f"TTFT {over_graphs:g}× that of JIT+CUDA, {speed:g}× Baseline's speed",
              f"average TTFT at least {share(over_graphs)}× that of JIT+CUDA, and at most {most(speed)}× the speed of "
              "Baseline",
              predicates.all_of(predicates.faster("cuda_graph", HYBRID, over_graphs),
                                predicates.slower("baseline", "cuda_graph", speed))),
        Claim("jit_enables", "JIT enables graphs: more lengths captured with it, and faster than graphs alone",
              f"{counts[0]:.0f} against {counts[1]:.0f} of 500 captured, {means[1]:g} against {means[0]:g} ms",
              f"share of the tried lengths that were captured at least {share(captured)}× that of CUDA Graph, and "
              f"average TTFT of CUDA Graph at least {share(latency)}× that of JIT+CUDA",
              predicates.all_of(predicates.more_captured(captured), predicates.faster("cuda_graph", HYBRID, latency)),
              "ablation"),
    ]  # fmt: skip


def in_all(paper: Published) -> list[Claim]:
    """Those over the Baseline, and the count of wins."""
    over = paper.value("readme", "speedup_of_jit_cuda_graph_over", "ttft", "baseline")
    won, of = paper.value("readme", "wins", "comparisons_won"), 18
    return [
        Claim("over_baseline", f"{over:g}× over Baseline in TTFT", f"{over:g}×",
              f"average TTFT of Baseline at least {share(over)}× that of JIT+CUDA",
              predicates.faster("baseline", HYBRID, over)),
        Claim("wins", f"{won:.0f} of {of} comparisons won", f"{won:.0f} of {of}",
              f"fastest of the five in at least {share(won)} of {of} pairs of length and metric (TTFT, P99)",
              predicates.wins(won, of)),
    ]  # fmt: skip


def on_costs(paper: Published) -> list[Claim]:
    """Those on memory and the socket."""
    every = ("draft", "capture_all_lengths")
    length, graphs = paper.value(*every, "first_failing_length"), paper.value(*every, "captured")
    memory = paper.value(*every, "gpu_memory")
    low, high = (paper.value("draft", "ipc", f"overhead_{end}") for end in ("low", "high"))
    return [
        Claim("out_of_memory", f"Out of memory at length {length:.0f}", f"{graphs:.0f} of 500 captured",
              f"a capture fails for want of memory after {share(graphs)} to {most(graphs)} graphs. Not so: all are "
              f"captured, and graphs and weights would fit the published {memory:g} GiB",
              predicates.out_of_memory(length, graphs, memory), "capture_coverage"),
        Claim("socket", f"The socket costs under {SOCKET_SHARE:g} %", f"{low:g} to {high:g} ms",
              f"adds at most {most(high)} ms and {most(SOCKET_SHARE)} % to the median TTFT of every length (paper's "
              "protocol: client's clock minus server's)", predicates.socket_cost(high, SOCKET_SHARE), "ipc"),
    ]  # fmt: skip


def outcome(claim: Claim, runs: Runs, name: str) -> Outcome:
    """A claim's predicate on the run under one protocol, untold where there is none."""
    run = runs.get(name)
    return told(claim.judge, of_run(run)) if run else Outcome(None, reason=absent(name))


def verdict(claim: Claim, runs: Runs) -> Verdict:
    """The one rule."""
    paper, controlled = outcome(claim, runs, PAPER), outcome(claim, runs, claim.controlled)
    known = known_of(paper, controlled)
    if why := disagreement(claim, runs, controlled):
        return Verdict(claim, paper, controlled, UNDECIDED, (why, *known))
    if controlled.holds:
        return Verdict(claim, paper, controlled, REPRODUCED, known)
    if controlled.holds is None or paper.holds is None:
        reasons = tuple(dict.fromkeys(found.reason for found in (paper, controlled) if found.reason))
        return Verdict(claim, paper, controlled, NOT_TESTABLE, (*reasons, *known))
    if not paper.holds:
        return Verdict(claim, paper, controlled, NOT_REPRODUCED, known)
    if why := contradiction(claim.judge, runs):
        return Verdict(claim, paper, controlled, UNDECIDED, (why, *known))
    confound, why = confound_of(claim.judge, runs)
    return Verdict(claim, paper, controlled, ONLY_UNDER + confound, (why, *known))


def known_of(paper: Outcome, controlled: Outcome) -> tuple[str, ...]:
    """What is known beside the verdict, once where it is the same under both protocols."""
    said = {PAPER: paper.known, CONTROLLED: controlled.known}
    if paper.known == controlled.known:
        return (paper.known,) if paper.known else ()
    return tuple(f"{NAMES[name]}: {text}" for name, text in said.items() if text)


def disagreement(claim: Claim, runs: Runs, controlled: Outcome) -> str:
    """Which other controlled run says the opposite, empty where none does: hosts differ under one kind of GPU."""
    if claim.controlled != CONTROLLED or controlled.holds is None:
        return ""
    for run in runs.others:
        found = told(claim.judge, of_run(run))
        if found.holds is not None and found.holds is not controlled.holds:
            said = "fails" if controlled.holds else "holds"
            return f"It {said} in another controlled run, {run.path.name} ({found.text})."
    return ""


def contradiction(judge: Judge, runs: Runs) -> str:
    """How the predicate fares along an attribution run at whose controlled end it holds, empty where it does not."""
    run = runs.get("attribution")
    if run is None:
        return ""
    found = {step: told(judge, of_step(run, step)) for step in STEPS}
    *_, last = found.values()
    if not last.holds:
        return ""
    fails = [step for step, outcome in found.items() if outcome.holds is False]
    way = f", though not at {len(fails)} of its {len(found)} steps (first {found[fails[0]].text})" if fails else ""
    return f"It holds at the controlled end of the attribution run ({last.text}){way}."


def confound_of(judge: Judge, runs: Runs) -> tuple[str, str]:
    """The confound that the first step removes at which a predicate stops to hold, and what that rests on."""
    run = runs.get("attribution")
    if run is None:
        return PROTOCOL, f"Which confound it is: {absent('attribution')}"
    before = last = ""
    for step, confound in STEPS.items():
        found = told(judge, of_step(run, step))
        if found.holds is None:
            return PROTOCOL, f"Which confound it is can't be told: {found.reason}"
        if not found.holds and not before:
            return (
                PROTOCOL,
                f"Which confound it is can't be told: it does not hold in the attribution run ({found.text}).",
            )
        if not found.holds:
            noise = [untold(run, last, step, *pair) for pair in found.ratios]
            also = f" But this step is {'; '.join(noise)}." if noise and all(noise) else ""
            return confound, f"Attribution run: {before} before this step, {found.text} from it on.{also}"
        before, last = found.text, step
    return PROTOCOL, f"Which confound it is can't be told: it holds at every step of the attribution run ({before})."


def claims_table(paper: Published, runs: Runs) -> Table:
    """A line a claim, with its verdict."""
    found = [verdict(claim, runs) for claim in claims(paper)]
    notes = Notes()
    rows = [row_of(entry, notes) for entry in found]
    heads = ("Claim", "Published", "Ours, paper's protocol", "Ours, controlled", "Verdict", "Holds where")
    columns = [Column(Cell(head), "left", wide=True) for head in heads]
    used = dict.fromkeys([PAPER, *(entry.claim.controlled for entry in found), "attribution"])
    known = {name: run for name in used if (run := runs.get(name))}
    made_of: dict[str, list[str]] = {}
    for name, run in known.items():
        made_of.setdefault(f"{run.facts()[:-1]}; {code_of(run)}.", []).append(NAMES.get(name, f"experiment {name}"))
    facts = " ".join([RULE, *(f"{', '.join(names)}: {said}" for said, names in made_of.items())])
    smoke = any(run.smoke for run in known.values())
    title = "The published claims, and what became of them"
    return Table("claims", title, columns, rows, notes, facts, smoke, frame_of(found), frozenset(range(1, len(rows))))


def code_of(run: Run) -> str:
    """Which code a run measured."""
    git = run.manifest.get("git") or {}
    commit = str(git.get("same_code_as") or git.get("sha") or "")
    return f"code of {commit[:7]}" if commit else "code not stated"


def row_of(found: Verdict, notes: Notes) -> list[Cell]:
    """A claim's line; a dash says why."""
    claim = found.claim
    ours = [
        Cell(f"{held(part)}{part.text}") if part.text else Cell(DASH, (notes.mark(part.reason),) if part.reason else ())
        for part in (found.paper, found.controlled)
    ]
    marks = tuple(notes.mark(text) for text in found.because)
    return [Cell(claim.claim), Cell(claim.published), *ours, Cell(found.text, marks, bold=True), Cell(claim.rule)]


def held(found: Outcome) -> str:
    """Whether the predicate holds, as the first word of a cell."""
    return {True: "holds: ", False: "does not hold: ", None: ""}[found.holds]


def frame_of(found: list[Verdict]) -> pd.DataFrame:
    """The table as data."""
    told_as = {True: "True", False: "False", None: ""}
    return pd.DataFrame(
        {
            "claim": [entry.claim.claim for entry in found],
            "published": [entry.claim.published for entry in found],
            "paper_protocol": [entry.paper.text for entry in found],
            "paper_protocol_holds": [told_as[entry.paper.holds] for entry in found],
            "controlled": [entry.controlled.text for entry in found],
            "controlled_holds": [told_as[entry.controlled.holds] for entry in found],
            "verdict": [entry.text for entry in found],
            "rule": [entry.claim.rule for entry in found],
            "notes": [" ".join(entry.because) for entry in found],
        }
    )
