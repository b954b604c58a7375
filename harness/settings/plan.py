"""What will be run, in which order, and about how long it takes."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from harness.job import CaseJob, Job, SweepJob
from harness.measure.energy import LEAD_S, TAIL_S, few
from harness.measure.referee import judged_cases
from harness.schema import REFERENCE
from harness.settings.compose import ROOT
from harness.settings.config import CaseConfig, RunConfig, SweepConfig

CONTEXT_STEP = 256
ENGINES = ".venv-"
"""How the folders of environments begin that `make setup-NAME` makes for engines with pins of their own."""
CONTEXT_LEAST = 512


def order(config: RunConfig) -> list[tuple[str, int]]:
    """All (case, block) pairs of a run in the order in which they are measured."""
    return order_of(config.seed, {name: blocks_of(config.cases[name], config.sweep) for name in config.run})


def order_of(seed: int, planned: Mapping[str, int]) -> list[tuple[str, int]]:
    """All (case, block) pairs, of as many blocks as each case has planned: round by round, the cases of each in a
    random order that `seed` fixes.

    A case with fewer blocks than others sits out rounds drawn at random, so that a drift over the run is no case's own.
    """
    draw = random.Random(seed)
    rounds = range(max(planned.values()))
    places = {name: sorted(random.Random(f"{seed}/{name}").sample(rounds, count)) for name, count in planned.items()}
    pairs = []
    for turn in rounds:
        names = [name for name in planned if turn in places[name]]
        draw.shuffle(names)
        pairs += [(name, places[name].index(turn)) for name in names]
    return pairs


def blocks_of(case: CaseConfig, sweep: SweepConfig) -> int:
    """Fresh processes of a case: its own number, else the sweep's."""
    return sweep.blocks if case.blocks is None else case.blocks


def longest(sweep: SweepConfig) -> int:
    """Positions that the longest request takes, prompt, forced and new tokens together."""
    if sweep.workload == "stream":
        return sweep.stream.lengths[1]
    if sweep.workload == "interference":
        return max(*sweep.interference.lengths, *sweep.interference.missing)
    return max(max(sweep.prompt_lengths) + sweep.equivalence.forced_tokens + 1, sweep.decode.context)


def kv_capacity(sweep: SweepConfig, positions: int) -> int:
    """Positions of the KV cache: the need, at least 512, in steps of 256, within the model's `positions`."""
    need = max(CONTEXT_LEAST, longest(sweep))
    return min(-(-need // CONTEXT_STEP) * CONTEXT_STEP, positions)


def requests(case: CaseConfig, sweep: SweepConfig, block: int) -> int:
    """Requests of one block: cold, warm-up, timed, decode sequences and, in block 0, the compared ones."""
    if sweep.workload == "stream":
        return 1 + sweep.stream.requests
    if sweep.workload == "interference":
        return 1 + 4 * sweep.interference.requests
    lengths = len(sweep.prompt_lengths)
    compared = lengths if block == 0 else 0
    timed = sweep_job(sweep).iterations(case.procedure.warmup)
    before = 0 if case.procedure.warmup == "none" else 1 + lengths * sweep.warmup_iterations
    return before + lengths * timed + sequences(case, sweep) + compared


def sequences(case: CaseConfig, sweep: SweepConfig) -> int:
    """Decode sequences of one block, the untimed one included."""
    if sweep.workload != "latency" or sweep.decode.sequences == 0:
        return 0
    return sweep.decode.sequences + (case.procedure.warmup == "apart" and sweep.warmup_iterations > 0)


def expected_seconds(case: CaseConfig, sweep: SweepConfig, block: int) -> float:
    """A rough estimate from the case's `expected` rates and the pauses; with `auto` the whole budget is in it."""
    steps = sequences(case, sweep) * (sweep.decode.context - sweep.decode.prompt_length)
    rates = case.expected
    request_ms = rates.prefill_ms + sweep.pause_ms
    budget = sweep.p99_budget_s if is_auto(sweep) else 0.0
    return rates.setup_s + (requests(case, sweep, block) * request_ms + steps * rates.decode_ms) / 1e3 + budget


def energy_seconds(config: RunConfig, block: int) -> float:
    """What the spans of energy of one block take, where there is a card to read."""
    asked, sweep = config.energy, config.sweep
    if config.device != "cuda" or sweep.workload != "latency" or asked.seconds <= 0 or block >= asked.blocks:
        return 0.0
    spans = 1 + len(few(sweep.prompt_lengths)) + (sweep.decode.sequences > 0)
    return spans * (LEAD_S + asked.seconds + TAIL_S)


def is_auto(sweep: SweepConfig) -> bool:
    """Whether requests go on until P99 is known well enough."""
    return sweep.workload == "latency" and sweep.p99_iterations == "auto"


def refereed(config: RunConfig) -> bool:
    """Whether the reference judges the timed ids behind all blocks, which takes it little more than its set-up."""
    unknown = {"checkpoint": "", "vocab_size": 1}
    return bool(judged_cases(build_job(config, Path(), unknown, longest(config.sweep))))


def show(config: RunConfig, console: Console, done: Collection[tuple[str, int]] = ()) -> None:
    """Print the plan as a table; blocks that are done already, by case and number, take no time."""
    table = Table(title=f"Plan: {config.model.name}, {config.model.dtype}, {config.device}, {config.protocol.name}")
    for column in ("#", "case", "name", "block", "requests", "expected s"):
        table.add_column(column, justify="left" if column in ("case", "name") else "right")
    total = 0.0
    for number, (name, block) in enumerate(order(config), start=1):
        if (name, block) in done:
            table.add_row(str(number), config.cases[name].title, name, str(block), "done", "0")
            continue
        seconds = expected_seconds(config.cases[name], config.sweep, block) + energy_seconds(config, block)
        total += seconds
        count = f"{requests(config.cases[name], config.sweep, block)}{'+' if is_auto(config.sweep) else ''}"
        table.add_row(str(number), config.cases[name].title, name, str(block), count, f"{seconds:.0f}")
    if refereed(config):
        seconds = config.cases[REFERENCE].expected.setup_s
        total += seconds
        table.add_row("", "Referee", REFERENCE, "", "", f"{seconds:.0f}")
    about = f"at most about {total / 60:.1f} min (+: until P99 is known)" if is_auto(config.sweep) else ""
    about = about or f"about {total / 60:.1f} min"
    table.caption = f"{about}; seconds are estimates from cases.*.expected, nothing was run"
    console.print(table)


def interpreter(python: str) -> str:
    """`python` as a child is started with: an absolute path, or a bare name for PATH. Links stay (venvs need them).

    A relative path is one from the working directory, but for that of an environment of `make setup-NAME`, which is
    one from the repository's root.
    """
    path = Path(python).expanduser()
    if path.parts[0].startswith(ENGINES):
        return str(ROOT / path)
    return str(path.absolute()) if len(path.parts) > 1 else python


def case_job(case: CaseConfig, sweep: SweepConfig, seed: int) -> CaseJob:
    """The part of a job that describes one case."""
    return CaseJob(
        title=case.title,
        target=case.target,
        transport=cast(Any, case.transport),
        python=None if case.python is None else interpreter(case.python),
        timeout_s=case.timeout_s,
        options=case.options,
        sampling={**asdict(case.sampling), "seed": seed},
        clock=cast(Any, case.procedure.clock),
        warmup=cast(Any, case.procedure.warmup),
        prompt=cast(Any, case.procedure.prompt),
        rehearse=case.procedure.rehearse,
        pinning=cast(Any, case.procedure.pinning),
        blocks=blocks_of(case, sweep),
    )


def sweep_job(sweep: SweepConfig) -> SweepJob:
    """The part of a job that says what is measured how often."""
    return SweepJob(
        prompt_lengths=sweep.prompt_lengths,
        ttft_iterations=sweep.ttft_iterations,
        p99_iterations=cast(Any, sweep.p99_iterations),
        warmup_iterations=sweep.warmup_iterations,
        pause_ms=sweep.pause_ms,
        blocks=sweep.blocks,
        decode_prompt_length=sweep.decode.prompt_length,
        decode_context=sweep.decode.context,
        decode_sequences=sweep.decode.sequences,
        forced_tokens=sweep.equivalence.forced_tokens,
        tolerance=sweep.equivalence.tolerance,
        context_ranges=sweep.context_ranges,
        workload=cast(Any, sweep.workload),
        stream=asdict(sweep.stream),
        interference=asdict(sweep.interference),
        evict=sweep.evict,
        p99_width=sweep.p99_width,
        p99_budget_s=sweep.p99_budget_s,
    )


def build_job(config: RunConfig, run_dir: Path, prepared: Mapping[str, Any], positions: int) -> Job:
    """The frozen plan; `prepared` is what the prepare child found, `positions` the model's longest context."""
    return Job(
        run_dir=str(run_dir),
        seed=config.seed,
        device=cast(Any, config.device),
        dtype=cast(Any, config.model.dtype),
        checkpoint=str(prepared["checkpoint"]),
        vocab_size=int(prepared["vocab_size"]),
        context=kv_capacity(config.sweep, positions),
        sampling={**asdict(config.protocol.sampling), "seed": config.seed},
        sweep=sweep_job(config.sweep),
        cases={name: case_job(config.cases[name], config.sweep, config.seed) for name in config.run},
        order=order(config),
        sentence=list(prepared.get("sentence", [])),
        end_id=int(prepared.get("end_id", 0)),
    )
