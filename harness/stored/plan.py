"""The plan of a stored run, from its manifest alone: a published run has no job.json."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from harness.job import CaseJob, Job, SweepJob, read_job
from harness.settings.plan import order_of
from harness.stored.check import Check, failed, note, ok, read_object

T = TypeVar("T")
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
MOST_REQUESTS = 10_000_000
"""A count beyond this is no plan of a run."""
MOST_BLOCKS = 10_000


COUNTED = (
    "prompt_lengths", "ttft_iterations", "p99_iterations", "warmup_iterations", "blocks", "decode_prompt_length",
    "decode_context", "decode_sequences", "forced_tokens", "tolerance", "context_ranges", "workload",
)  # fmt: skip
"""What of a sweep decides which samples there are, and what is made of them."""


class Facts:
    """Values of a JSON object by dotted place, each of its type. Raises ValueError with one sentence."""

    def __init__(self, value: Mapping[str, Any], name: str = "manifest.json") -> None:
        self._value, self._name = value, name

    def get(self, place: str, kind: type[T] | tuple[type[T], ...], usual: T | None = None) -> T:
        """The value at a place; `usual`, where given, stands for one that an older file lacks."""
        at: Any = self._value
        for part in place.split("."):
            if not isinstance(at, dict):
                raise ValueError(f"{self._name} has no {place}")
            if part not in at:
                if usual is None:
                    raise ValueError(f"{self._name} has no {place}")
                return usual
            at = at[part]
        if not isinstance(at, kind) or (isinstance(at, bool) and kind is not bool):
            raise ValueError(f"{self._name}: {place} is {str(at)[:40]}, which is of the wrong type")
        return at

    def count(self, place: str, usual: int | None = None, most: int = MOST_REQUESTS) -> int:
        """A whole number from 0 to `most`."""
        value = self.get(place, int, usual)
        if not 0 <= value <= most:
            raise ValueError(f"{self._name}: {place} is {str(value)[:40]}, not from 0 to {most}")
        return value

    def counts(self, place: str, size: int | None = None) -> list[int]:
        """A list of whole numbers, `size` of them."""
        values = self.get(place, list)
        right = all(isinstance(one, int) and 0 <= one <= MOST_REQUESTS for one in values)
        if not right or (size is not None and len(values) != size):
            raise ValueError(f"{self._name}: {place} is {str(values)[:40]}, not a list of whole numbers")
        return values


def stored_job(folder: Path, manifest: Mapping[str, Any]) -> Job:
    """The plan that the manifest's configuration asks for. What job.json alone knows (the sentence) comes from there.

    Raises:
        ValueError: one sentence on what the manifest lacks, or has of another type.
    """
    facts = Facts(manifest)
    names = facts.get("config.run", list)
    if not names or not all(isinstance(name, str) and name and set(name) <= NAME for name in names):
        raise ValueError("manifest.json: config.run is no list of cases' names")
    sweep = sweep_of(facts)
    cases = {name: case_of(facts, name) for name in names}
    planned = {name: sweep.blocks if case.blocks is None else case.blocks for name, case in cases.items()}
    job = Job(
        run_dir=str(folder),
        seed=facts.get("config.seed", int),
        device="cpu" if facts.get("smoke", bool) else "cuda",
        dtype=cast(Any, facts.get("config.model.dtype", str)),
        checkpoint="",
        vocab_size=facts.count("model.shape.vocab_size", 0),
        context=0,
        sampling=sampling_of(facts, "config.protocol.sampling"),
        sweep=sweep,
        cases=cases,
        order=order_of(facts.get("config.seed", int), planned),
    )
    return with_sentence(job, folder / "job.json")


def first_order(job: Job) -> list[tuple[str, int]]:
    """The order of blocks that early runs drew: a case with fewer blocks than others was in the first rounds only."""
    draw = random.Random(job.seed)
    pairs = []
    for block in range(max(map(job.blocks_of, job.cases))):
        names = [name for name in job.cases if block < job.blocks_of(name)]
        draw.shuffle(names)
        pairs += [(name, block) for name in names]
    return pairs


def with_sentence(job: Job, path: Path) -> Job:
    """The job with the sentence, its end and the vocabulary that job.json has; as it is where there is none."""
    if not path.is_file():
        return job
    facts = Facts(read_object(path), "job.json")
    words = facts.counts("sentence") if facts.get("sentence", list, []) else []
    return replace(job, sentence=words, end_id=facts.count("end_id", 0), vocab_size=facts.count("vocab_size"))


def p99_of(facts: Facts, place: str) -> int | Literal["auto"]:
    """Requests that P99 is taken over, or that it was measured until it was known."""
    return "auto" if facts.get(place, (int, str)) == "auto" else facts.count(place)


def sweep_of(facts: Facts) -> SweepJob:
    """What is measured how often."""
    at = "config.sweep."
    ranges = facts.get(f"{at}context_ranges", list)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in ranges):
        raise ValueError("manifest.json: config.sweep.context_ranges is no list of pairs")
    workload = facts.get(f"{at}workload", str, "latency")
    if workload not in ("latency", "stream", "interference"):
        raise ValueError(f"manifest.json: config.sweep.workload is '{workload[:40]}'")
    return SweepJob(
        prompt_lengths=facts.counts(f"{at}prompt_lengths"),
        ttft_iterations=facts.count(f"{at}ttft_iterations"),
        p99_iterations=p99_of(facts, f"{at}p99_iterations"),
        warmup_iterations=facts.count(f"{at}warmup_iterations"),
        pause_ms=0.0,
        blocks=facts.count(f"{at}blocks", most=MOST_BLOCKS),
        decode_prompt_length=facts.count(f"{at}decode.prompt_length"),
        decode_context=facts.count(f"{at}decode.context"),
        decode_sequences=facts.count(f"{at}decode.sequences"),
        forced_tokens=facts.count(f"{at}equivalence.forced_tokens"),
        tolerance=facts.get(f"{at}equivalence.tolerance", (int, float)),
        context_ranges=ranges,
        workload=cast(Any, workload),
        stream=stream_of(facts) if workload == "stream" else {},
        interference=interference_of(facts) if workload == "interference" else {},
        evict=facts.get(f"{at}evict", bool, False),
    )


def stream_of(facts: Facts) -> dict[str, Any]:
    """The stream of random lengths."""
    at = "config.sweep.stream."
    every = facts.count(f"{at}memory_every")
    if every == 0:
        raise ValueError(f"manifest.json: {at}memory_every is 0")
    return {
        "requests": facts.count(f"{at}requests"),
        "lengths": facts.counts(f"{at}lengths", 2),
        "memory_every": every,
    }


def interference_of(facts: Facts) -> dict[str, Any]:
    """Requests beside captures."""
    at = "config.sweep.interference."
    lengths, missing = facts.counts(f"{at}lengths"), facts.counts(f"{at}missing")
    if not lengths or not missing:
        raise ValueError(f"manifest.json: {at}lengths or {at}missing is empty")
    return {"requests": facts.count(f"{at}requests"), "lengths": lengths, "missing": missing}


def case_of(facts: Facts, name: str) -> CaseJob:
    """One case; what runs from before cases had a procedure lack is what all cases did then."""
    at = f"config.cases.{name}."
    entry = facts.get(at[:-1], dict)
    blocks = None if entry.get("blocks") is None else facts.count(f"{at}blocks", most=MOST_BLOCKS)
    procedure = Facts(entry.get("procedure") or {}, f"manifest.json, {at}procedure")
    own = f"{at}sampling"
    return CaseJob(
        title=facts.get(f"{at}title", str),
        target=facts.get(f"{at}target", str),
        transport=cast(Any, facts.get(f"{at}transport", str)),
        python=None,
        timeout_s=0.0,
        options={},
        sampling=sampling_of(facts, own) if "sampling" in entry else {},
        clock=cast(Any, one_of(procedure.get("clock", str, "client"), ("client", "server"))),
        warmup=cast(Any, one_of(procedure.get("warmup", str, "apart"), ("apart", "none"))),
        prompt=cast(Any, one_of(procedure.get("prompt", str, "random"), ("random", "sentence"))),
        blocks=blocks,
    )


def one_of(word: str, allowed: Sequence[str]) -> str:
    """The word. Raises ValueError when it is none of those allowed."""
    if word not in allowed:
        raise ValueError(f"manifest.json: a procedure says '{word[:40]}', which is not one of {', '.join(allowed)}")
    return word


def sampling_of(facts: Facts, place: str) -> dict[str, Any]:
    """How tokens are chosen; `published`, which only a protocol says and no case does, is kept out of the plan."""
    strategy = facts.get(f"{place}.strategy", str)
    return {"strategy": "sample" if strategy == "published" else one_of(strategy, ("greedy", "sample"))}


def same_plan(folder: Path, job: Job) -> Check:
    """Whether job.json, which the workers obeyed, asks for what the manifest says."""
    path, name = folder / "job.json", "plan"
    if not path.is_file():
        return note(name, "no job.json, as in every published run: the plan is the one that manifest.json asks for")
    try:
        frozen = read_job(path)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return failed(name, f"job.json is no plan of this harness ({type(error).__name__}: {str(error)[:80]})")
    for what, ours, theirs in (
        ("seed", job.seed, frozen.seed),
        ("cases", list(job.cases), list(frozen.cases)),
        ("order of blocks", job.order, frozen.order),
        *((f"sweep ({key})", getattr(job.sweep, key), getattr(frozen.sweep, key)) for key in COUNTED),
    ):
        if ours != theirs:
            return failed(name, f"the {what} in job.json is not what manifest.json asks for")
    return ok(name, f"job.json has the plan of manifest.json: {len(job.order)} blocks of {len(job.cases)} cases")
