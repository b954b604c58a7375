"""Eager (control): our lean Llama with neither JIT nor graphs, the fourth cell of {JIT} x {graph}."""

from __future__ import annotations

from cases.runtime.lean import LeanCase


class Eager(LeanCase):
    """Plain PyTorch, launched kernel by kernel."""
