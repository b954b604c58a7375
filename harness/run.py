"""A run from a checked configuration to its report: folder, checkpoint, one worker after the other, summaries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from harness import attempt, conditions, manifest, record
from harness.compose import ROOT
from harness.config import RunConfig
from harness.equivalence import unequal
from harness.gpu import Gpu
from harness.interrupt import Interrupts, Outlet
from harness.job import Job, read_job, write_job
from harness.launch import WORKER, child_environment, command, describe_exit, run_child
from harness.leftovers import MARK, mark
from harness.machine import check_card, check_checkpoint, check_machine, check_memory, make_folder
from harness.plan import build_job, order
from harness.progress import Watcher, watcher
from harness.summary import clear, summarise
from harness.telemetry import Telemetry
from harness.validate import check_positions, weights_folder
from harness.warden import warden

RESULTS = ROOT / "results"
UNEQUAL = 3
"""The exit code of a run in which everything ran and a case does not compute what the baseline computes."""


class Stopped(Exception):
    """No block can run; `exit_code` is 2 for a user's mistake that only the checkpoint could show, else 1."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Run:
    """One run under way. `worker` is the module that children execute, `started` when the user's command began."""

    config: RunConfig
    resolved: Mapping[str, Any]
    folder: Path
    gpu: Gpu | None
    console: Console
    started: str
    worker: str = WORKER
    interrupts: Interrupts = field(default_factory=Interrupts)

    def environment(self) -> dict[str, str]:
        """What the children of this run see."""
        return child_environment(self.config.device, None if self.gpu is None else self.gpu.index)

    def say(self, line: str) -> None:
        """Print one line as it is."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def begin(config: RunConfig, resolved: Mapping[str, Any], worker: str = WORKER) -> Run:
    """Check the machine and the output folder, then make the folder.

    Raises:
        ValueError: one sentence on what this machine or the output folder can't do; nothing was made or started.
    """
    started = manifest.now()
    check_checkpoint(config.model)
    gpu = check_machine(config)
    settings = manifest.settings(resolved)
    folder = choose_folder(config)
    check_folder(folder, settings)
    check_machine_of(folder, gpu)
    interrupts = Interrupts()
    console = Console(file=cast(IO[str], Outlet(interrupts.hang_up)))
    run = Run(config, resolved, folder, gpu, console, started, worker, interrupts)
    for line in conditions.before(gpu):
        run.say(f"warning: {line}")
    make_folder("output", folder)
    if not (folder / "settings.json").exists():
        record.write_json(folder / "settings.json", settings)
    return run


def carry_out(run: Run) -> int:
    """Prepare, measure, summarise, report; the exit code is 0 when no case failed, 1 when one did, 3 when one
    computes other than the baseline; when interrupted, 130 by SIGINT, 143 by SIGTERM, 129 by the terminal's end."""
    run.interrupts.on_heed = lambda: run.say("stopping behind the request in hand; once more stops at once")
    with run.interrupts as interrupts, warden():
        try:
            blocks = len(order(run.config))
            with interrupts.patient(), watcher(run.console, blocks) as watch, _telemetry(run) as telemetry:
                job = _freeze(run, watch, telemetry)
                _run_blocks(run, job, watch, telemetry)
            return _close(run, job)
        except KeyboardInterrupt:
            if interrupts.times < 2:
                _summarise_part(run)
            run.say(f"interrupted; go on with: python -m harness output={run.folder} and the same overrides")
            return interrupts.exit_code
        except Stopped as error:
            run.say(f"failed: {error}")
            return error.exit_code


def _telemetry(run: Run) -> Telemetry:
    """From before the first child on: who computes on the GPU then is none of this run."""
    gpu = None if run.gpu is None else run.gpu.index
    return Telemetry(run.folder / "telemetry.csv", gpu, run.config.telemetry.hz)


def choose_folder(config: RunConfig) -> Path:
    """The folder of the run: `output`, or one of its own under results/."""
    if config.output is not None:
        return Path(config.output).expanduser().resolve()
    said = f"{config.model.name}-{config.protocol.name}"
    slug = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in said)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{slug}"
    candidates = (RESULTS / (name if number == 1 else f"{name}-{number}") for number in range(1, 1000))
    return next(path for path in candidates if not path.exists())


def check_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but this very run. Raises ValueError."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output={folder} is a file: give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    stored = folder / "settings.json"
    if not stored.is_file():
        raise ValueError(f"output={folder} exists and holds no run: choose another folder")
    difference = manifest.first_difference(record.read_json(stored), settings)
    if difference:
        raise ValueError(f"output={folder} holds a run with other settings ({difference}): choose another folder")


def check_machine_of(folder: Path, gpu: Gpu | None) -> None:
    """Refuse to go on with a run that another GPU, driver or code began. Raises ValueError with the difference."""
    path = folder / "manifest.json"
    difference = manifest.unlike_machine(record.read_json(path), gpu) if path.is_file() else ""
    if difference:
        raise ValueError(f"output={folder} holds a run of another machine ({difference}): choose another folder")


def _freeze(run: Run, watch: Watcher, telemetry: Telemetry) -> Job:
    """Prepare, then write job.json and manifest.json; a resumed run keeps those it has."""
    path = run.folder / "job.json"
    prepared = _prepare(run, watch)
    _check_model(run, prepared)
    if path.exists():
        job = _resume(run, path, prepared)
    else:
        job = build_job(run.config, run.folder, prepared, int(prepared["shape"]["max_position_embeddings"]))
        no_energy = conditions.why_no_energy(run.config, run.gpu)
        energy = run.config.energy
        job = replace(job, energy_s=0.0 if no_energy else energy.seconds, energy_blocks=energy.blocks)
        facts = manifest.build(run.config, run.resolved, job, prepared, run.gpu, run.environment(), run.started)
        record.write_json(run.folder / "manifest.json", {**facts, "no_energy": no_energy})
        write_job(job, path)
    unsteady = conditions.unsteady(telemetry.between(*prepared.get("calibrated_ns", (0, 0))))
    if unsteady:
        run.say(f"warning: {unsteady}")
    manifest.placed(run.folder / "manifest.json", run.gpu, run.started)
    manifest.warned(run.folder / "manifest.json", [*conditions.before(run.gpu), *filter(None, [unsteady])])
    return job


def _resume(run: Run, path: Path, prepared: Mapping[str, Any]) -> Job:
    """The frozen plan of an earlier attempt, at the place where the folder lies now."""
    _check_same_weights(run.folder, prepared)
    stored = read_job(path)
    job = replace(stored, run_dir=str(run.folder), checkpoint=str(prepared["checkpoint"]))
    if job != stored:
        record.write_json(path, asdict(job))
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
    record.write_json(path, spec)
    log = run.folder / "prepare.log"
    watch.begin("Preparation")
    call = command(None, run.worker, "prepare", str(path))
    outcome = run_child(call, run.environment(), log, run.config.prepare_timeout_s, watch.event, run.interrupts)
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


def _check_same_weights(folder: Path, prepared: Mapping[str, Any]) -> None:
    """Refuse to go on with other weights, or with other versions of what computes."""
    stored = record.read_json(folder / "manifest.json")
    digest = stored["model"]["digest"]
    if digest != prepared.get("digest"):
        raise Stopped(f"the run in {folder} measured other weights (digest {digest}): choose another output", 2)
    difference = manifest.first_difference({"versions": stored["versions"]}, {"versions": prepared.get("versions", {})})
    if difference:
        raise Stopped(f"the run in {folder} was begun with other software ({difference}): choose another output", 2)


def _run_blocks(run: Run, job: Job, watch: Watcher, telemetry: Telemetry) -> None:
    """Every block that is not done, whatever became of the others. Summaries of an earlier attempt go first."""
    clear(run.folder)
    for case, block in job.order:
        run.interrupts.check()
        title = f"{job.cases[case].title} {block + 1}/{job.blocks_of(case)}"
        watch.begin(title)
        row = record.read_verdict(job, case, block)
        if row is not None and row["state"] in record.DONE:
            watch.end(f"{row['state']} before, skipped", counted=True)
            continue
        telemetry.pause(case in run.config.telemetry.paused_in)
        row = _absent_before(job, case, block) or _run_block(run, job, case, block, watch)
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
    call = command(entry.python, run.worker, "block", str(run.folder / "job.json"), case, str(block))
    outcome = run_child(call, run.environment(), folder / "log.txt", entry.timeout_s, watch.event, run.interrupts)
    if outcome.state not in record.DONE:
        run.interrupts.check()  # what was stopped on the way is no result: it begins anew when the run goes on
    return record.verdict_row(case, block, attempt.checked(job, case, block, outcome))


def _close(run: Run, job: Job) -> int:
    """Summaries and the report, which ends with its table and path; then, if anything failed, a line that says what."""
    rows = [row for case, block in job.order if (row := record.read_verdict(job, case, block)) is not None]
    for name, row in {row["case"]: row for row in rows if row["state"] in record.NOT_HERE}.items():
        run.say(f"{row['state']}: {name}: {row['reason']}")
    summarise(run.folder)
    run.console.file.flush()
    # Marked, so that it ends with a killed run, and in a group of its own: Ctrl-C is for the run, which ends it.
    call, marked = [sys.executable, "-m", "reports", str(run.folder)], {**os.environ, MARK: mark()}
    reported = subprocess.run(call, cwd=ROOT, check=False, env=marked, process_group=0)  # noqa: S603  ours
    manifest.finish(run.folder / "manifest.json")
    failures = [f"{row['case']} block {row['block']} ({row['reason']})" for row in rows if row["state"] in record.BAD]
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
    with suppress(KeyboardInterrupt):  # who is in a hurry may say so twice
        if not (run.folder / "samples.csv").is_file():
            return
        summarise(run.folder)
        run.say(f"what is there can be read with: python -m reports {run.folder}")
