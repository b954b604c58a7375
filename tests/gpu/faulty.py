"""Lean cases that break on purpose: out of memory, and a kernel that writes where no memory is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cases.eager import Eager
from harness.contract import Plan, SetUp

BREAK_AT = 20
GIB = 2**30


class Faulty(Eager):
    """Eager, whose request number BREAK_AT breaks."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Those of Eager."""
        super().check_options(options)

    def prepare(self, plan: Plan) -> SetUp:
        self.requests = 0
        return super().prepare(plan)

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        self.requests += 1
        if self.requests == BREAK_AT:
            self.break_down()
        return super().prefill(prompt, new_tokens)

    def break_down(self) -> None:
        raise NotImplementedError


class SaidOutOfMemory(Faulty):
    """What torch raises, where there is no GPU to raise it."""

    def break_down(self) -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nOf the allocated memory")


class OutOfMemory(Faulty):
    """Takes device memory until there is no more."""

    def break_down(self) -> None:
        import torch

        self.held = []
        while True:
            self.held.append(torch.empty(GIB, dtype=torch.uint8, device="cuda"))


class IllegalAccess(Faulty):
    """A kernel writes far behind the memory that it was given."""

    def break_down(self) -> None:
        import torch

        from tests.gpu.astray import write_astray

        write_astray(torch.zeros(1, device="cuda"))
        torch.cuda.synchronize()
