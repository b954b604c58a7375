"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_PERIOD_S = 10.0
Event = dict[str, Any]


class Watcher(Protocol):
    """Follows a run. It is a context: what it holds of the terminal is given back at the end."""

    def __enter__(self) -> Watcher:
        """Take the terminal."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""

    def begin(self, title: str) -> None:
        """A child starts."""

    def event(self, event: Event) -> None:
        """The child said something."""

    def end(self, line: str, counted: bool) -> None:
        """The child is over; `counted` when it was one of the blocks."""


def watcher(console: Console, blocks: int) -> Watcher:
    """Bars on a terminal, lines elsewhere."""
    return Bars(console, blocks) if console.is_terminal else Lines(console, blocks)


def describe(event: Event) -> str:
    """`ttft, 100 tokens, 12/1125, median 6.300 ms`, with what the event holds."""
    parts = [str(event.get("stage", ""))]
    if "prompt_length" in event:
        parts.append(f"{event['prompt_length']} tokens")
    if "done" in event:
        parts.append(f"{event['done']}/{event['total']}")
    if "median_ms" in event:
        parts.append(f"median {event['median_ms']:.3f} ms")
    if event.get("detail"):
        parts.append(str(event["detail"]))
    return ", ".join(parts)


class Lines:
    """One line a change of stage, and one every ten seconds within a stage."""

    def __init__(self, console: Console, blocks: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._blocks, self._clock = console, blocks, clock
        self._title, self._stage, self._next, self._done = "", "", 0.0, 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, title: str) -> None:
        """Remember who speaks."""
        self._title, self._stage, self._next = title, "", 0.0

    def event(self, event: Event) -> None:
        """Print it if the stage is new or ten seconds are over."""
        if event["event"] in ("outcome", "verdict"):
            return
        fresh = event["event"] == "stage" or event.get("stage") != self._stage
        if fresh or self._clock() >= self._next:
            self._stage = str(event.get("stage"))
            self._next = self._clock() + PLAIN_PERIOD_S
            self._print(f"{self._title}: {describe(event)}")

    def end(self, line: str, counted: bool) -> None:
        """Print how it ended."""
        self._done += counted
        self._print(f"{self._title}: {line}" + (f" ({self._done} of {self._blocks} blocks done)" if counted else ""))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """Two bars: blocks of the run, and the stage of the block that runs."""

    def __init__(self, console: Console, blocks: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=console,
        )
        self._run: TaskID = self._progress.add_task("blocks", total=blocks, note="")
        self._stage: TaskID | None = None
        self._title, self._name = "", ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._progress.stop()

    def begin(self, title: str) -> None:
        """A new block: the lower bar starts anew."""
        self._title, self._name = title, ""
        self._stage = self._anew(title)

    def event(self, event: Event) -> None:
        """Move the lower bar; a new stage restarts its estimate of the time left."""
        if event["event"] in ("outcome", "verdict"):
            return
        name = str(event.get("stage", ""))
        if self._stage is None or name != self._name:
            self._name = name
            self._stage = self._anew(f"{self._title}: {name}")
        length = f"{event['prompt_length']} tokens" if "prompt_length" in event else str(event.get("detail", ""))
        median = f"  median {event['median_ms']:.3f} ms" if "median_ms" in event else ""
        self._progress.update(
            self._stage, completed=event.get("done", 0), total=event.get("total"), note=length + median
        )

    def end(self, line: str, counted: bool) -> None:
        """Leave one line above the bars."""
        self._console.print(f"{self._title}: {line}", markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._run, advance=int(counted))

    def _anew(self, description: str) -> TaskID:
        """A fresh lower bar; its time left is estimated from nothing before it."""
        self._clear()
        return self._progress.add_task(description, total=None, note="")

    def _clear(self) -> None:
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None
