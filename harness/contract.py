"""What a case is, seen from the measuring loop: the loop never sees a tensor, a case never sees a clock.

Standard library alone, so that a case may run under an interpreter of its own (`case.python`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

Strategy = Literal["greedy", "sample"]
Pacing = Literal["pull", "push"]
Activity = Literal["cuda", "cpu", "none"]
Phase = Literal["load", "compile", "capture"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""What a case does while it prepares, as SetUp has the seconds of each."""
REPORTS_LIMIT = 16
"""Phases that a case may report in one `prepare`: it may load, compile and capture several times over."""
REHEARSE_NS = 200_000
"""Between two rehearsals of the whole path of a request, in nanoseconds; see Case.rehearse."""


class Unavailable(Exception):
    """The engine that the case names is not here; the message says what is missing and how to get it."""


class Unsupported(Exception):
    """The engine is here but does not do what was asked; the message says what it does instead."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `greedy` ignores temperature, top-k and top-p; `top_k=0` and `top_p=1.0` mean off.

    `repetition_penalty` divides the positive logits of tokens that the sequence holds already and multiplies the
    negative ones (Keskar et al. 2019); 1.0 means off.
    """

    strategy: Strategy = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Everything a case may know before its first request. It holds no prompt length: a case can't tune for the sweep.

    `checkpoint` is a folder in the Hugging Face layout (config.json and *.safetensors); `context` is how many
    positions, prompt and new tokens together, a request may take; `options` is the case's own part of the
    configuration, already validated by the case's `check_options`.
    """

    case: str
    checkpoint: str
    device: Literal["cuda", "cpu"]
    dtype: Literal["float16", "bfloat16", "float32"]
    context: int
    sampling: Sampling = field(default_factory=Sampling)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Capabilities:
    """What a case can do. They refuse and never adapt: what is asked beyond them is a row `unsupported`.

    `pacing`: with `pull` the engine works when asked, with `push` it runs ahead of the client.
    `gpu_time`: whether `stats().gpu_ns` grows. `logits`: whether `score` answers.
    """

    samplers: frozenset[Strategy] = frozenset({"greedy"})
    pacing: Pacing = "pull"
    gpu_time: bool = False
    logits: bool = False


@dataclass(frozen=True)
class SetUp:
    """What answered, and what the set-up took, in seconds. `engine` names software, version and kernels."""

    engine: str
    load_s: float = 0.0
    compile_s: float = 0.0
    capture_s: float = 0.0


class Stats(NamedTuple):
    """Counters that only grow; the loop takes differences between requests.

    `gpu_ns`: time between CUDA events around the engine's work. `server_ns`: time by the clock of the process
    that holds the engine, when that is not the caller. `captures`: CUDA graphs captured. `replays`: forwards
    answered by a graph. `ungraphed`: forwards that a case with graphs had to run without one. `hits`, `misses`:
    prefills whose graph was there, and was not. `evictions`: graphs that made room. `failures`: captures that
    failed. `begun`: captures begun; more of them than `captures` and `failures` together is one going on.
    `coalesced`: tokens of a stream (`push`) whose interval is no step of the engine's: they shared a chunk with
    others, or lay there before they were asked for.
    """

    gpu_ns: int = 0
    server_ns: int = 0
    captures: int = 0
    replays: int = 0
    ungraphed: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    failures: int = 0
    begun: int = 0
    coalesced: int = 0


class Footprint(NamedTuple):
    """Device memory at its peak and held by graphs, in bytes, and how many graphs there are."""

    peak_memory_bytes: int = 0
    graph_pool_bytes: int = 0
    graphs: int = 0


class CaptureRecord(NamedTuple):
    """One capture tried: its bucket (0 is the decode graph), how long it took, device bytes that the graphs' memory
    grew by, and why it failed ("" when it did not)."""

    bucket: int
    seconds: float
    grown_bytes: int
    reason: str = ""


class Kernel(NamedTuple):
    """What a profiler saw run: the phase, `prefill` or `decode`, the name of a kernel, or on the CPU of an operation,
    and how often."""

    phase: str
    name: str
    times: int


@dataclass(frozen=True)
class Identity:
    """What a case can prove of who answers: a pass of a profiler over one prefill and two decode steps.

    `modules`: software that is loaded, and its versions. `sampler`: who chooses the token. `activity`: what was seen,
    kernels of a GPU, operations on the CPU, or nothing. `launches`: CUDA graphs that the profiler saw launched;
    `replays`, `ungraphed`: what the case's own counters say of the same pass. `unproven`: why nothing was seen.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    sampler: str = ""
    activity: Activity = "none"
    kernels: tuple[Kernel, ...] = ()
    launches: int = 0
    replays: int = 0
    ungraphed: int = 0
    unproven: str = ""


class Judged(NamedTuple):
    """What a model's logits at one position say of the id that follows: the likeliest id, by how much its logit lies
    above that of the id that follows (0 when it is that id), and the root mean square of all logits there."""

    likeliest: int
    gap: float
    rms: float


class Eviction(NamedTuple):
    """All graphs given back: how many, what they held, and free device memory before and after, in bytes."""

    graphs: int
    held_bytes: int
    free_before_bytes: int
    free_after_bytes: int


def unheard(phase: Phase) -> None:
    """Nobody listens: the case is used by itself, or does not prepare now."""


class Case(ABC):
    """One engine, one model, one sequence at a time.

    Order of calls: `prepare` once; then any number of requests, each one `prefill` and then up to
    `new_tokens - 1` times `decode`; `close` at any time. A returned token id is a host integer, so every
    interval that the loop times ends with the token in host memory, whatever the engine.
    """

    capabilities: ClassVar[Capabilities]

    report: Callable[[Phase], None] = staticmethod(unheard)
    """Called by the case inside `prepare`, on the thread that called that, when a phase begins; without a call it is
    `load`. A failure or a hang is then told of that phase. Who prepares the case sets it; a case never does."""

    meanwhile: Callable[[int], None] | None = None
    """Called with the time in nanoseconds (time.perf_counter_ns), again and again, by a case that polls for its GPU
    inside a request: whoever serves the case keeps its own path warm with it, some ten microseconds at a time. Who
    serves the case sets it; one that waits inside a library never calls it. None: the case waits as it likes best."""

    @classmethod  # noqa: B027  most cases have no options
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse bad options with one sentence (ValueError), without importing anything heavy."""

    @abstractmethod
    def prepare(self, plan: Plan) -> SetUp:
        """Load, compile, capture.

        Raises:
            Unavailable: the engine is not installed, or not usable on this machine.
            Unsupported: the engine can't do what the plan asks.
        """

    @abstractmethod
    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """Forget the last sequence, read `prompt` (token ids), return the first new token id.

        `new_tokens` is the most that will be asked of this request, this one included.
        """

    @abstractmethod
    def decode(self) -> int:
        """Return the next token id of the sequence. An end-of-sequence id ends nothing."""

    @abstractmethod
    def stats(self) -> Stats:
        """Counters since `prepare`."""

    def footprint(self) -> Footprint:
        """Memory and graphs now."""
        return Footprint()

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        """Logits under teacher forcing: after the prompt, and after each of `forced`, by the engine's timed path.

        Returns `len(forced) + 1` float32 arrays of vocabulary size. Not timed.
        """
        raise Unsupported("this engine does not hand out logits")

    def judge(self, prompt: Sequence[int], ids: Sequence[int]) -> list[Judged]:
        """What the model says of each of `ids` behind the prompt and those before it: `len(ids)` judgements.

        One forward over all of them, by whatever path is quickest; ids are of the vocabulary. It may end the sequence
        in hand. Not timed. Only a case that others are compared with needs it, and no transport carries it.
        """
        raise Unsupported("this engine does not judge ids")

    def identity(self, prompt: Sequence[int]) -> Identity:
        """Show which engine, kernels, graphs and sampler answer a prompt. It begins a sequence. Not timed."""
        return Identity(unproven="this engine has no way to show its kernels")

    def use(self, sampling: Sampling) -> None:
        """Choose tokens so from the next `prefill` on. Raises Unsupported where the engine can't change it."""
        raise Unsupported("this engine chooses tokens as its plan said, for every request")

    def captured(self) -> list[CaptureRecord]:
        """The captures tried so far, in order; of very many, the last 16,384."""
        return []

    def evict(self) -> Eviction:
        """Give every graph back and measure what that returned; later requests capture again. Not timed."""
        raise Unsupported("this engine keeps no graphs that could be evicted")

    @property
    def engine_thread(self) -> int | None:
        """The thread that launches for a request, by its Linux id, where that is known and not the caller's."""
        return None

    def rehearse(self) -> None:  # noqa: B027  most engines have nothing to keep warm
        """Run the next part of what a request runs, on nothing: called again and again by who waits for a request.

        That is a server that polls, and in process the loop while a case rests. A part takes some ten microseconds at
        most, over a socket a round trip; it changes no answer and may come between the tokens of a sequence, and a
        request may come between two parts.
        """

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Idempotent, legal after a failed or missing `prepare`."""
