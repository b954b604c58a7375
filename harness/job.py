"""`job.json`: the frozen, resolved plan of a run, read by workers with the standard library alone."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.contract import Plan, Sampling
from harness.disk import write_json
from harness.schema import REFERENCE

MOST_ITERATIONS = 10_000
"""Timed requests a length and block with `auto` has at most."""


@dataclass(frozen=True)
class CaseJob:
    """One case: what to load, where, with which options, and the procedure by which it is measured.

    `sampling`: empty where the run's own holds. `blocks`: None, as in jobs from before cases had blocks of their own,
    is as many as the sweep's.
    """

    title: str
    target: str
    transport: Literal["inproc", "unix"]
    python: str | None
    timeout_s: float
    options: dict[str, Any]
    sampling: dict[str, Any] = field(default_factory=dict)
    clock: Literal["client", "server"] = "client"
    warmup: Literal["apart", "none"] = "apart"
    prompt: Literal["random", "sentence"] = "random"
    blocks: int | None = None
    rehearse: bool = True
    pinning: Literal["none", "quickest"] = "none"


@dataclass(frozen=True)
class SweepJob:
    """What is measured how often; keys as in conf/sweep."""

    prompt_lengths: list[int]
    ttft_iterations: int
    p99_iterations: int | Literal["auto"]
    warmup_iterations: int
    pause_ms: float
    blocks: int
    decode_prompt_length: int
    decode_context: int
    decode_sequences: int
    forced_tokens: int
    tolerance: float
    context_ranges: list[list[int]]
    workload: Literal["latency", "stream", "interference"] = "latency"
    stream: dict[str, Any] = field(default_factory=dict)
    interference: dict[str, Any] = field(default_factory=dict)
    evict: bool = False
    p99_width: float = 0.02
    p99_budget_s: float = 60.0

    @property
    def auto(self) -> bool:
        """Whether each length gets requests until its P99 is known well enough (harness/measure/adaptive.py)."""
        return self.p99_iterations == "auto"

    def iterations(self, warmup: str) -> int:
        """Timed requests a length and block: with warm-up apart one stream serves TTFT and P99, else each has one.

        With `auto` those that every length has; more may follow.
        """
        if self.p99_iterations == "auto":
            return self.ttft_iterations
        return self.p99_window(warmup)[1] if warmup == "none" else max(self.ttft_iterations, self.p99_iterations)

    def most_iterations(self, warmup: str) -> int:
        """Timed requests that a length and block may come to."""
        return MOST_ITERATIONS if self.auto else self.iterations(warmup)

    def p99_window(self, warmup: str) -> tuple[int, int]:
        """First iteration that P99 is taken over, and the one behind the last."""
        if self.p99_iterations == "auto":
            return 0, MOST_ITERATIONS
        first = self.ttft_iterations if warmup == "none" else 0
        return first, first + self.p99_iterations

    @property
    def decode_steps(self) -> int:
        """Decode steps a sequence: the prompt's last position to the last context length."""
        return self.decode_context - self.decode_prompt_length


@dataclass(frozen=True)
class Job:
    """A whole run. `order` is the seeded random order of (case, block).

    `sentence`: token ids of the prompt that some cases may be given, and `end_id` what pads it. `energy_s`: seconds of
    back-to-back requests that energy is taken over, a length, in the first `energy_blocks` blocks of a case; 0 is none.
    """

    run_dir: str
    seed: int
    device: Literal["cuda", "cpu"]
    dtype: Literal["float16", "bfloat16", "float32"]
    checkpoint: str
    vocab_size: int
    context: int
    sampling: dict[str, Any]
    sweep: SweepJob
    cases: dict[str, CaseJob]
    order: list[tuple[str, int]]
    sentence: list[int] = field(default_factory=list)
    end_id: int = 0
    energy_s: float = 0.0
    energy_blocks: int = 0

    def sampling_of(self, case: str) -> Sampling:
        """How a case chooses tokens."""
        return Sampling(**(self.cases[case].sampling or self.sampling))

    def same_requests(self, case: str) -> bool:
        """Whether a case's timed requests have the reference's prompts and, greedy like it, should have its ids."""
        if REFERENCE not in self.cases:
            return False
        ours, reference = self.cases[case], self.cases[REFERENCE]
        greedy = all(self.sampling_of(name).strategy == "greedy" for name in (case, REFERENCE))
        return greedy and (ours.prompt, ours.warmup) == (reference.prompt, reference.warmup)

    def blocks_of(self, case: str) -> int:
        """How many blocks a case has."""
        own = self.cases[case].blocks
        return self.sweep.blocks if own is None else own

    def plan(self, case: str) -> Plan:
        """What the case is told: everything but the prompts and how many there are."""
        return Plan(
            case=case,
            checkpoint=self.checkpoint,
            device=self.device,
            dtype=self.dtype,
            context=self.context,
            sampling=self.sampling_of(case),
            options=self.cases[case].options,
        )

    def planned_samples(self, case: str, block: int) -> dict[str, int]:
        """How many samples of each metric a whole block has; with `auto` the least of `ttft`."""
        sweep = self.sweep
        if sweep.workload == "stream":
            return {"cold": 1, "stream": sweep.stream["requests"]}
        if sweep.workload == "interference":
            return {"cold": 1, "quiet": sweep.interference["requests"], "busy": sweep.interference["requests"]}
        warmup = self.cases[case].warmup
        return {
            "cold": int(warmup == "apart"),
            "ttft": sweep.iterations(warmup) * len(sweep.prompt_lengths),
            "decode": sweep.decode_sequences * sweep.decode_steps,
        }

    def block_dir(self, case: str, block: int) -> Path:
        """Where the worker of this case and block writes."""
        return Path(self.run_dir) / "blocks" / f"{case}-{block}"


def write_job(job: Job, path: Path) -> None:
    """Write `job` once, whole or not at all; a file already there is an error (FileExistsError)."""
    if path.exists():
        raise FileExistsError(errno.EEXIST, "a plan is frozen once", str(path))
    write_json(path, asdict(job))


def read_job(path: Path, folder: Path | None = None) -> Job:
    """Read what `write_job` wrote; `folder` is where the run lies now, if not where it did. Raises ValueError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["sweep"] = SweepJob(**data["sweep"])
        data["cases"] = {name: CaseJob(**case) for name, case in data["cases"].items()}
        data["order"] = [(case, block) for case, block in data["order"]]
        job = Job(**data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not as the harness wrote it ({error}): this run can't go on") from error
    return job if folder is None else replace(job, run_dir=str(folder))
