"""Where a case is while it prepares: heard by whoever prepares it, and by nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.contract import PHASES, REPORTS_LIMIT, Case, Phase


@contextmanager
def heard(case: Case, tell: Callable[[Phase], None]) -> Iterator[None]:
    """While this lasts, `tell` is called with each phase that the case reports.

    The case's own `report` raises ValueError for a phase that is not one of PHASES, and for more than REPORTS_LIMIT.
    """
    reports = 0

    def report(phase: Phase) -> None:
        nonlocal reports
        reports += 1
        if phase not in PHASES:
            raise ValueError(f"the case reports a phase {str(phase)[:40]!r}: it has {', '.join(PHASES)}")
        if reports > REPORTS_LIMIT:
            raise ValueError(f"the case reports more than {REPORTS_LIMIT} phases while it prepares")
        tell(phase)

    case.report = report
    try:
        yield
    finally:
        del case.report
