"""The checks of `sweep.p99_iterations` and what belongs to it. Every mistake is a ValueError with one sentence."""

from __future__ import annotations

from harness.settings import plan
from harness.settings.config import CaseConfig, SweepConfig


def check_p99(sweep: SweepConfig) -> None:
    """A number of requests, or `auto` with its width and budget."""
    count = sweep.p99_iterations
    if isinstance(count, str) and count != "auto":
        raise ValueError(f"sweep.p99_iterations={count} is neither a whole number nor auto")
    if isinstance(count, int) and count < 1:
        raise ValueError(f"sweep.p99_iterations: {count} is too small, it must be at least 1")
    if not 0 < sweep.p99_width < 1:
        raise ValueError(f"sweep.p99_width={sweep.p99_width} must lie between 0 and 1: 0.02 is 2 % of P99")
    if not 0 < sweep.p99_budget_s < float("inf"):
        raise ValueError(f"sweep.p99_budget_s={sweep.p99_budget_s} must be a finite number above 0")


def check_auto(name: str, case: CaseConfig, sweep: SweepConfig) -> None:
    """Refuse `auto` where a procedure fixes the number of requests, or the worker's time limit comes first."""
    if not plan.is_auto(sweep):
        return
    if case.procedure.warmup == "none":
        raise ValueError(
            f"sweep.p99_iterations=auto: cases.{name} follows a procedure without warm-up, which counts its requests "
            "from the first; give a number, or set its warmup=apart"
        )
    if sweep.p99_budget_s >= case.timeout_s:
        raise ValueError(
            f"sweep.p99_budget_s={sweep.p99_budget_s:g} must be below cases.{name}.timeout_s={case.timeout_s:g}"
        )
