"""How a forward is run: what a session may ask for, and the direct way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cases.runtime.background import Gate
from cases.runtime.graph_pool import Graph
from cases.runtime.llama import Model, State
from harness.contract import CaptureRecord, Eviction, Stats, Unsupported


class Piece(NamedTuple):
    """A part of a prompt, tokens `start` to `end`, and the tokens that its forward runs over, padding included."""

    start: int
    end: int
    rows: int


Pull = Callable[[int, State], None]
"""What a prefill does on the device before its forward; see DynamicOps.pull."""


def nothing(count: int, state: State) -> None:
    """No such part."""


class Runner(Protocol):
    """Runs forwards of a model and counts how."""

    name: str
    graphs: bool
    """Whether `capture` captures anything."""
    gate: Gate

    @property
    def capturing(self) -> bool:
        """Whether a capture goes on, or is asked for."""

    def capture(self) -> None:
        """Make ready before the first request; timed as set-up."""

    def pieces(self, length: int) -> Sequence[Piece]:
        """How a prompt of `length` tokens is run: in order, each a forward behind the one before."""

    def prefill(self, count: int) -> None:
        """Forward over `count` tokens of the state, a value that `pieces` gave."""

    def decode(self) -> None:
        """Forward over one token."""

    def blank(self) -> Graph | None:
        """A graph that does nothing; None for a runner without graphs, and while a capture goes on."""

    def stats(self) -> Stats:
        """Counters of forwards and captures so far."""

    def captured(self) -> list[CaptureRecord]:
        """Captures tried so far, in order."""

    def held(self) -> tuple[int, int]:
        """Graphs, and bytes of device memory that they hold."""

    def evict(self) -> Eviction:
        """See harness.contract.Case."""

    def close(self) -> None:
        """Give graphs back."""


class DirectRunner:
    """Every forward launched kernel by kernel, at its exact length."""

    name, graphs, capturing = "no graphs", False, False

    def __init__(self, model: Model, pull: Pull = nothing) -> None:
        self._model, self._pull = model, pull
        self.gate = Gate()

    def capture(self) -> None:
        """Nothing to do."""

    def pieces(self, length: int) -> Sequence[Piece]:
        """The prompt as it is."""
        return (Piece(0, length, length),)

    def prefill(self, count: int) -> None:
        """See Runner."""
        self._pull(count, self._model.state)
        self._model.forward(count)

    def decode(self) -> None:
        """See Runner."""
        self._model.forward(1)

    def blank(self) -> Graph | None:
        """None."""
        return None

    def stats(self) -> Stats:
        """Nothing is counted."""
        return Stats()

    def captured(self) -> list[CaptureRecord]:
        """None."""
        return []

    def held(self) -> tuple[int, int]:
        """Nothing."""
        return 0, 0

    def evict(self) -> Eviction:
        """Raises Unsupported."""
        raise Unsupported("this case runs without graphs, so there is none to evict")

    def close(self) -> None:
        """Nothing to do."""
