"""What the options of engines have in common, checked without importing anything heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def check_names(case: str, names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises ValueError, one sentence, for the first option that is unknown or missing."""
    if unknown := sorted(options.keys() - set(names)):
        raise ValueError(f"{case} has no option {unknown[0]}, only {', '.join(names)}")
    if missing := [name for name in names if name not in options]:
        raise ValueError(f"{case} needs the option {missing[0]}, which conf/case/{case}.yaml gives")


def check_memory_fraction(fraction: object) -> None:
    """Raises ValueError when it is no share of the GPU's memory."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f"memory_fraction must lie between 0 and 1, not {fraction!r}")
