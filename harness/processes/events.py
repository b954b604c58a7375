"""What a child says on its pipe, cut into events; what is none ends the child."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

from harness.schema import State

LONGEST_EVENT = 1 << 20
ENDS = ("failed", "unavailable", "unsupported")
"""What an outcome may say: a block that is well so far says nothing before its verdict."""
Event = dict[str, Any]
OnEvent = Callable[[Event], None]

NUMBERS, TEXTS = ("prompt_length", "done", "total", "median_ms"), ("stage", "detail", "reason", "identity")
"""Fields that are shown, and what they have to be."""


def printable(value: Any, but: str = "") -> Any:
    """A text, or all texts in a list or an object, with a blank for each character that is not printable and not in
    `but`: codes that move a terminal's cursor, and halves of characters that no file can hold."""
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() or letter in but else " " for letter in value)
    if isinstance(value, list):
        return [printable(one, but) for one in value]
    if isinstance(value, dict):
        return {printable(key, but): printable(one, but) for key, one in value.items()}
    return value


def fault_of(event: Any) -> str:
    """What is wrong with an event, "" when nothing is."""
    kind = event.get("event") if isinstance(event, dict) else None
    if kind not in ("stage", "progress", "outcome", "verdict"):
        return f"unknown event {str(kind)[:40]!r}"
    if kind == "outcome" and event.get("state") not in ENDS:
        return f"unknown state {str(event.get('state'))[:40]!r} in the outcome"
    if kind == "outcome" and not {"reason", "stage"} <= event.keys():
        return "outcome without reason and stage"
    if kind == "verdict" and event.get("state") not in get_args(State):
        return f"unknown state {str(event.get('state'))[:40]!r} in the verdict"
    if kind == "progress" and not {"done", "total"} <= event.keys():
        return "progress without done and total"
    for names, types, said in ((NUMBERS, (int, float), "number"), (TEXTS, str, "text")):
        for name in names:
            if name in event and not isinstance(event[name], types):
                return f"{name} is no {said}"
    return ""


def fault_behind(outcome: Event, event: Event) -> str:
    """What is wrong with an event that follows an outcome, "" when nothing is: the case is closed, and the verdict says
    the same again."""
    if event["event"] == "verdict":
        return "" if event["state"] == outcome["state"] else f"the verdict {event['state']} follows another outcome"
    closing = event["event"] == "stage" and event.get("stage") == "close"
    return "" if closing else "an event other than the closing follows the outcome"


class EventReader:
    """Cuts the bytes of the pipe into events and keeps the last stage, the outcome and the verdict.

    `outcome` is what a block that is not well knows before its case is closed, which may end the process.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._rest = b""
        self.stage = ""
        self.outcome: Event | None = None
        self.verdict: Event | None = None
        self.breach = ""

    def feed(self, data: bytes) -> None:
        """Take bytes as they come. A malformed event is remembered in `breach`; nothing after it counts."""
        if self.breach:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self.breach:
                self._take(line)
        if len(self._rest) > LONGEST_EVENT:
            self.breach = f"an event is longer than {LONGEST_EVENT} bytes"

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            self.breach = "an event is not JSON"
            return
        if fault := fault_of(event):
            self.breach = fault
        elif self.verdict is not None:
            self.breach = "an event follows the verdict"
        elif self.outcome is not None and (fault := fault_behind(self.outcome, event)):
            self.breach = fault
        else:
            self._keep(event["event"], printable(event))

    def _keep(self, kind: str, event: Event) -> None:
        if kind == "verdict":
            self.verdict = event
        elif kind == "outcome":
            self.outcome = event
        elif kind == "stage":
            self.stage = str(event.get("stage", ""))
        self._on_event(event)
