"""Cases whose ids are not what they computed, for the referee to catch."""

from __future__ import annotations

from collections.abc import Sequence

from cases.eager import Eager
from tests.entries import VOCABULARY


class Liar(Eager):
    """The lean Llama, whose every fifth decode step gives another id than it goes on with."""

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        self._steps = 0
        return super().prefill(prompt, new_tokens)

    def decode(self) -> int:
        self._steps += 1
        token = super().decode()
        return token if self._steps % 5 else (token + 1) % VOCABULARY
