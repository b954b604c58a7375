"""The case's own part of the configuration, checked without importing anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPTIONS = ("overlap_scheduler", "early_first_token", "worker", "memory_fraction", "impersonate")
WORKERS = ("auto", "processes", "single")


def check(options: Mapping[str, Any]) -> None:
    """Raises ValueError, one sentence, for the first option that is unknown, missing or out of its range."""
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise ValueError(f"tensorrt_llm has no option {unknown[0]}, only {', '.join(OPTIONS)}")
    missing = [name for name in OPTIONS if name not in options]
    if missing:
        raise ValueError(f"tensorrt_llm needs the option {missing[0]}, which conf/case/tensorrt_llm.yaml gives")
    if options["impersonate"] is not None:
        raise ValueError("the engine itself impersonates nobody: impersonate must be null for it")
    for name in ("overlap_scheduler", "early_first_token"):
        if not isinstance(options[name], bool):
            raise ValueError(f"{name} must be true or false, not {options[name]!r}")
    if options["early_first_token"] and not options["overlap_scheduler"]:
        raise ValueError("early_first_token=true is a way of the overlap scheduler: it needs overlap_scheduler=true")
    if options["worker"] not in WORKERS:
        raise ValueError(f"worker must be one of {', '.join(WORKERS)}, not {options['worker']!r}")
    fraction = options["memory_fraction"]
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f"memory_fraction must lie between 0 and 1, not {fraction!r}")
