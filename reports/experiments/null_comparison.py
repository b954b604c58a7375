"""The stand-in against the Baseline: one model by one code under two names, so what differs is a sampler, or noise."""

from __future__ import annotations

from reports.experiments.ladder import BASELINE, STAND_IN, STEPS, Ladder, Span, Step, span, why_absent
from reports.run import Run

STAND_IN_NAME = "Transformers (published as TensorRT-LLM)"
COMPARED = ("published", "sampling")  # steps at which they are always set side by side


def finding(run: Run, ladder: Ladder) -> str:
    """Their ratio on each step that has both, and the processes that are missing."""
    steps = [
        s for s in STEPS if s.name in COMPARED or {f"{STAND_IN}_{s.name}", f"{BASELINE}_{s.name}"} <= set(run.cases)
    ]
    said = "; ".join(f"{step.title.lower()}: {likeness(run, ladder, step)}" for step in steps)
    null = f"Null comparison: {STAND_IN_NAME} over Baseline, both the model of Transformers by the same code"
    samplers = "before greedy sampling each with its published sampler"
    pairs = [f"{name}_{step.name}" for step in steps for name in (STAND_IN, BASELINE)]
    lost = [case for case in pairs if case in run.cases and run.ended_well(case) and run.lost_blocks(case)]
    return " ".join([f"{null}, {samplers}; ratio of average TTFT: {said}.", *map(run.missing, lost)])


def likeness(run: Run, ladder: Ladder, step: Step) -> str:
    """The average TTFT of the stand-in over that of the Baseline on one step, or why there is none."""
    cases = (f"{STAND_IN}_{step.name}", f"{BASELINE}_{step.name}")
    if whys := [why for case in cases if (why := why_absent(run, case) or ladder.found[case].why)]:
        return f"no ratio ({' '.join(whys).rstrip('.')})"
    ours, theirs = (ladder.found[case].ttft_ms for case in cases)
    ends = span(ladder.found, cases[:1], cases[1:])
    reach = "" if ends.told is None else f"{between(ends)}, {'told' if ends.told else 'not told'} from noise; "
    return f"{ours / theirs:.2f}× ({reach}{ours:.2f} over {theirs:.2f} ms)"


def between(ends: Span) -> str:
    """A range of ratios."""
    return f"{ends.low:.2f}–{ends.high:.2f}"
