"""How the token after the next one is computed: from the KV cache, or from the whole context once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cases.runtime.dynamic_ops import DynamicOps
    from cases.runtime.llama import State
    from cases.runtime.runner import Runner

STRATEGIES = ("kv_cache", "recompute")


def decoding_of(options: Mapping[str, Any]) -> str:
    """The strategy that a case's options name; a case that names none keeps the cache. Raises ValueError."""
    name = options.get("decode", STRATEGIES[0])
    if name not in STRATEGIES:
        raise ValueError(f"decode must be {' or '.join(STRATEGIES)}, not {name!r}")
    return str(name)


class Decoding(Protocol):
    """Launches the forwards of one sequence; none waits for the device."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Forward over the prompt."""

    def step(self, token: int) -> None:
        """Forward behind `token`, the last one chosen."""

    def force(self, token: int) -> None:
        """Let the next step read `token` instead of the one chosen."""


class KvCache:
    """One forward over one token a step."""

    def __init__(self, runner: Runner, ops: DynamicOps, state: State) -> None:
        self._runner, self._ops, self._state = runner, ops, state

    def begin(self, prompt: Sequence[int]) -> None:
        """See Decoding. The prompt goes as it is or in pieces, as the runner says."""
        self._ops.meet(prompt)
        for start, end, count in self._runner.pieces(len(prompt)):
            ids = prompt if end - start == len(prompt) else prompt[start:end]
            self._ops.stage(ids, count, self._state, start)
            self._runner.prefill(count)

    def step(self, token: int) -> None:
        """See Decoding. The token lies on the device already."""
        self._runner.decode()

    def force(self, token: int) -> None:
        """See Decoding."""
        self._state.tokens[:1].fill_(token)


class Recompute(KvCache):
    """One forward over the whole context a step, from that context's bucket, as the published system decodes."""

    def __init__(self, runner: Runner, ops: DynamicOps, state: State) -> None:
        super().__init__(runner, ops, state)
        self._context: list[int] = []

    def begin(self, prompt: Sequence[int]) -> None:
        """See Decoding."""
        self._context = list(prompt)
        super().begin(self._context)

    def step(self, token: int) -> None:
        """See Decoding."""
        self._context.append(token)
        super().begin(self._context)

    def force(self, token: int) -> None:
        """See Decoding. Nothing to do: `step` is given the token."""


def make_decoding(name: str, runner: Runner, ops: DynamicOps, state: State) -> Decoding:
    """The strategy of that name."""
    kind = Recompute if name == "recompute" else KvCache
    return kind(runner, ops, state)
