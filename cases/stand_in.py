"""What was published as TensorRT-LLM: Transformers. It is never called by that engine's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases.baseline import Baseline


class StandIn(Baseline):
    """Transformers' `generate`, as the published fifth case runs it, under a title that says so."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case. The engine's own options say nothing here."""
        if options.get("impersonate") != "transformers":
            raise ValueError("this is Transformers in TensorRT-LLM's place: it needs impersonate=transformers")
