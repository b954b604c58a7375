"""A run that was begun, to its report: checkpoint, one worker after the other, summaries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness import attempt
from harness.disk import Stopped, told, write_json
from harness.folder import (
    all_done,
    check_same_plan,
    check_same_weights,
    check_there,
)
from harness.job import Job, read_job, write_job
from harness.judging import judge
from harness.machine.gpu import near_cores
from harness.machine.telemetry import Telemetry
from harness.output import manifest, record
from harness.output.equivalence import unequal
from harness.output.summary import clear, make_tables
from harness.processes.interrupt import Interrupts
from harness.processes.launch import command, describe_exit, network_environment, run_child
from harness.processes.leftovers import MARK, mark
from harness.processes.progress import Watcher, watcher
from harness.processes.warden import warden
from harness.settings import conditions
from harness.settings.compose import ROOT
from harness.settings.machine import check_card, check_memory
from harness.settings.plan import build_job, order
from harness.settings.validate import check_positions, weights_folder
from harness.start import Run

UNEQUAL = 3
"""The exit code of a run in which everything ran and a case does not compute what the baseline computes."""


def carry_out(run: Run) -> int:
    """Prepare, measure, summarise, report; the exit code is 0 when no case failed, 1 when one did, 3 when one
    computes other than the baseline; when interrupted, 130 by SIGINT, 143 by SIGTERM, 129 by the terminal's end."""
    run.interrupts.on_heed = lambda: run.say("stopping behind the request in hand; once more stops at once")
    with run.held, run.interrupts as interrupts, warden():
        try:
            with told(run.folder):
                return _measure(run, interrupts)
        except KeyboardInterrupt:
            if interrupts.times < 2:
                _summarise_part(run)
            run.say(f"interrupted; go on with: python -m harness resume={run.folder}")
            return interrupts.exit_code
        except Stopped as error:
            run.say(f"failed: {error}")
            return error.exit_code


def _measure(run: Run, interrupts: Interrupts) -> int:
    blocks = len(order(run.config))
    with interrupts.patient(), watcher(run.console, blocks) as watch, _telemetry(run) as telemetry:
        job = _freeze(run, watch, telemetry)
        _run_blocks(run, job, watch, telemetry)
        unjudged = judge(run, job, watch)
    return _close(run, job, unjudged)


def _telemetry(run: Run) -> Telemetry:
    """From before the first child on: who computes on the GPU then is none of this run."""
    gpu = None if run.gpu is None else run.gpu.index
    return Telemetry(run.folder / "telemetry.csv", gpu, run.config.telemetry.hz)


def _freeze(run: Run, watch: Watcher, telemetry: Telemetry) -> Job:
    """Prepare, then write job.json and manifest.json; a resumed run keeps those it has, one that is whole as it is."""
    path = run.folder / "job.json"
    if all_done(run.folder):
        run.say(f"every block of {run.folder} is done: its tables and report are made again")
        manifest.resumed(run.folder / "manifest.json", run.started)
        return read_job(path, run.folder)
    prepared = _prepare(run, watch)
    _check_model(run, prepared)
    if path.exists():
        job = _resume(run, path, prepared)
        if not any(record.read_verdict(job, *pair) for pair in job.order):
            manifest.measured_nothing(run.folder / "manifest.json", run.gpu, prepared)
    else:
        job = _plan(run, prepared)
        no_energy = conditions.why_no_energy(run.config, run.gpu)
        energy = run.config.energy
        job = replace(job, energy_s=0.0 if no_energy else energy.seconds, energy_blocks=energy.blocks)
        facts = manifest.build(run.config, run.resolved, job, prepared, run.gpu, run.environment(), run.started)
        write_json(run.folder / "manifest.json", {**facts, "no_energy": no_energy})
        write_job(job, path)
    unsteady = conditions.unsteady(telemetry.between(*prepared.get("calibrated_ns", (0, 0))))
    if unsteady:
        run.say(f"warning: {unsteady}")
    manifest.placed(run.folder / "manifest.json", run.gpu, run.started)
    manifest.attempted(run.folder / "manifest.json", run.gpu, run.started, prepared)
    manifest.warned(run.folder / "manifest.json", [*conditions.before(run.gpu), *filter(None, [unsteady])])
    return job


def _plan(run: Run, prepared: Mapping[str, Any]) -> Job:
    """The plan that the configuration gives."""
    return build_job(run.config, run.folder, prepared, int(prepared["shape"]["max_position_embeddings"]))


def _resume(run: Run, path: Path, prepared: Mapping[str, Any]) -> Job:
    """The frozen plan of an earlier attempt, at the place where the folder lies now."""
    check_same_weights(run.folder, prepared)
    job = replace(read_job(path, run.folder), checkpoint=str(prepared["checkpoint"]))
    check_same_plan(path, job, _plan(run, prepared))
    if job != read_job(path):
        write_json(path, asdict(job))
    manifest.resumed(run.folder / "manifest.json", run.started)
    return job


def _prepare(run: Run, watch: Watcher) -> dict[str, Any]:
    """Have a child make or load the checkpoint and calibrate the machine; what it found."""
    model = run.config.model
    folder = weights_folder(model)
    spec = {
        "model": {**asdict(model), "weights": model.weights if folder is None else str(folder)},
        "device": run.config.device,
        "cache": str(Path(run.config.cache).expanduser().resolve()),
        "seed": run.config.seed,
    }
    path = run.folder / "prepare.json"
    write_json(path, spec)
    log = run.folder / "prepare.log"
    watch.begin("Preparation")
    call = command(None, run.worker, "prepare", str(path))
    surroundings = {**run.environment(), **network_environment()}
    outcome = run_child(call, surroundings, log, run.config.prepare_timeout_s, watch.event, run.interrupts)
    run.interrupts.check()
    watch.end(f"{outcome.state} {outcome.reason}".strip(), counted=False)
    if outcome.state != "ok":
        mistake = bool(outcome.payload.get("users_mistake"))
        raise Stopped(f"preparation: {outcome.reason} (log: {log})", exit_code=2 if mistake else 1)
    return {**outcome.payload, "wall_s": outcome.wall_s}


def _check_model(run: Run, prepared: Mapping[str, Any]) -> None:
    """What could not be checked before the shape was known."""
    try:
        check_positions(run.config.sweep, int(prepared["shape"]["max_position_embeddings"]))
        if run.gpu is not None:
            check_card(run.gpu, prepared.get("device_uuid"))
            check_memory(run.gpu, prepared["shape"], run.config.model.dtype)
    except ValueError as error:
        raise Stopped(str(error), exit_code=2) from error


def _run_blocks(run: Run, job: Job, watch: Watcher, telemetry: Telemetry) -> None:
    """Every block that is not done, whatever became of the others. Summaries of an earlier attempt go first.

    The run's tables are made again from the blocks' before anything else: an earlier attempt may have been killed
    between the two. What the referee said of samples that are whole and stay stands.
    """
    clear(run.folder, judged=not all_done(run.folder))
    record.rebuild(job)
    for case, block in job.order:
        run.interrupts.check()
        title = f"{job.cases[case].title} {block + 1}/{job.blocks_of(case)}"
        watch.begin(title)
        row = record.read_verdict(job, case, block)
        if row is not None and attempt.is_done(job, case, block):
            watch.end(f"{row['state']} before, skipped", counted=True)
            continue
        telemetry.pause(case in run.config.telemetry.paused_in)
        verdicts = record.verdicts(job, (case, block))
        check_there(run.folder, verdicts)
        row = _absent_before(job, case, block) or _run_block(run, job, case, block, watch)
        check_there(run.folder, [*verdicts, telemetry.path])
        telemetry.check()
        record.record_block(job, row, telemetry)
        watch.end(f"{row['state']} {row['reason']}".strip(), counted=True)


def _absent_before(job: Job, case: str, block: int) -> dict[str, Any] | None:
    """The row of another block that found the case unavailable or unsupported, for this block."""
    for other in range(job.blocks_of(case)):
        row = record.read_verdict(job, case, other)
        if row is not None and row["state"] in record.NOT_HERE:
            return {**row, "block": block, "exit_code": "", "wall_s": ""}
    return None


def _run_block(run: Run, job: Job, case: str, block: int, watch: Watcher) -> dict[str, Any]:
    entry = job.cases[case]
    folder = job.block_dir(case, block)
    attempt.set_aside(folder)
    call = command(entry.python, run.worker, "block", str(run.folder / "job.json"), case, str(block), *_near(run))
    outcome = run_child(call, run.environment(), folder / "log.txt", entry.timeout_s, watch.event, run.interrupts)
    if outcome.state not in record.DONE:
        run.interrupts.check()  # what was stopped on the way is no result: it begins anew when the run goes on
    return record.verdict_row(case, block, attempt.checked(job, case, block, outcome))


def _near(run: Run) -> list[str]:
    """For a worker: the CPUs in the GPU's part of the machine, where NVML says them."""
    cpus = near_cores(run.gpu.index) if run.gpu is not None else None
    return ["--near", *map(str, sorted(cpus))] if cpus else []


def _close(run: Run, job: Job, unjudged: str) -> int:
    """Summaries and the report, which ends with its table and path; then, if anything failed, a line that says what.

    `unjudged`: why the referee failed, "" when it did not.
    """
    rows = [row for case, block in job.order if (row := record.read_verdict(job, case, block)) is not None]
    for name, row in {row["case"]: row for row in rows if row["state"] in record.NOT_HERE}.items():
        run.say(f"{row['state']}: {name}: {row['reason']}")
    try:
        make_tables(run.folder)
    except ValueError as error:
        raise Stopped(str(error)) from error
    run.console.file.flush()
    # Marked, so that it ends with a killed run, and in a group of its own: Ctrl-C is for the run, which ends it.
    call, marked = [sys.executable, "-m", "reports", str(run.folder)], {**os.environ, MARK: mark()}
    reported = subprocess.run(call, cwd=ROOT, check=False, env=marked, process_group=0)  # noqa: S603  ours
    manifest.finish(run.folder / "manifest.json")
    failures = [f"{row['case']} block {row['block']} ({row['reason']})" for row in rows if row["state"] in record.BAD]
    failures += [f"the referee ({unjudged})"] if unjudged else []
    if reported.returncode != 0:
        failures.append(f"the report ({describe_exit(reported.returncode)})")
    if failures:
        run.say(f"failed: {'; '.join(failures)}")
    wrong = unequal(run.folder / "equivalence.csv")
    if wrong:
        run.say(f"not equal to the baseline: {'; '.join(wrong)}")
    return 1 if failures else UNEQUAL if wrong else 0


def _summarise_part(run: Run) -> None:
    """The tables of an interrupted run's blocks so far, so that it can be reported as it is."""
    # Who is in a hurry may say so twice; the disk may be gone; a file may be damaged, which going on will tell.
    with suppress(KeyboardInterrupt, OSError, ValueError):
        if not (run.folder / "samples.csv").is_file():
            return
        make_tables(run.folder)
        run.say(f"what is there can be read with: python -m reports {run.folder}")
