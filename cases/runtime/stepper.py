"""`generate` of Transformers one token at a time: it waits behind each until the next is wanted."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Generate = Callable[["Stepper"], object]
"""Calls `generate` with the stepper as its streamer."""


class Abandoned(Exception):
    """Raised inside `generate` when the sequence is no longer wanted."""


class Stepper:
    """Runs `generate` one token at a time: after each token it waits until the next is wanted.

    It is the `streamer` that `generate` puts tokens into. One thread serves all sequences, because what PyTorch
    prepares for an attention shape it keeps by thread.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Generate | None] = SimpleQueue()
        self._tokens: SimpleQueue[int | Exception] = SimpleQueue()
        self._wanted = Semaphore(0)
        self._idle = Semaphore(1)
        self._aside: Callable[[], float] | None = None
        self._found: SimpleQueue[float | Exception] = SimpleQueue()
        self._abandon = self._prompt_seen = self._running = False
        self._thread = Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    def start(self, generate: Generate) -> int:
        """Begin a sequence and return its first token."""
        self.abandon()
        self._idle.acquire()
        self._abandon = self._prompt_seen = False
        self._running = True
        self._work.put(generate)
        return self.next()

    def next(self) -> int:
        """Let `generate` go on for one token and return it; what it raises is raised here."""
        self._wanted.release()
        token = self._tokens.get()
        if isinstance(token, Exception):
            raise token
        return token

    def beside(self, work: Callable[[], float]) -> float:
        """Run `work` on the thread of `generate` while that waits behind a token, here where it has ended.

        What it raises is raised here; the sequence goes on.
        """
        if not self._running:
            return work()
        self._aside = work
        self._wanted.release()
        found = self._found.get()
        if isinstance(found, Exception):
            raise found
        return found

    def abandon(self) -> None:
        """End the sequence at its next token and wait for that."""
        self._abandon = True
        self._aside = None  # a signal may have come between it and its permit
        self._wanted.release()
        self._idle.acquire()
        self._idle.release()
        self._wanted = Semaphore(0)
        self._tokens, self._found = SimpleQueue(), SimpleQueue()

    def run(self, work: Callable[[], Result]) -> Result:
        """Do something else on the same thread and return what it gives; what it raises is raised here."""
        done: SimpleQueue[tuple[list[Result], Exception | None]] = SimpleQueue()

        def outer(_: Stepper) -> None:
            try:
                done.put(([work()], None))
            except Exception as error:  # noqa: BLE001  handed to the caller's thread, which raises it
                done.put(([], error))

        self.abandon()
        self._idle.acquire()
        self._work.put(outer)
        found, error = done.get()
        self.abandon()
        if error is not None:
            raise error
        return found[0]

    def close(self) -> None:
        """End the thread."""
        self.abandon()
        self._work.put(None)
        self._thread.join()

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the prompt, then with each token in host memory."""
        if self._prompt_seen:
            self._tokens.put(int(value.item()))
        self._prompt_seen = True
        self._wait()
        if self._abandon:
            raise Abandoned

    def _wait(self) -> None:
        """Until the next token is wanted; meanwhile do what is asked beside it."""
        self._wanted.acquire()
        while (work := self._aside) is not None:
            self._aside = None
            self._found.put(self._done(work))
            self._wanted.acquire()

    def _done(self, work: Callable[[], float]) -> float | Exception:
        """What `work` gives, or what it raised, for the caller's thread to raise."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001  handed to the caller's thread, which raises it
            return error

    def end(self) -> None:
        """Called by `generate` behind the last token."""

    def _run(self) -> None:
        while (generate := self._work.get()) is not None:
            ended = self._end_of(generate)
            self._running = False
            if ended is not None:
                self._tokens.put(ended)
            self._idle.release()

    def _end_of(self, generate: Generate) -> Exception | None:
        """How a sequence ends, for the caller's thread to raise; None when the caller ended it."""
        try:
            generate(self)
        except Abandoned:
            return None
        except Exception as error:  # noqa: BLE001  handed to the caller's thread, which raises it
            return error
        return RuntimeError("generate has given all the tokens that it was asked for")
