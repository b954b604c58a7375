"""The eighteen messages between client and server. Every request has one answer, in order; Failure answers any of them.

Prepare -> Ready        Prefill, Decode -> Token        Score -> Logits, once a row
GetFootprint -> FootprintIs     GetCaptures -> CapturesAre
Use -> Used             Evict -> Evicted                Close -> Closed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.contract import CaptureRecord, Eviction, Footprint, Plan, Sampling, SetUp, Stats

FailureKind = Literal["unavailable", "unsupported", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Client: prepare the case."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Ready:
    """Server: `prepare` has succeeded. This acknowledgement is the only sign of readiness.

    The counters come along, so that what set-up captured is not counted into the first request.
    """

    setup: SetUp
    stats: Stats


@dataclass(frozen=True, slots=True)
class Prefill:
    """Client: a new sequence; token ids from 0 to 2^31-1."""

    prompt: Sequence[int]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Client: the next token of the sequence."""


@dataclass(frozen=True, slots=True)
class Token:
    """Server: a token id, and the counters with it, so that reading them costs no round trip."""

    token_id: int
    stats: Stats


@dataclass(frozen=True, slots=True)
class Score:
    """Client: logits under teacher forcing."""

    prompt: Sequence[int]
    forced: Sequence[int]


@dataclass(frozen=True, slots=True)
class Logits:
    """Server: one row of logits, float32 in the byte order of the machine, which a Unix socket never leaves."""

    row: bytes


@dataclass(frozen=True, slots=True)
class GetFootprint:
    """Client: memory and graphs now."""


@dataclass(frozen=True, slots=True)
class FootprintIs:
    """Server: memory and graphs."""

    footprint: Footprint


@dataclass(frozen=True, slots=True)
class Use:
    """Client: choose tokens so from the next prefill on."""

    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Used:
    """Server: it will."""


@dataclass(frozen=True, slots=True)
class GetCaptures:
    """Client: every capture tried so far."""


@dataclass(frozen=True, slots=True)
class CapturesAre:
    """Server: the captures, in order."""

    captures: Sequence[CaptureRecord]


@dataclass(frozen=True, slots=True)
class Evict:
    """Client: give every graph back and measure what that returned."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """Server: what it returned, and the counters behind it."""

    eviction: Eviction
    stats: Stats


@dataclass(frozen=True, slots=True)
class Close:
    """Client: give everything back and end."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Server: everything is given back."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Server: the request failed; `kind` says which exception the client raises."""

    kind: FailureKind
    message: str


Message: TypeAlias = (
    Prepare
    | Ready
    | Prefill
    | Decode
    | Token
    | Score
    | Logits
    | GetFootprint
    | FootprintIs
    | Use
    | Used
    | GetCaptures
    | CapturesAre
    | Evict
    | Evicted
    | Close
    | Closed
    | Failure
)
