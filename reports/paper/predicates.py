"""The predicates behind the published claims, each on the figures of one run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from reports.experiments import capture_coverage
from reports.paper.audit import HYBRID, TENSORRT
from reports.paper.evidence import Evidence, Outcome, at_least, both
from reports.paper.experiments import gpu_gib, socket_adds, tally, weights_gib
from reports.paper.measures import requests
from reports.paper.published import METRICS, TITLES
from reports.paper.runs import Missing
from reports.quantiles import quantile
from reports.run import Run

SLACK = 0.10
"""The part of a published effect that a measured one may lack, or be above where it is to be small."""
Judge = Callable[[Evidence], Outcome]


def ratio(evidence: Evidence, over: str, case: str) -> tuple[float, str]:
    """Average TTFT of `over` over that of `case`, and the words that say so."""
    slow, fast = evidence.average(over), evidence.average(case)
    return (
        slow / fast,
        f"{evidence.title(over)} {slow:.2f} ms / {evidence.title(case)} {fast:.2f} ms = {slow / fast:.3f}×",
    )


def faster(over: str, case: str, published: float) -> Judge:
    """Average TTFT of `over` is at least nine tenths of `published` times that of `case`."""

    def judge(evidence: Evidence) -> Outcome:
        found, words = ratio(evidence, over, case)
        return replace(at_least(found, (1 - SLACK) * published, words), ratios=((over, case),))

    return judge


def slower(over: str, case: str, published: float) -> Judge:
    """`case` has at most eleven tenths of `published` times the speed of `over`, in average TTFT."""

    def judge(evidence: Evidence) -> Outcome:
        found, words = ratio(evidence, over, case)
        return Outcome(found <= (1 + SLACK) * published, words, ratios=((over, case),))

    return judge


def all_of(*judges: Judge) -> Judge:
    """All of several predicates at once."""
    return lambda evidence: both(*(told(judge, evidence) for judge in judges))


def told(judge: Judge, evidence: Evidence) -> Outcome:
    """A predicate's outcome, which can't be told where something is missing."""
    try:
        return judge(evidence)
    except Missing as missing:
        return Outcome(None, reason=str(missing))


def against_engine(judge: Callable[[Evidence, str], Outcome]) -> Judge:
    """A comparison with TensorRT-LLM: without the engine it can't be told; what the stand-in gives is known then."""

    def compare(evidence: Evidence) -> Outcome:
        try:
            evidence.case(TENSORRT)
        except Missing as missing:
            other = told(lambda found: judge(found, "stand_in"), evidence)
            known = f"against {evidence.title('stand_in')}: {other.text}." if other.text else ""
            return Outcome(None, reason=str(missing), known=known)
        return judge(evidence, TENSORRT)

    return compare


def reduction(published: float) -> Judge:
    """At some length TTFT lies below the other's by nine tenths of `published` per cent."""

    def judge(evidence: Evidence, other: str) -> Outcome:
        ours, theirs = evidence.values(HYBRID, "ttft"), evidence.values(other, "ttft")
        lower = 100 * (1 - ours / theirs)
        at = int(str(lower.idxmax()))
        words = f"{lower[at]:.1f} % lower at {at} tokens ({ours[at]:.2f} against {theirs[at]:.2f} ms)"
        return at_least(float(lower[at]), (1 - SLACK) * published, words)

    return against_engine(judge)


def lower_p99() -> Judge:
    """P99 is lower at nine tenths of the lengths or more: of nine lengths at all."""

    def judge(evidence: Evidence, other: str) -> Outcome:
        ours, theirs = evidence.values(HYBRID, "p99"), evidence.values(other, "p99")
        won, n = int((ours < theirs).sum()), len(ours)
        words = f"lower at {won} of {n} lengths; averages {ours.mean():.2f} against {theirs.mean():.2f} ms"
        return at_least(won, (1 - SLACK) * n, words)

    return against_engine(judge)


def wins(published: float, of: int) -> Judge:
    """The hybrid is the fastest of five in nine tenths of the published share of lengths and metrics."""

    def count(evidence: Evidence, roles: list[str]) -> tuple[int, int]:
        won = n = 0
        for metric in METRICS:
            ours = evidence.values(HYBRID, metric)
            n += len(ours)
            best = [evidence.values(role, metric) for role in roles]
            won += sum(all(ours[length] < other[length] for other in best) for length in ours.index)
        return won, n

    def judge(evidence: Evidence) -> Outcome:
        rest = [role for role in TITLES if role not in (HYBRID, TENSORRT)]
        try:
            evidence.case(TENSORRT)
        except Missing as missing:
            won, n = count(evidence, rest)
            known = f"{won} of {n} against the three others"
            if evidence.has("stand_in"):
                won, n = count(evidence, [*rest, "stand_in"])
                known += f", {won} of {n} with {evidence.title('stand_in')} among them"
            return Outcome(None, reason=str(missing), known=f"{known}; the engine could only lower that.")
        won, n = count(evidence, [*rest, TENSORRT])
        return at_least(won / n, (1 - SLACK) * published / of, f"{won} of {n}")

    return judge


def more_captured(published: float) -> Judge:
    """The share of lengths captured of those tried, with JIT over without, is nine tenths of the published ratio."""

    def judge(evidence: Evidence) -> Outcome:
        shares, words = [], []
        for role in (HYBRID, "cuda_graph"):
            good, tried = tally(evidence.run, evidence.case(role))
            if not tried:
                raise Missing(f"captures.csv of this run has no row of {evidence.title(role)}.")
            shares.append(good / tried)
            words.append(f"{evidence.title(role)} captured {good} of {tried}")
        found = shares[0] / shares[1] if shares[1] else math.inf
        return at_least(found, (1 - SLACK) * published, ", ".join(words))

    return judge


def out_of_memory(length: float, captured: float, memory: float) -> Judge:
    """A capture of the lengths up to `length` and beyond fails for want of memory, within a tenth of `captured` graphs.

    It does not where as many were captured and the `memory` (GiB) of the published GPU would have held them.
    """

    def judge(evidence: Evidence) -> Outcome:
        found = [outcome for case in evidence.run.cases if (outcome := one(evidence.run, case))]
        if not found:
            raise Missing(f"No case of this run tries to capture {length:.0f} lengths.")
        values = [outcome.holds for outcome in found]
        holds = True if True in values else None if None in values else False
        texts, reasons = "; ".join(o.text for o in found), " ".join(o.reason for o in found)
        gpu = (
            f"GPU of {gpu_gib(evidence.run):.1f} GiB, published {memory:g} GiB." if evidence.run.manifest["gpu"] else ""
        )
        return Outcome(holds, texts, reasons.strip() if holds is None else "", gpu)

    def one(run: Run, case: str) -> Outcome | None:
        record = capture_coverage.record(run, case)
        failed, tried = not math.isnan(record["first_failure"]), tally(run, case)[1]
        kept = run.manifest["config"]["cases"][case].get("graph", {}).get("max_graphs", tried)
        if (tried < length and not (failed and record["asked"] >= length)) or kept < length:
            return None  # it never held that many graphs, so that memory was not put to the test
        good, held, asked = record["captured"], record["memory_gib"], max(tried, record["asked"] if failed else 0)
        words = f"{run.cases[case]}: {good:.0f} of {asked:.0f} captured, {held:.2f} GiB of graphs"
        if failed:
            words += f", then {record['failure_reason']} at {record['first_failure']:.0f}"
            starved = "memory" in str(record["failure_reason"]).lower()
            return Outcome(starved and abs(good - captured) <= SLACK * captured, words)
        if held + weights_gib(run) > memory:
            return Outcome(None, words, f"{run.cases[case]} holds more than the published GPU has, and did not fail.")
        return Outcome(False, words)

    return judge


def socket_cost(most: float, share: float) -> Judge:
    """The socket adds at most eleven tenths of `most` ms, and of `share` per cent of TTFT, at every length."""

    def judge(evidence: Evidence) -> Outcome:
        if evidence.run.study == "ipc":
            added, whole = socket_adds(evidence.run), medians(evidence.run, "unix")
        else:
            added, whole = outside_server(evidence)
        if not added:
            raise Missing("No request of this run tells what the socket adds.")
        parts = {length: 100 * value / whole[length] for length, value in added.items()}
        low, high, part = min(added.values()), max(added.values()), max(parts.values())
        words = f"{low:.3f} to {high:.3f} ms, at most {part:.1f} % of TTFT"
        return Outcome(high <= (1 + SLACK) * most and part <= (1 + SLACK) * share, words)

    return judge


def medians(run: Run, case: str) -> dict[int, float]:
    """Median TTFT by length in ms."""
    samples = requests(run, "ttft")
    groups = samples[samples["case"] == case].groupby("prompt_length")["latency_ms"]
    return {int(float(str(length))): quantile(values, 0.5).value for length, values in groups}


def outside_server(evidence: Evidence) -> tuple[dict[int, float], dict[int, float]]:
    """Median over a length's requests, those of P99, of the client's clock minus the server's, and of the client's."""
    samples = requests(evidence.run, "p99")
    own = samples[(samples["case"] == evidence.case(HYBRID)) & samples["server_ms"].notna()]
    added = (own["host_ms"] - own["server_ms"]).groupby(own["prompt_length"]).median()
    whole = own["host_ms"].groupby(own["prompt_length"]).median()
    return by_length(added), by_length(whole)


def by_length(values: pd.Series) -> dict[int, float]:
    """A series by prompt length as a dict."""
    return {int(float(str(length))): float(value) for length, value in values.items()}
