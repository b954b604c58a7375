"""How often the exact interval of P99 holds after `sweep.p99_iterations=auto` has ended the requests, simulated.

Whoever stops because an interval is narrow picks the draws in which it came out narrow: its 95 % are those of a number
of requests that was fixed beforehand. Independent requests of two known distributions, nothing between processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from harness.measure.adaptive import P, Rule, extra_rounds
from reports.quantiles import Array, interval_ranks
from reports.table import Cell, Notes, Table, heads, share

Draw = Callable[[np.random.Generator, int], Array]
BLOCKS = 5
FIRST = 77
BUDGETS_S = (60, 600)
ROUND_S = 9 * 0.015
"""Seconds a block, by default the first, and what a round of 9 lengths takes of them: 5 ms a request and 10 of rest. A
length that goes on alone has nine times the rounds."""

WIDTHS = (0.02, 0.05)
LENGTH = 10
MEDIAN_NS = 5e6
SMOOTH, BODY = 0.03, 0.003
SPIKES, SLOWER = 0.012, 0.15


class Law(NamedTuple):
    """A distribution of latencies over their median: its name, how it is drawn, and its true P99."""

    name: str
    draw: Draw
    p99: float


def spiky(rng: np.random.Generator, n: int) -> Array:
    """A narrow lognormal, of which a few are slower by up to SLOWER, each share of it as likely."""
    return np.exp(rng.normal(0, BODY, n)) * (1 + SLOWER * rng.random(n) * (rng.random(n) < SPIKES))


def spiky_p99() -> float:
    """Where the mixture's distribution function is P."""
    factors = 1 + SLOWER * (np.arange(10_000) + 0.5) / 10_000

    def above(value: float) -> float:
        body, slow = stats.norm.cdf(np.log(value) / BODY), stats.norm.cdf(np.log(value / factors) / BODY).mean()
        return float((1 - SPIKES) * body + SPIKES * slow - P)

    return float(brentq(above, 1, 1 + SLOWER))


def laws() -> tuple[Law, Law]:
    """One with a smooth tail, and one with rare spikes."""
    return (
        Law(f"smooth: lognormal, sigma {SMOOTH}", lambda rng, n: np.exp(rng.normal(0, SMOOTH, n)),
            math.exp(SMOOTH * stats.norm.ppf(P))),
        Law(f"spiky: {SPIKES:.1%} up to {SLOWER:.0%} slower", spiky, spiky_p99()),
    )  # fmt: skip


def most(budget_s: int) -> int:
    """Requests of a block until its budget is used up."""
    return FIRST + int(budget_s / ROUND_S)


def measured(draw: Draw, width: float, last: int, rng: np.random.Generator) -> tuple[list[int], bool]:
    """The latencies in ns of all blocks, each of at most `last`, and whether the last block stopped because the
    interval was as narrow as asked."""
    pooled: list[int] = []
    for left in range(BLOCKS, 0, -1):
        values = (MEDIAN_NS * draw(rng, last)).astype(int).tolist()
        rule = Rule([LENGTH], left, width, {LENGTH: pooled})
        for value in values[:FIRST]:
            rule.add(LENGTH, value)
        rounds = iter(range(FIRST, last + 1))
        (stop,) = extra_rounds(
            rule, FIRST, lambda rounds=rounds: next(rounds) == last,  # type: ignore[misc]
            lambda number, lengths, rule=rule, values=values: rule.add(lengths[0], values[number]),  # type: ignore[misc]
        )  # fmt: skip
        pooled += values[: stop.n]
    return pooled, stop.reason == "width"


def holds(values: Sequence[int] | Array, truth: float) -> bool:
    """Whether the exact interval of P99 holds the true one, both in ns."""
    ordered, ranks = np.sort(values), interval_ranks(len(values), P)
    return ranks is not None and bool(ordered[ranks[0] - 1] <= truth < ordered[ranks[1] - 1])


def stopped(law: Law, width: float, last: int, draws: int, seed: Sequence[int]) -> dict[str, float]:
    """How many requests came of it, and the shares of intervals that hold: of all, of those narrow enough and of the
    others (NaN of none), and of so many requests fixed beforehand."""
    rng, truth = np.random.default_rng(seed), MEDIAN_NS * law.p99
    runs = [measured(law.draw, width, last, rng) for _ in range(draws)]
    held = np.array([holds(values, truth) for values, _ in runs])
    narrow = np.array([reached for _, reached in runs])
    n = int(np.median([len(values) for values, _ in runs]))
    fixed = [holds(MEDIAN_NS * law.draw(rng, n), truth) for _ in range(draws)]
    part = {name: float(held[of].mean()) if of.any() else math.nan for name, of in
            (("held", narrow | ~narrow), ("held_narrow", narrow), ("held_wide", ~narrow))}  # fmt: skip
    return {"n": n, "narrow": float(narrow.mean()), **part, "held_fixed": float(np.mean(fixed))}


def adaptive_frame(draws: int, seed: int) -> pd.DataFrame:
    """One row a distribution, budget and width asked for."""
    return pd.DataFrame([
        {"distribution": law.name, "blocks": BLOCKS, "budget_s": budget, "least": FIRST, "most": most(budget),
         "width": width, "draws": draws}
        | stopped(law, width, most(budget), draws, (seed, budget, number, round(1000 * width)))
        for number, law in enumerate(laws())
        for budget in BUDGETS_S
        for width in WIDTHS
    ])  # fmt: skip


def adaptive_table(frame: pd.DataFrame) -> Table:
    """How often the interval holds once measuring has stopped, beside a number of requests that was fixed."""
    rows = [
        [Cell(str(r["distribution"])), Cell(f"{r['budget_s']} s"), Cell(f"{r['width']:.0%}"), Cell(str(r["n"])),
         *(share(r[column]) for column in ("narrow", "held", "held_narrow", "held_wide", "held_fixed"))]
        for r in frame.to_dict("records")
    ]  # fmt: skip
    head = heads(
        "Distribution", "Budget", "Width asked for", "n, median", "Narrow enough", "Interval holds",
        "Of those narrow enough", "Of the others", "With n fixed", left=("Distribution",),
    )  # fmt: skip
    facts = (
        f"{int(frame['draws'].iloc[0])} simulated runs each with p99_iterations=auto: {BLOCKS} blocks of at "
        f"least {FIRST} independent requests and, at 9 lengths with 15 ms from request to request, at most "
        f"{most(BUDGETS_S[0])} or {most(BUDGETS_S[1])}. Shares of exact "
        "intervals of P99, of 95 % by name, that hold the true one; narrow enough: the last block ended because the "
        "pooled interval was. With n fixed: samples of the median n, where the interval is exact."
    )
    title = "How often the interval of P99 holds when measuring stopped because it was narrow"
    return Table("adaptive", title, head, rows, Notes(), facts, False, frame)
