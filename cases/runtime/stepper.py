"""`generate` of Transformers one token at a time, on the caller's own thread: it rests behind each until the next is
wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    import torch

Generate = Callable[["Stepper"], object]
"""Calls `generate` with the stepper as its streamer."""


class Abandoned(Exception):
    """Raised inside `generate` when the sequence is no longer wanted."""


class Stepper:
    """Runs `generate` one token at a time: after each token it rests until the next is wanted.

    It is the `streamer` that `generate` puts tokens into. `generate` has a stack of its own, not a thread: nobody is
    woken for a token, on another processor than the last one's, as nobody is where a program calls `generate` itself.
    One thread must make all calls.
    """

    def __init__(self) -> None:
        self._sequence: greenlet | None = None
        self._prompt_seen = False

    def start(self, generate: Generate) -> int:
        """Begin a sequence and return its first token."""
        self.abandon()
        self._prompt_seen = False
        self._sequence = greenlet(self._run)
        return self._token(generate)

    def next(self) -> int:
        """Let `generate` go on for one token and return it; what it raises is raised here.

        Raises:
            RuntimeError: there is no sequence, or it has no more tokens.
        """
        return self._token()

    def abandon(self) -> None:
        """End the sequence at its last token."""
        sequence, self._sequence = self._sequence, None
        if sequence:  # begun, and not ended
            sequence.throw(Abandoned)

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the prompt, then with each token in host memory."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        caller = getcurrent().parent
        assert caller is not None  # noqa: S101  for the type checker: put() is called inside a sequence alone
        caller.switch(int(value.item()))

    def end(self) -> None:
        """Called by `generate` behind the last token."""

    def _token(self, *given: Any) -> int:
        """Let the sequence run to its next token."""
        if self._sequence is None:
            raise RuntimeError("no sequence has been started")
        if self._sequence.dead:
            raise RuntimeError("the sequence has ended: generate gives no more tokens")
        found = self._sequence.switch(*given)
        if self._sequence.dead:
            raise RuntimeError("generate has given all the tokens that it was asked for")
        return int(found)

    def _run(self, generate: Generate) -> None:
        """The sequence's own stack; what `generate` raises is raised where its next token was asked for."""
        try:
            generate(self)
        except Abandoned:
            return
