"""The messages between client and server. A client's requests are answered in order; Failure may answer any of them.

Prepare -> Stage, once a phase that the case reports, then Ready
Prefill, Decode -> Token        Score -> Logits, once a row
GetFootprint -> FootprintIs     GetCaptures -> CapturesAre      GetStatus -> StatusIs
GetIdentity -> IdentityIs
Use -> Used             Evict -> Evicted                Close, Shutdown -> Closed
Generate -> Token, once a token where it streams, then Finished
Cancel has no answer: it ends the client's Generate requests, waiting or running, each with its Finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from harness.contract import CaptureRecord, Eviction, Footprint, Identity, Phase, Plan, Sampling, SetUp, Stats

FailureKind = Literal["unavailable", "unsupported", "invalid", "failed", "busy"]
Reason = Literal["length", "stop", "cancelled", "stopped"]
"""Why a generation ended: all tokens are there, one of them is a stop id, its client or the server ended it."""


class Timing(NamedTuple):
    """Where a generation's time went, in nanoseconds by the server's clock: in the queue, to the first token, after."""

    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0


class Status(NamedTuple):
    """A server now: clients, requests that wait, and what it counted since its start.

    `served`: requests answered by the engine. `refused`: connections beyond the limit, or of another user. `dropped`:
    connections ended for what came over them, or did not. Latencies, in microseconds, are those of the last `recent`
    first tokens, with the time in the queue, and of the last `recent_later` further tokens; 0 where there was none.
    """

    pid: int = 0
    uptime_ms: int = 0
    clients: int = 0
    waiting: int = 0
    served: int = 0
    tokens: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    dropped: int = 0
    recent: int = 0
    ttft_p50_us: int = 0
    ttft_p99_us: int = 0
    recent_later: int = 0
    token_p50_us: int = 0
    token_p99_us: int = 0


@dataclass(frozen=True, slots=True)
class Prepare:
    """Client: prepare the case."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Stage:
    """Server: a phase of `prepare` begins."""

    name: Phase


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
class Rehearse:
    """Client, of a server of its own: play a Prefill to nobody. Answered as one, by a Token that means nothing."""

    prompt: Sequence[int]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Client: the next token of the sequence."""


@dataclass(frozen=True, slots=True)
class Token:
    """Server: a token id. After the one of a Prefill or a Decode follows a Counted."""

    token_id: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Server: the counters after a Prefill or a Decode, unasked: reading them costs no round trip, and the token, which
    is timed, does not wait for them."""

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
class Generate:
    """Client: a whole answer. It ends after `new_tokens` tokens or behind one of the ids of `stop`."""

    prompt: Sequence[int]
    new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[int] = ()
    stream: bool = True


@dataclass(frozen=True, slots=True)
class Finished:
    """Server: the answer is over; all its tokens, whether they were streamed or not."""

    reason: Reason
    tokens: Sequence[int]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Cancel:
    """Client: no more of what this client has asked to be generated."""


@dataclass(frozen=True, slots=True)
class GetStatus:
    """Client: how is the server?"""


@dataclass(frozen=True, slots=True)
class StatusIs:
    """Server: its counters, those of the case, and what it serves: the model's name, its folder, the engine."""

    status: Status
    stats: Stats
    model: str
    folder: str
    engine: str


@dataclass(frozen=True, slots=True)
class GetIdentity:
    """Client: who answers such a prompt?"""

    prompt: Sequence[int]


@dataclass(frozen=True, slots=True)
class IdentityIs:
    """Server: what the case can prove of itself, and the counters behind it."""

    identity: Identity
    stats: Stats


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Client: end the server, whoever else is connected."""


@dataclass(frozen=True, slots=True)
class Close:
    """Client: no more requests. A server that belongs to this client gives everything back and ends."""


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
    | Stage
    | Ready
    | Prefill
    | Rehearse
    | Decode
    | Token
    | Counted
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
    | Generate
    | Finished
    | Cancel
    | GetStatus
    | StatusIs
    | Shutdown
    | GetIdentity
    | IdentityIs
    | Close
    | Closed
    | Failure
)
