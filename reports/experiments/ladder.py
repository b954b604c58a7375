"""The steps from the published procedure to the controlled one, and what each case measured on its step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pandas as pd

from reports.experiments.section import Record, timed
from reports.run import Run

GRAPH, HYBRID, BASELINE, STAND_IN, ENGINE = "cuda_graph", "jit_cuda_graph", "baseline", "stand_in", "tensorrt_llm"


class Step(NamedTuple):
    """A step: the ending of its cases' names, its title, what it changed, the confound that it removed, and the key of
    their procedure that it is."""

    name: str
    title: str
    change: str
    confound: str = ""
    key: str = ""

    @property
    def tick(self) -> str:
        """The title in two lines, as alike as can be."""
        words = self.title.split()
        parts = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
        return "\n".join(min(parts, key=lambda lines: max(map(len, lines))))


STEPS = (
    Step("published", "As published", "the published procedure as it stands", "the paper's protocol"),
    Step("capture_set", "Same captures", "one capture policy, blind to the sweep, all before the first request",
         "unlike capture sets", "capture_set"),
    Step("warmup", "Cold starts apart", "cold start and first captures apart from the samples",
         "cold starts and first captures among the samples", "warmup"),
    Step("clock", "Client's clock", "clock at the client, not inside the server", "a clock inside the server", "clock"),
    Step("sampling", "Greedy sampling", "greedy for all, not each case's published sampler", "unlike samplers",
         "sampling"),
    Step("logits", "Last logits", "logits of the last position, not of all", "logits of all positions", "logits"),
    Step("model_code", "Lean model code", "our lean forward, not that of Transformers; JIT now compiles kernels",
         "the forward of Transformers", "model_code"),
    Step("kv_cache", "KV cache", "a decode step reads the cache, not the whole context again: controlled",
         "decoding without a KV cache", "decode"),
)  # fmt: skip
ENGINE_STEP = Step(ENGINE, "Real engine", "TensorRT-LLM itself in the place of Transformers")
STAND_IN_STEPS = ("published", "warmup", "sampling")
"""Those that change anything for the stand-in; at the others the latest of these before holds."""
LEAST_TOLD = 1.05
"""A convention: where each case has one process, a factor nearer to 1 is not read as an effect. On an H200 the speed-up
of cases with graphs moved by up to 3 % at a step that can't change a TTFT, the KV cache."""
QUIET = {"name", "engine_check"}  # keys of a procedure that change nothing for the cases on the ladder


@dataclass(frozen=True)
class Figures:
    """What one case measured: means in ms, NaN with the reason where there is none.

    `blocks`: the average TTFT of each process that has all its requests.
    """

    ttft_ms: float
    blocks: tuple[float, ...]
    requests: int
    why: str
    decode_ms: float
    why_no_decode: str


class Span(NamedTuple):
    """What a ratio is at least and at most over the processes of its cases; NaN where each of them has one process."""

    low: float = math.nan
    high: float = math.nan

    @property
    def told(self) -> bool | None:
        """Whether it leaves 1 out: else the ratio is not told from noise. None where there is no range."""
        return None if math.isnan(self.low) else not self.low <= 1 <= self.high


def span(found: Mapping[str, Figures], over: Sequence[str], under: Sequence[str]) -> Span:
    """The range of the product of some cases' averages over that of others: all choices of one process of each case.

    A case on both sides cancels.
    """
    left, right = Counter(over), Counter(under)
    above, below = ([found[case].blocks for case in cases.elements()] for cases in (left - right, right - left))
    if not all(above + below) or all(len(blocks) == 1 for blocks in above + below):
        return Span()
    least = math.prod(map(min, above)) / math.prod(map(max, below))
    return Span(least, math.prod(map(max, above)) / math.prod(map(min, below)))


@dataclass(frozen=True)
class Rung:
    """One step: its two cases, the speed-up of ours over theirs, and that of the latest step before that has one."""

    step: Step
    ours: str
    theirs: str
    speedup: float
    before: float
    since: str
    speedup_range: Span
    factor_range: Span

    @property
    def factor(self) -> float:
        """What the speed-up was multiplied by since that step."""
        return self.speedup / self.before

    @property
    def told(self) -> bool | None:
        """Whether the factor is told from noise: by its range, else by LEAST_TOLD. None without a factor."""
        if self.factor_range.told is not None or math.isnan(self.factor):
            return self.factor_range.told
        return abs(math.log(self.factor)) > math.log(LEAST_TOLD)


@dataclass(frozen=True)
class Ladder:
    """All steps in order, and the figures of every case that stands on one."""

    rungs: list[Rung]
    found: dict[str, Figures]

    def reasons(self, rung: Rung) -> list[str]:
        """Why a step has no speed-up."""
        return list(dict.fromkeys(why for case in (rung.theirs, rung.ours) if (why := self.found[case].why)))

    def bridges(self, place: int) -> bool:
        """Whether a step's factor holds that of steps before it, which have no figure."""
        rung = self.rungs[place]
        return not math.isnan(rung.factor) and rung.since != self.rungs[place - 1].step.name

    @property
    def cases(self) -> list[str]:
        """All that stand on it, in order; one that holds at several steps as often."""
        return [case for rung in self.rungs for case in (rung.ours, rung.theirs)]

    def counts(self) -> list[int]:
        """Requests behind each average on the ladder."""
        figures = [self.found[case] for case in self.cases]
        return [figure.requests for figure in figures if not figure.why]

    @property
    def ranges(self) -> bool:
        """Whether any step has a range."""
        return any(rung.speedup_range.told is not None for rung in self.rungs)

    def frame(self, published: list[Record]) -> pd.DataFrame:
        """A row a step, below those of the published texts; `factor` is over the speed-up of the step `since`."""
        rows = []
        for rung in self.rungs:
            record: Record = {"step": rung.step.name, "theirs": rung.theirs, "ours": rung.ours}
            for side, case in (("theirs", rung.theirs), ("ours", rung.ours)):
                record |= {f"{side}_{key}": value for key, value in asdict(self.found[case]).items()}
                record[f"{side}_blocks"] = " ".join(f"{ms:.9g}" for ms in self.found[case].blocks)
            record |= {"speedup": rung.speedup, "factor": rung.factor, "since": rung.since}
            for name, ends in (("speedup", rung.speedup_range), ("factor", rung.factor_range)):
                record |= {f"{name}_low": ends.low, f"{name}_high": ends.high}
            rows.append(record | {"told": rung.told})
        return pd.DataFrame([*published, *rows], columns=list(rows[0]))


def climb(run: Run, other: str) -> Ladder:
    """The ladder of the hybrid over `cuda_graph` or over `stand_in`, which has the real engine at its end."""
    pairs = [(step, f"{HYBRID}_{step.name}", holding(run, other, place)) for place, step in enumerate(STEPS)]
    if other == STAND_IN:
        pairs.append((ENGINE_STEP, pairs[-1][1], ENGINE))
    found = measured(run, [case for _, *both in pairs for case in both])
    rungs: list[Rung] = []
    last: Rung | None = None
    for step, ours, theirs in pairs:
        rungs.append(rung_of(step, ours, theirs, found, last))
        if not math.isnan(rungs[-1].speedup):
            last = rungs[-1]
    return Ladder(rungs, found)


def rung_of(step: Step, ours: str, theirs: str, found: Mapping[str, Figures], last: Rung | None) -> Rung:
    """A step, seen from the latest before that has a speed-up."""
    speedup = found[theirs].ttft_ms / found[ours].ttft_ms
    ends = span(found, [theirs], [ours])
    if last is None or math.isnan(speedup):
        before, since = (math.nan, "") if last is None else (last.speedup, last.step.name)
        return Rung(step, ours, theirs, speedup, before, since, ends, Span())
    changed = span(found, [theirs, last.ours], [ours, last.theirs])
    return Rung(step, ours, theirs, speedup, last.speedup, last.step.name, ends, changed)


def holding(run: Run, other: str, place: int) -> str:
    """The case of `other` that holds at a step: its own, or for the stand-in the latest before."""
    names = [step.name for step in STEPS[: place + 1]]
    if other == STAND_IN:
        names = [name for name in names if name in STAND_IN_STEPS or f"{other}_{name}" in run.cases]
    return f"{other}_{names[-1]}"


def measured(run: Run, cases: list[str]) -> dict[str, Figures]:
    """The figures of these cases, and of every other in the run."""
    ttft, decode = (timed(run, metric).dropna(subset=["latency_ms"]) for metric in ("ttft", "decode"))
    contexts = set(decode["context_length"])
    found = {}
    for case in dict.fromkeys([*cases, *run.cases]):
        own, steps = ttft[ttft["case"] == case], decode[decode["case"] == case]
        why = why_no_average(run, case, own)
        means = own.groupby("prompt_length")["latency_ms"].mean()
        lost = why_no_decode(run, case, steps, contexts)
        found[case] = Figures(
            math.nan if why else float(means.mean()), () if why else averages(run, own), len(own), why,
            math.nan if lost else float(steps["latency_ms"].mean()), lost,
        )  # fmt: skip
    return found


def averages(run: Run, own: pd.DataFrame) -> tuple[float, ...]:
    """A case's average TTFT in each process that has all requests of all lengths."""
    groups, planned = own.groupby(["block", "prompt_length"])["latency_ms"], run.sweep["prompt_lengths"]
    counts, means = (part.unstack().reindex(columns=planned) for part in (groups.size(), groups.mean()))
    whole = (counts >= run.sweep["ttft_iterations"]).all(axis=1)
    return tuple(float(value) for value in means[whole].mean(axis=1))


def why_absent(run: Run, case: str) -> str:
    """Why nothing of a case may be used, empty when it may."""
    if case not in run.cases:
        return f"The case {case} is not in this run."
    posed = run.manifest["config"]["cases"][case].get("impersonate")
    if case == ENGINE and posed:
        return f"What runs as {case} here is {posed}: {run.cases[case]}."
    return ""


def why_no_average(run: Run, case: str, own: pd.DataFrame) -> str:
    """Why a case has no average TTFT, empty when every length has the requests that one takes."""
    if why := why_absent(run, case):
        return why
    if own.empty:
        return run.missing(case)
    counts, planned = own.groupby("prompt_length").size(), run.sweep["prompt_lengths"]
    short = [length for length in planned if counts.get(length, 0) < run.sweep["ttft_iterations"]]
    if not short:
        return ""
    few = ", ".join(f"{length}" for length in short[:3]) + (" and more" if len(short) > 3 else "")
    return f"{run.cases[case]}: no average, for lack of requests of {few} tokens ({run.why_missing(case)})."


def why_no_decode(run: Run, case: str, own: pd.DataFrame, contexts: set[float]) -> str:
    """Why a case has no mean decode latency, empty when it decoded at all contexts that any case did."""
    if why := why_absent(run, case):
        return why
    if own.empty:
        return run.missing(case)
    if lost := contexts - set(own["context_length"]):
        return f"{run.cases[case]}: no mean, for lack of decode steps from context {min(lost):.0f} on."
    return ""


def words_of(run: Run, step: Step) -> str:
    """What a step changed, with all that the run's configuration changed beside what the step is named for."""
    if step not in STEPS[1:]:
        return step.change
    last = STEPS[STEPS.index(step) - 1]
    now, before = (procedure(run, f"{HYBRID}_{s.name}") for s in (step, last))
    keys = [key for key in now if key in before and now[key] != before[key] and key not in QUIET | {step.key}]
    parts = [f"{key} {now[key]}, not {before[key]}" for key in keys]
    return step.change + (f"; also {', '.join(parts)}" if parts else "")


def procedure(run: Run, case: str) -> dict[str, Any]:
    """The procedure of a case as configured, empty where the run does not have it."""
    return dict(run.manifest["config"]["cases"].get(case, {}).get("procedure") or {})
