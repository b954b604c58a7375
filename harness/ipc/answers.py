"""The requests of clients answered with the calls of one case."""

from __future__ import annotations

import gc
import traceback
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from harness.contract import Case, Phase, Sampling, SetUp, Stats, Unavailable, Unsupported
from harness.ipc import messages as m
from harness.ipc.connection import Clock, Connection
from harness.ipc.fields import TEXT_LIMIT, WireError
from harness.ipc.rehearsal import Rehearsed
from harness.ipc.tally import Tally
from harness.ipc.turns import Turns
from harness.ipc.wire import encode
from harness.loader import load_case
from harness.measure.preparing import heard


@dataclass(frozen=True)
class Served:
    """A case that was prepared before its first client came: its model's name and folder, its plan's sampling."""

    case: Case
    setup: SetUp
    model: str
    folder: str
    vocab_size: int
    sampling: Sampling


class Answers:
    """One case, prepared by its only client (`target`) or before any client came (`served`).

    The engine holds one sequence. Who began it may go on with it until another request takes its place.
    """

    def __init__(self, target: str, served: Served | None, turns: Turns, tally: Tally, clock: Clock) -> None:
        self._target, self._served = target, served
        self.tally = tally
        self._turns, self._clock = turns, clock
        self._case = served.case if served else None
        self._setup = served.setup if served else SetUp("")
        self._ready = served is not None
        self._owner: Connection | None = None
        self._default = self._sampling = served.sampling if served else Sampling()
        self._server_ns = 0
        self._count: tuple[Callable[[int], None], int] | None = None
        self._fault = ""
        self._meanwhile: Callable[[int], None] | None = None
        self._double: Answers | None = None
        self.handlers: dict[type, Callable[[Connection, Any], list[m.Message]]] = {
            m.Prefill: self._prefill,
            m.Decode: self._decode,
            m.GetFootprint: self._footprint,
            m.Use: self._use,
            m.GetCaptures: self._captures,
        }
        if served is None:
            self.handlers |= {m.Prepare: self._prepare, m.Score: self._score, m.Evict: self._evict}
            self.handlers |= {m.GetIdentity: self._identity, m.Rehearse: self._rehearse}

    def to(self, connection: Connection, request: Any) -> list[bytes]:
        """Frames ready to send: what a case gives that can't be sent is a failure of the case too."""
        try:
            return [encode(answer) for answer in self.handlers[type(request)](connection, request)]
        except Exception as error:  # noqa: BLE001  the border of the process: whatever it was, the client is told
            return self._told(error, connection)

    def afterwards(self, connection: Connection) -> list[bytes]:
        """What the last answer did not wait for: to count it, and the frames of the counters behind a token."""
        if self._count is None:
            return []
        count, took_ns = self._count
        self._count = None
        count(took_ns)
        return self.guarded(lambda: [encode(m.Counted(self.stats()))], connection)

    def guarded(self, call: Callable[[], list[bytes]], connection: Connection) -> list[bytes]:
        """What `call` gives, or the frame of a Failure; then the hold of its client is over."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001  as above
            return self._told(error, connection)

    def engine(self) -> Case:
        """The case. Raises RuntimeError before it is prepared, and where a benchmark's case failed to rehearse."""
        if self._case is None or not self._ready:
            raise RuntimeError("the case is not prepared")
        if self._fault and self._served is None:
            raise RuntimeError(self._fault)
        return self._case

    def _told(self, error: Exception, connection: Connection) -> list[bytes]:
        """The frame of the Failure, of the kind that the client raises again."""
        if isinstance(error, Unavailable):
            told = failure("unavailable", str(error))
        elif isinstance(error, Unsupported):
            told = failure("unsupported", str(error))
        elif isinstance(error, WireError):
            told = failure("failed", f"WireError: {error}")
        elif isinstance(error, ValueError):
            told = failure("invalid", str(error))
        else:
            traceback.print_exception(error)
            told = failure("failed", f"{type(error).__name__}: {error}")
        self._turns.release(connection)
        self.tally.failed += 1
        self._count = None
        return [told]

    def begin(self, request: m.Generate) -> Case:
        """The engine, about to read this prompt. Raises ValueError for ids or sampling that it does not have."""
        case = self.engine()
        self._check(request.prompt)
        self._choose(request.sampling)
        # Whoever went on token by token has lost the sequence.
        self._owner = NOBODY
        return case

    def stats(self) -> Stats:
        """The counters of the case."""
        return self._case.stats()._replace(server_ns=self._server_ns) if self._case else Stats()

    def status(self, clients: int, waiting: int) -> m.StatusIs:
        """Counters, and what is served."""
        model, folder = (self._served.model, self._served.folder) if self._served else ("", "")
        return m.StatusIs(self.tally.status(clients, waiting), self.stats(), model, folder, self._setup.engine)

    def rehearse(self) -> None:
        """Keep the engine's path of a request warm, once there is an engine, until that fails.

        Nobody asked for it, so a server for all goes on without; that of a benchmark fails the next request, which
        would be measured otherwise than the procedure says.
        """
        if self._case is None or not self._ready or self._fault:
            return
        try:
            self._case.rehearse()
        except Exception as error:  # noqa: BLE001  whatever it was, it is told to whom it concerns
            traceback.print_exc()
            self._fault = f"the case failed to rehearse: {type(error).__name__}: {error}"

    def keep_warm(self, meanwhile: Callable[[int], None]) -> None:
        """What the case is to call while it polls for its GPU: this one, or the one that will be prepared."""
        self._meanwhile = meanwhile
        if self._case is not None:
            self._case.meanwhile = meanwhile

    def understudy(self) -> Callable[[Connection, m.Prefill], list[bytes]]:
        """What answers a Prefill by this code, with rehearsals in the engine's place, and nobody's turn or count."""
        stand_in = self._stand_in()

        def answer(connection: Connection, request: m.Prefill) -> list[bytes]:
            return [*stand_in.to(connection, request), *stand_in.afterwards(connection)]

        return answer

    def _stand_in(self) -> Answers:
        if self._double is None:
            self._double = Answers("", None, Turns(deque(), self._clock, inf), Tally(self._clock), self._clock)
            self._double._case, self._double._ready = Rehearsed(self.rehearse, self.stats), True
        return self._double

    def _rehearse(self, connection: Connection, request: m.Rehearse) -> list[m.Message]:
        """A Prefill played to nobody: the engine's rehearsal, both parts of it, in the engine's place."""
        self.engine()
        stand_in = self._stand_in()
        told = stand_in._prefill(connection, request)
        self.rehearse()
        self._count, stand_in._count = stand_in._count, None
        return told

    def close(self) -> None:
        """Close the case. Idempotent."""
        if self._case is not None:
            self._case.close()

    def _prepare(self, connection: Connection, request: m.Prepare) -> list[m.Message]:
        if self._case is not None:
            raise RuntimeError("prepare was called twice")
        self._case = load_case(self._target)()
        self._case.meanwhile = self._meanwhile
        with heard(self._case, partial(tell, connection)):
            self._setup = self._case.prepare(request.plan)
        self._default = self._sampling = request.plan.sampling
        freeze()
        self._ready = True
        return [m.Ready(self._setup, self._case.stats())]

    def _prefill(self, connection: Connection, request: m.Prefill | m.Rehearse) -> list[m.Message]:
        case, came_ns = self.engine(), connection.taken_ns
        self._check(request.prompt)
        self._choose(connection.sampling or self._default)
        self._owner = connection
        self._turns.hold(connection, request.new_tokens - 1)
        started = self._clock()
        token = case.prefill(request.prompt, request.new_tokens)
        took = self._clock() - started
        self._server_ns += took
        self._count = self.tally.prefill, took + max(0, started - came_ns)
        return [m.Token(token)]

    def _decode(self, connection: Connection, _: m.Decode) -> list[m.Message]:
        case = self.engine()
        if self._owner is not connection and self._owner is not None:
            raise ValueError(
                "there is no sequence of this client: it has begun none, or was silent for too long while others "
                "waited; begin with Prefill"
            )
        started = self._clock()
        token = case.decode()
        took = self._clock() - started
        self._server_ns += took
        self._count = self.tally.later, took
        self._turns.taken()
        return [m.Token(token)]

    def _check(self, prompt: Sequence[int]) -> None:
        """Refuse ids that the model does not have: a GPU would read behind the embedding for them."""
        if self._served is not None and max(prompt) >= self._served.vocab_size:
            raise ValueError(
                f"the prompt holds token id {max(prompt)}: the model has ids from 0 to {self._served.vocab_size - 1}"
            )

    def _choose(self, sampling: Sampling) -> None:
        if sampling is not self._sampling and not alike(sampling, self._sampling):
            self.engine().use(sampling)
        self._sampling = sampling

    def _score(self, _: Connection, request: m.Score) -> list[m.Message]:
        rows = self.engine().score(request.prompt, request.forced)
        gc.collect()
        if len(rows) != len(request.forced) + 1 or any(row.typecode != "f" for row in rows):
            raise RuntimeError(f"score gave {len(rows)} rows, wanted are {len(request.forced) + 1} of float32")
        return [m.Logits(array("f", row).tobytes()) for row in rows]

    def _footprint(self, _: Connection, __: m.GetFootprint) -> list[m.Message]:
        gc.collect()
        return [m.FootprintIs(self.engine().footprint())]

    def _use(self, connection: Connection, request: m.Use) -> list[m.Message]:
        self.engine().use(request.sampling)
        self._sampling = connection.sampling = request.sampling
        return [m.Used()]

    def _captures(self, _: Connection, __: m.GetCaptures) -> list[m.Message]:
        return [m.CapturesAre(self.engine().captured())]

    def _identity(self, _: Connection, request: m.GetIdentity) -> list[m.Message]:
        case = self.engine()
        found = case.identity(request.prompt)
        gc.collect()
        return [m.IdentityIs(found, case.stats()._replace(server_ns=self._server_ns))]

    def _evict(self, _: Connection, __: m.Evict) -> list[m.Message]:
        case = self.engine()
        return [m.Evicted(case.evict(), case.stats()._replace(server_ns=self._server_ns))]


def tell(connection: Connection, phase: Phase) -> None:
    """Say where `prepare` is. A client that is gone is seen to be when it is answered."""
    with suppress(OSError):
        connection.send_frame(encode(m.Stage(phase)))


def alike(one: Sampling, other: Sampling) -> bool:
    """Whether both choose the same tokens: of greedy ones the penalty alone is read, the seed least of all."""
    greedy = one.strategy == other.strategy == "greedy"
    return one == other or (greedy and one.repetition_penalty == other.repetition_penalty)


NOBODY: Any = object()
"""Owns the engine's sequence when no connection does that could go on with it."""


def freeze() -> None:
    """What lives now lives on, and from here nothing is collected inside a request."""
    gc.collect()
    gc.freeze()
    gc.disable()


def failure(kind: m.FailureKind, message: str) -> bytes:
    """The frame of a Failure that can be sent, whatever text the exception holds."""
    return encode(m.Failure(kind, message[:TEXT_LIMIT].encode("utf-8", "replace").decode()))
