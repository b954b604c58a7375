"""The case's own part of the configuration, checked without importing anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases.options import check_memory_fraction, check_names

OPTIONS = ("overlap_scheduler", "early_first_token", "worker", "memory_fraction", "impersonate")
WORKERS = ("auto", "processes", "single")


def check(options: Mapping[str, Any]) -> None:
    """Raises ValueError, one sentence, for the first option that is unknown, missing or out of its range."""
    check_names("tensorrt_llm", OPTIONS, options)
    if options["impersonate"] is not None:
        raise ValueError("the engine itself impersonates nobody: impersonate must be null for it")
    for name in ("overlap_scheduler", "early_first_token"):
        if not isinstance(options[name], bool):
            raise ValueError(f"{name} must be true or false, not {options[name]!r}")
    if options["early_first_token"] and not options["overlap_scheduler"]:
        raise ValueError("early_first_token=true is a way of the overlap scheduler: it needs overlap_scheduler=true")
    if options["worker"] not in WORKERS:
        raise ValueError(f"worker must be one of {', '.join(WORKERS)}, not {options['worker']!r}")
    check_memory_fraction(options["memory_fraction"])
